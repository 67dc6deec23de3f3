"""Measures the client's overhead in bulk against a bare loop of ``requests.post``.

    python -m benchmarks.client_overhead [URL] [--images N] [--rounds N]

Both send the same bytes in the same chunks with as many threads, in turn, to the same
server; every answer is compared. Without a URL the server is a table in another process,
which costs as little as a server can and so makes the client look worst.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection

import numpy as np
import numpy.typing as npt
import requests

from diagonalflip import Client
from diagonalflip.wire import OCTETS, Images, pack, unpack

THREADS = 4
CHUNK_IMAGES = 65536
LIMIT = 1.3
"""Times the bare loop that the client may take."""

TABLE = np.random.default_rng(7).normal(size=(16, 4)).astype("<f4")


class _TableHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        count = 2 * len(body) - ("padding=4" in self.headers["Content-Type"])
        answer = TABLE[unpack(Images(body, count))].tobytes()
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _serve_table(port: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _TableHandler)
    port.send(server.server_address[1])
    server.serve_forever()


@contextmanager
def table_server() -> Iterator[str]:
    """URL of a server that looks predictions up, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_serve_table, args=(sending,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{receiving.recv()}"
    finally:
        process.terminate()
        process.join()
        receiving.close()
        sending.close()


def bare_loop(url: str, packed: bytes) -> npt.NDArray[np.float32]:
    """Predictions, ``float32[n, 4]``, by ``requests.post`` and nothing else."""

    def post(start: int) -> bytes:
        response = requests.post(
            f"{url}/predictions/diagonal_flip",
            data=packed[start : start + CHUNK_IMAGES // 2],
            headers={"Content-Type": OCTETS},
            timeout=60,
            proxies={"no_proxy": "*"},
        )
        response.raise_for_status()
        return response.content

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(post, range(0, len(packed), CHUNK_IMAGES // 2)))
    return np.frombuffer(b"".join(answers), dtype="<f4").reshape(-1, 4)


def measure(url: str, images: int, rounds: int) -> float:
    """Median over rounds of the client's time as a multiple of the bare loop's; prints all."""
    numbers = np.random.default_rng(0).integers(0, 16, images - images % 2)
    packed = bytes(pack(numbers).packed)
    ratios = []
    with Client(url, connections=THREADS, images_per_request=CHUNK_IMAGES) as client:
        expected = client.predict(range(16))[numbers]
        contenders = {
            "client": lambda: client.predict_packed(packed),
            "bare": lambda: bare_loop(url, packed),
        }
        for turn in range(rounds):
            times = {}
            for name in sorted(contenders, reverse=bool(turn % 2)):
                started = time.perf_counter()
                answer = contenders[name]()
                times[name] = time.perf_counter() - started
                if not np.array_equal(answer, expected):
                    raise SystemExit(f"{name}: wrong answer")
            ratios.append(times["client"] / times["bare"])
            cost = {name: f"{1e9 * taken / len(numbers):.1f}" for name, taken in times.items()}
            print(f"ns an image: client {cost['client']}, bare {cost['bare']}")
    return statistics.median(ratios)


def main() -> int:
    """Prints the ratio; 1 if it is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", help="http://host:port of a running server")
    parser.add_argument("--images", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with nullcontext(options.url) if options.url else table_server() as url:
        ratio = measure(url, options.images, options.rounds)
    print(f"client / bare requests.post loop: {ratio:.2f} (limit {LIMIT})")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
