"""Clients used after a fork, or in a second event loop, answer for themselves alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest

from diagonalflip.wire import Images, unpack
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

CALLS = 300

FORKED = """
import asyncio, os, sys
import numpy as np
from diagonalflip import Client
from diagonalflip.client.aio import AsyncClient

url, kind, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])

async def ask(client, number):
    return await client.predict([number])

client = Client(url) if kind == "Client" else AsyncClient(url)
loop = asyncio.new_event_loop()

def predict(number):
    if kind == "Client":
        return client.predict([number])
    return loop.run_until_complete(ask(client, number))

assert predict(15)[0, 0] == 15  # the connection that both would have
child = os.fork()
if child == 0:
    loop = asyncio.new_event_loop()
number = 3 if child else 5
wrong = sum(int(predict(number)[0, 0]) != number for _ in range(calls))
if child == 0:
    os._exit(wrong > 0)
_, status = os.waitpid(child, 0)
sys.exit(wrong > 0 or status != 0)
"""

TWO_LOOPS = """
import asyncio, sys
from diagonalflip.client.aio import AsyncClient

client = AsyncClient(sys.argv[1])

async def ask(number):
    assert (await client.predict([number]))[0, 0] == number

async def end():
    await ask(4)
    await client.close()

for number in (1, 2, 3):
    asyncio.run(ask(number))
asyncio.run(end())
"""


class Numbers(BaseHTTPRequestHandler):
    """Predicts an image's number, four times."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        count = 2 * len(body) - ("padding=4" in self.headers["Content-Type"])
        numbers = unpack(Images(body, count))
        answer = np.repeat(numbers, 4).astype("<f4").tobytes()
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Numbers) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_parent_and_child_never_see_each_others_answers(kind: str) -> None:
    with serving() as url:
        finished = run(FORKED, url, kind, str(CALLS))
    assert finished.returncode == 0, finished.stderr


def test_a_client_may_be_used_in_several_event_loops() -> None:
    with serving() as url:
        finished = run(TWO_LOOPS, url)
    assert finished.returncode == 0, finished.stderr
    assert "Unclosed" not in finished.stderr
