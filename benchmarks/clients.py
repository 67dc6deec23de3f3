"""Every client of one service, and the libraries that a program would use instead."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import numpy.typing as npt
import requests
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from benchmarks.driver import PATH
from diagonalflip import AsyncClient, Client
from diagonalflip.wire import MODEL, OCTETS, pack, to_pixels, with_padding

SINGLES, CALLS, THREADS = 300, 5_000, 4
CALLERS, CALLS_OF_EACH = 32, 30
JOB_IMAGES, CHUNK_IMAGES = 1 << 24, 131_072
APART = "Client, join_calls=False"
HTTP_CLIENT = "http.client, 4 threads, kept memory"

Rows = npt.NDArray[np.float32]
Ask = Callable[[], Rows]  # asks for everything once; returns the predictions in their order
Predict = Callable[[list[int]], Any]  # predicts one image, as rows or as bytes

RANDOM = np.random.default_rng(0)
IMAGES = [[int(number)] for number in RANDOM.integers(0, 16, CALLS)]
JOB = bytes(pack(RANDOM.integers(0, 16, JOB_IMAGES)).packed)
HEADERS = {"Content-Type": with_padding(OCTETS, 1)}


@contextlib.contextmanager
def ways(url: str) -> Iterator[dict[tuple[str, str], Ask]]:
    """Give all ways to ask a service, by the work and the client."""
    host = urlsplit(url).netloc
    kept, other = (np.empty((JOB_IMAGES, 4), np.float32) for _ in range(2))
    with asyncio.Runner() as runner, contextlib.ExitStack() as opened:

        def open_async(client: Any) -> Any:
            opened.callback(lambda: runner.run(client.close()))
            return client

        async def open_aiohttp() -> aiohttp.ClientSession:
            return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=32))

        client = opened.enter_context(Client(url))
        apart = opened.enter_context(Client(url, join_calls=False))
        session = opened.enter_context(requests.Session())
        connection = opened.enter_context(contextlib.closing(http.client.HTTPConnection(host)))
        triton = opened.enter_context(contextlib.closing(InferenceServerClient(host)))
        async_client = open_async(AsyncClient(url))
        async_apart = open_async(AsyncClient(url, join_calls=False))
        aiohttp_session = open_async(runner.run(open_aiohttp()))

        def by_http(image: list[int]) -> bytes:
            connection.request("POST", PATH, bytes([image[0] << 4]), HEADERS)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise RuntimeError(f"status {answer.status}")
            return answer.read()

        def in_turn_by_http() -> Rows:
            connection.close()  # the service may have closed it while others were asked
            return _in_turn(by_http)

        async def by_aiohttp(image: list[int]) -> bytes:
            body = bytes([image[0] << 4])
            async with aiohttp_session.post(url + PATH, data=body, headers=HEADERS) as answer:
                answer.raise_for_status()
                return bytes(await answer.read())

        async def in_turn(predict: Callable[[list[int]], Awaitable[Any]]) -> Rows:
            return _rows([await predict(image) for image in IMAGES[:SINGLES]])

        async def at_once(predict: Callable[[list[int]], Awaitable[Any]]) -> Rows:
            return _rows(await asyncio.gather(*map(predict, IMAGES)))

        yield {
            ("single", "Client"): lambda: _in_turn(client.predict),
            ("single", "requests.Session"): lambda: _in_turn(_by_requests(session, url)),
            ("single", "http.client"): in_turn_by_http,
            ("single", "tritonclient, binary"): lambda: _in_turn(partial(_triton, triton)),
            ("single", "AsyncClient"): lambda: runner.run(in_turn(async_client.predict)),
            ("single", "aiohttp"): lambda: runner.run(in_turn(by_aiohttp)),
            ("job", "Client, out="): lambda: client.predict_packed(JOB, out=kept),
            ("job", "Client"): lambda: client.predict_packed(JOB),
            ("job", "AsyncClient"): lambda: runner.run(async_client.predict_packed(JOB)),
            ("job", HTTP_CLIENT): lambda: _job_by_http(host, other),
            ("threads", "Client"): lambda: _by_threads(lambda: client.predict),
            ("threads", APART): lambda: _by_threads(lambda: apart.predict),
            ("threads", "requests, a session each"): lambda: _by_threads(
                lambda: _by_requests(requests.Session(), url)
            ),
            ("calls", "AsyncClient"): lambda: runner.run(at_once(async_client.predict)),
            ("calls", f"Async{APART}"): lambda: runner.run(at_once(async_apart.predict)),
            ("calls", "aiohttp"): lambda: runner.run(at_once(by_aiohttp)),
        }


def _in_turn(predict: Predict) -> Rows:
    return _rows([predict(image) for image in IMAGES[:SINGLES]])


def _by_requests(session: requests.Session, url: str) -> Predict:
    def one(image: list[int]) -> bytes:
        answer = session.post(url + PATH, bytes([image[0] << 4]), headers=HEADERS)
        answer.raise_for_status()
        return answer.content

    return one


def _triton(client: InferenceServerClient, image: list[int]) -> Rows:
    tensor = InferInput("pixels", [1, 4], "UINT8")
    tensor.set_data_from_numpy(to_pixels(image).reshape(1, 4))
    wanted = InferRequestedOutput("prediction", binary_data=True)
    rows: Rows = client.infer(MODEL, [tensor], outputs=[wanted]).as_numpy("prediction")
    return rows


def _job_by_http(host: str, memory: Rows) -> Rows:
    """Ask for the whole job by threads, each on a connection of its own."""

    def work(first: int) -> None:
        connection = http.client.HTTPConnection(host)
        for start in range(first, JOB_IMAGES, THREADS * CHUNK_IMAGES):
            body = JOB[start // 2 : (start + CHUNK_IMAGES) // 2]
            connection.request("POST", PATH, body, {"Content-Type": OCTETS})
            answer = connection.getresponse()
            into = memory[start : start + CHUNK_IMAGES].data.cast("B")
            if answer.status != http.client.OK or answer.length != len(into):
                raise RuntimeError(f"status {answer.status}, {answer.length} bytes")
            done = 0
            while done < len(into):
                done += answer.readinto(into[done:])
        connection.close()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(0, THREADS * CHUNK_IMAGES, CHUNK_IMAGES)))
    return memory


def _by_threads(begin: Callable[[], Predict]) -> Rows:
    """Ask for every image by many threads; ``begin`` gives each what asks for one."""

    def work(number: int) -> Rows:
        predict = begin()
        return _rows([predict([(number + n) % 16]) for n in range(CALLS_OF_EACH)])

    with ThreadPoolExecutor(CALLERS) as pool:
        return np.concatenate(list(pool.map(work, range(CALLERS))))


def _rows(answers: list[Any]) -> Rows:
    """Join answers, as rows or as bytes."""
    if isinstance(answers[0], bytes):
        return np.frombuffer(b"".join(answers), "<f4").reshape(-1, 4)
    return np.concatenate(answers)
