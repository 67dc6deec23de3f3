"""What a program in Python gets: our clients beside the libraries that it would use instead.

    python -m benchmarks.client [--rounds N] [--save]

One service with two workers; each round asks it by every client, in a turning order, on the same
cores. Every answer is compared. Machines are shared: believe the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import http.client
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import numpy.typing as npt
import requests
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from benchmarks import machine
from benchmarks.measures import spread, table
from benchmarks.running import ours, wait_until
from diagonalflip import AsyncClient, Client
from diagonalflip.wire import MODEL, OCTETS, TOLERANCE, pack, to_pixels, with_padding

SINGLES, CALLS, THREADS = 300, 5_000, 4
JOB_IMAGES, CHUNK_IMAGES = 1 << 24, 131_072
PATH = f"/predictions/{MODEL}"

Rows = npt.NDArray[np.float32]


Ask = Callable[[], Rows]
"""Asks for everything once; returns the predictions in their order."""

WORK = {
    "single": (f"one image after another, {SINGLES} times", SINGLES),
    "job": (f"{JOB_IMAGES >> 20} Mi images as one job", JOB_IMAGES),
    "calls": (f"{CALLS:,} single images at once", CALLS),
}


HTTP_CLIENT = "http.client, 4 threads, kept memory"
GOALS = {
    ("single", "Client"): ("requests.Session", 1 / 0.62),
    ("single", "AsyncClient"): ("aiohttp", 1 / 1.25),
    ("job", "Client, out="): (HTTP_CLIENT, 0.75),
    ("job", "Client"): (HTTP_CLIENT, None),
    ("job", "AsyncClient"): ("Client", 0.75),
    ("calls", "AsyncClient"): ("aiohttp", 10.0),
    ("calls", "AsyncClient, join_calls=False"): ("aiohttp", None),
}
"""Whose rate a client's is compared with, and the least ratio that is wanted."""


