"""The control channel: whole messages in order, and the end of whoever is at the other end."""

from __future__ import annotations

import socket

import pytest

from diagonalflip.server.worker.channel import UNREAD_BYTES, Channel
from tests.conftest import asynchronous


@asynchronous
async def test_messages_come_whole_and_in_order_until_the_channel_is_closed() -> None:
    ours, theirs = [await Channel.open(each) for each in socket.socketpair()]
    large = "a\n\u00e4" * (1 << 20)
    ours.send("prepare", {"large": large}, number=7)
    ours.send("drain")
    ours.close()
    first = {"message": "prepare", "number": 7, "content": {"large": large}}
    assert await theirs.receive() == first
    assert await theirs.receive() == {"message": "drain", "number": 0, "content": None}
    assert [await theirs.receive() for _ in range(2)] == [None, None]
    theirs.close()


@pytest.mark.parametrize("said", [b"", b'{"message": "check"'])
@asynchronous
async def test_a_process_that_ends_in_a_message_has_ended(said: bytes) -> None:
    ours, theirs = socket.socketpair()
    channel = await Channel.open(ours)
    with theirs:
        theirs.sendall(said)
    assert await channel.receive() is None
    channel.close()


@asynchronous
async def test_what_repeats_is_left_out_while_nobody_reads_and_all_else_is_not() -> None:
    ours, theirs = [await Channel.open(each) for each in socket.socketpair()]
    for _ in range(100):
        ours.offer("status", "x" * (UNREAD_BYTES // 10))
    ours.send("drain")
    seen = []
    while "drain" not in seen:
        message = await theirs.receive()
        assert message is not None
        seen.append(message["message"])
    assert 10 <= seen.count("status") < 40
    for each in (ours, theirs):
        each.close()
