"""Clients used after a fork, or in a second event loop, answer for themselves alone."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import execute
from tests.faults.fake_server import FakeServer, listening

pytestmark = pytest.mark.slow

FORKED = """
import asyncio, os, sys
from diagonalflip import AsyncClient, Client
from tests.faults.fake_server import TABLE

url, kind = sys.argv[1:]

async def ask(client, number):
    return await client.predict([number])

client = Client(url) if kind == "Client" else AsyncClient(url)
loop = asyncio.new_event_loop()

def predict(number):
    if kind == "Client":
        return client.predict([number])
    return loop.run_until_complete(ask(client, number))

assert (predict(15) == TABLE[15]).all()  # the connection that both would have
child = os.fork()
if child == 0:
    loop = asyncio.new_event_loop()
number = 3 if child else 5
wrong = sum(not (predict(number) == TABLE[number]).all() for _ in range(300))
if child == 0:
    os._exit(wrong > 0)
_, status = os.waitpid(child, 0)
sys.exit(wrong > 0 or status != 0)
"""

TWO_LOOPS = """
import asyncio, sys
from diagonalflip import AsyncClient
from tests.faults.fake_server import TABLE

client = AsyncClient(sys.argv[1])

async def ask(number):
    assert (await client.predict([number]) == TABLE[number]).all()

async def end():
    await ask(4)
    await client.close()

for number in (1, 2, 3):
    asyncio.run(ask(number))
asyncio.run(end())
"""


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_parent_and_child_never_see_each_others_answers(kind: str) -> None:
    with listening(FakeServer().serve) as url:
        finished = execute(sys.executable, "-c", FORKED, url, kind)
    assert finished.returncode == 0, finished.stderr


def test_a_client_may_be_used_in_several_event_loops() -> None:
    with listening(FakeServer().serve) as url:
        finished = execute(sys.executable, "-c", TWO_LOOPS, url)
    assert finished.returncode == 0, finished.stderr
    assert "Unclosed" not in finished.stderr