class Asked:
    """All clients of one service.

    Args:
        url: Of the service.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        random = np.random.default_rng(0)
        self.numbers = random.integers(0, 16, CALLS)
        self.images = [[int(number)] for number in self.numbers]
        self.packed = bytes(pack(random.integers(0, 16, JOB_IMAGES)).packed)
        self.kept = np.empty((JOB_IMAGES, 4), np.float32)
        self.other = np.empty((JOB_IMAGES, 4), np.float32)
        self.single = with_padding(OCTETS, 1)
        self.client, self.session = Client(url), requests.Session()
        self.loop = asyncio.new_event_loop()
        self.asynchronous = AsyncClient(url)
        self.apart = AsyncClient(url, join_calls=False)
        self.aiohttp = self.loop.run_until_complete(self._session())
        self.http = http.client.HTTPConnection(urlsplit(url).netloc)
        self.triton = InferenceServerClient(urlsplit(url).netloc)

    async def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=32))

    def close(self) -> None:
        """Close every client."""
        for each in (self.client, self.session, self.http, self.triton):
            each.close()
        for each in (self.asynchronous, self.apart, self.aiohttp):
            self.loop.run_until_complete(each.close())
        self.loop.close()

    def ways(self) -> list[tuple[str, str, Ask]]:
        """All ways to ask: the work, the client, and what does it."""
        return [
            ("single", "Client", self._client),
            ("single", "requests.Session", self._requests),
            ("single", "http.client", self._http),
            ("single", "tritonclient, binary", self._triton),
            ("single", "AsyncClient", self._async),
            ("single", "aiohttp", self._aiohttp),
            ("job", "Client, out=", self._job_out),
            ("job", "Client", self._job),
            ("job", "AsyncClient", self._async_job),
            ("job", HTTP_CLIENT, self._http_job),
            ("job", "requests, 4 threads", self._requests_job),
            ("calls", "AsyncClient", self._calls),
            ("calls", "AsyncClient, join_calls=False", self._apart),
            ("calls", "aiohttp", self._aiohttp_calls),
        ]

    def _client(self) -> Rows:
        return np.concatenate([self.client.predict(image) for image in self.images[:SINGLES]])

    def _requests(self) -> Rows:
        def one(number: int) -> bytes:
            headers = {"Content-Type": self.single}
            answer = self.session.post(self.url + PATH, bytes([number << 4]), headers=headers)
            answer.raise_for_status()
            return answer.content

        return _rows(one(int(number)) for number in self.numbers[:SINGLES])

    def _http(self) -> Rows:
        def one(number: int) -> bytes:
            headers = {"Content-Type": self.single}
            self.http.request("POST", PATH, bytes([number << 4]), headers)
            answer = self.http.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"status {answer.status}")
            return answer.read()

        return _rows(one(int(number)) for number in self.numbers[:SINGLES])

    def _triton(self) -> Rows:
        def one(number: int) -> Rows:
            tensor = InferInput("pixels", [1, 4], "UINT8")
            tensor.set_data_from_numpy(to_pixels([number]).reshape(1, 4))
            wanted = InferRequestedOutput("prediction", binary_data=True)
            answer = self.triton.infer(MODEL, [tensor], outputs=[wanted])
            found: Rows = answer.as_numpy("prediction")
            return found

        return np.concatenate([one(int(number)) for number in self.numbers[:SINGLES]])

    def _async(self) -> Rows:
        async def all_of_them() -> Rows:
            answers = [await self.asynchronous.predict(image) for image in self.images[:SINGLES]]
            return np.concatenate(answers)

        return self.loop.run_until_complete(all_of_them())

    async def _post(self, number: int) -> bytes:
        body, headers = bytes([number << 4]), {"Content-Type": self.single}
        async with self.aiohttp.post(self.url + PATH, data=body, headers=headers) as answer:
            answer.raise_for_status()
            return await answer.read()

    def _aiohttp(self) -> Rows:
        async def all_of_them() -> list[bytes]:
            return [await self._post(int(number)) for number in self.numbers[:SINGLES]]

        return _rows(self.loop.run_until_complete(all_of_them()))

    def _job(self) -> Rows:
        return self.client.predict_packed(self.packed)

    def _job_out(self) -> Rows:
        return self.client.predict_packed(self.packed, out=self.kept)

    def _async_job(self) -> Rows:
        return self.loop.run_until_complete(self.asynchronous.predict_packed(self.packed))

    def _http_job(self) -> Rows:
        def work(first: int) -> None:
            connection = http.client.HTTPConnection(urlsplit(self.url).netloc)
            for start in range(first, JOB_IMAGES, THREADS * CHUNK_IMAGES):
                body = self.packed[start // 2 : (start + CHUNK_IMAGES) // 2]
                connection.request("POST", PATH, body, {"Content-Type": OCTETS})
                answer = connection.getresponse()
                into = self.other[start : start + CHUNK_IMAGES].data.cast("B")
                if answer.status != 200 or answer.length != len(into):
                    raise RuntimeError(f"status {answer.status}, {answer.length} bytes")
                done = 0
                while done < len(into):
                    done += answer.readinto(into[done:])
            connection.close()

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(0, THREADS * CHUNK_IMAGES, CHUNK_IMAGES)))
        return self.other

    def _requests_job(self) -> Rows:
        def work(start: int) -> bytes:
            body = self.packed[start // 2 : (start + CHUNK_IMAGES) // 2]
            headers = {"Content-Type": OCTETS}
            answer = requests.post(self.url + PATH, body, headers=headers, timeout=60)
            answer.raise_for_status()
            return answer.content

        with ThreadPoolExecutor(THREADS) as pool:
            return _rows(pool.map(work, range(0, JOB_IMAGES, CHUNK_IMAGES)))

    def _calls(self) -> Rows:
        return self._gather(self.asynchronous)

    def _apart(self) -> Rows:
        return self._gather(self.apart)

    def _gather(self, client: AsyncClient) -> Rows:
        async def all_of_them() -> Rows:
            return np.concatenate(await asyncio.gather(*map(client.predict, self.images)))

        return self.loop.run_until_complete(all_of_them())

    def _aiohttp_calls(self) -> Rows:
        async def all_of_them() -> list[bytes]:
            return await asyncio.gather(*(self._post(int(number)) for number in self.numbers))

        return _rows(self.loop.run_until_complete(all_of_them()))


def _rows(answers: Any) -> Rows:
    return np.frombuffer(b"".join(answers), "<f4").reshape(-1, 4)


Found = dict[str, dict[str, list[float]]]
"""Images per second of each round, by work and client."""


def measure(url: str, rounds: int) -> Found:
    """Ask a service by every client, in turn.

    Raises:
        RuntimeError: Two clients got different predictions.
    """
    asked, expected = Asked(url), dict[str, Rows]()
    found: Found = {name: {} for name in WORK}
    try:
        ways = asked.ways()
        for turn in range(-1, rounds):  # the first one warms up
            shift = turn % len(ways)
            for work, title, ask in ways[shift:] + ways[:shift]:
                gc.collect()  # what the one before has left is not this one's to clear up
                started = time.perf_counter()
                answer = ask()
                seconds = time.perf_counter() - started
                if work not in expected:
                    expected[work] = answer.copy()
                if not np.allclose(answer, expected[work], rtol=0, atol=2 * TOLERANCE):
                    raise RuntimeError(f"{work}: {title} got other predictions")
                if turn >= 0:
                    found[work].setdefault(title, []).append(WORK[work][1] / seconds)
    finally:
        asked.close()
    return found


def ratios(found: Found, work: str, title: str) -> list[float]:
    """Return a client's rates over those of what it is compared with, by round."""
    against, _ = GOALS[work, title]
    return [a / b for a, b in zip(found[work][title], found[work][against], strict=True)]


def markdown(found: Found) -> str:
    """Return a table for each kind of work."""
    parts = []
    for work, (what, _) in WORK.items():
        rows: list[list[Any]] = []
        for title in sorted(found[work], key=lambda name: -statistics.median(found[work][name])):
            against, least = GOALS.get((work, title), (None, None))
            compared = spread(ratios(found, work, title)) if against else None
            goal = f"≥ {least:.2f}" if least else None
            rows.append([title, spread(found[work][title]), compared, against, goal])
        heads = ["client", "images/s", "ratio", "to", "goal"]
        parts.append(f"## {what[0].upper()}{what[1:]}\n\n{table(heads, rows)}")
    return "\n\n".join(parts)


def main() -> int:
    """Run the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", action="store_true", help="write results/client.md")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as scratch,
        ours(Path(scratch), "PORT", WORKERS="2", TORCHSERVE="0") as server,
    ):
        wait_until(server.serves, server)
        found = measure(f"http://127.0.0.1:{server.port}", options.rounds)
    print(markdown(found))
    if options.save:
        told = (
            "Two workers and the clients on the same cores; medians of the rounds (least to most)."
        )
        page = Path(__file__).with_name("results") / "client.md"
        machine.save(page, "Clients", f"{told}\n\n{markdown(found)}")
    missed = [
        f"{work}: {title} {statistics.median(ratios(found, work, title)):.2f}, wanted {least:.2f}"
        for (work, title), (_, least) in GOALS.items()
        if least and statistics.median(ratios(found, work, title)) < least
    ]
    print("\n".join(missed), file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
