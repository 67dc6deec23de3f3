"""Every client of one service, and the libraries that a program would use instead."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import numpy.typing as npt
import requests
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from diagonalflip import AsyncClient, Client
from diagonalflip.wire import MODEL, OCTETS, pack, to_pixels, with_padding

SINGLES, CALLS, THREADS = 300, 5_000, 4
CALLERS, CALLS_OF_EACH = 32, 30
JOB_IMAGES, CHUNK_IMAGES = 1 << 24, 131_072
PATH = f"/predictions/{MODEL}"

APART = "Client, join_calls=False"
HTTP_CLIENT = "http.client, 4 threads, kept memory"

Rows = npt.NDArray[np.float32]


Ask = Callable[[], Rows]
"""Asks for everything once; returns the predictions in their order."""

Predict = Callable[[list[int]], Rows]


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
        self.alone = Client(url, join_calls=False)
        self.asynchronous = AsyncClient(url)
        self.apart = AsyncClient(url, join_calls=False)
        self.aiohttp = self.loop.run_until_complete(self._session())
        self.http = http.client.HTTPConnection(urlsplit(url).netloc)
        self.triton = InferenceServerClient(urlsplit(url).netloc)

    async def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=32))

    def close(self) -> None:
        """Close every client."""
        for each in (self.client, self.alone, self.session, self.http, self.triton):
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
            ("threads", "Client", lambda: _by_threads(lambda: self.client.predict)),
            (
                "threads",
                APART,
                lambda: _by_threads(lambda: self.alone.predict),
            ),
            ("threads", "requests, a session each", lambda: _by_threads(self._requests_alone)),
            ("calls", "AsyncClient", self._calls),
            ("calls", f"Async{APART}", self._apart),
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

        self.http.close()  # the service may have closed it while others were asked
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

    def _requests_alone(self) -> Predict:
        session = requests.Session()

        def one(image: list[int]) -> Rows:
            headers = {"Content-Type": self.single}
            answer = session.post(self.url + PATH, bytes([image[0] << 4]), headers=headers)
            answer.raise_for_status()
            return _rows([answer.content])

        return one

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


def _by_threads(begin: Callable[[], Predict]) -> Rows:
    """Ask for every image by many threads; ``begin`` gives each what asks for one."""

    def work(number: int) -> Rows:
        predict = begin()
        return np.concatenate([predict([(number + n) % 16]) for n in range(CALLS_OF_EACH)])

    with ThreadPoolExecutor(CALLERS) as pool:
        return np.concatenate(list(pool.map(work, range(CALLERS))))


def _rows(answers: Any) -> Rows:
    return np.frombuffer(b"".join(answers), "<f4").reshape(-1, 4)
