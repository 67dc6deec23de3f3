"""Faults on the way: each gives a correct answer or the documented error, within the deadline."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import urllib3.util.connection

from diagonalflip import Client, ServerInfo, errors
from diagonalflip.errors import DiagonalFlipError
from tests.faults import faulty_server as faults
from tests.faults.conftest import Call, call_sync, within
from tests.faults.fake_server import DESCRIPTION, TABLE, listening
from tests.faults.faulty_server import Fault, faulty, instead

NUMBERS = np.arange(15)
DEADLINE_S = 1.0
SLACK_S = 2.0
"""A loaded machine may be that late; without a deadline these tests would take minutes."""

OCTETS = {"Content-Type": "application/octet-stream"}
DIED = b'{"code": 500, "type": "InternalServerException", "message": "Worker died."}'
BROKEN = b'{"code": 500, "type": "InternalServerException", "message": "Mismatched."}'
OURS = b'{"code": "internal_error", "got": "a", "expected": "b", "action": "c"}'
GATEWAYS = (408, 502, 504, *range(520, 525))
PASSES = {
    "reset before the request": faults.reset_before_request,
    "reset after the request": faults.reset_after_request,
    "half an answer": faults.half_an_answer,
    "half a header": faults.half_a_header,
    "half a rejection": instead(404, {}, end=20),
    "503": instead(503, {}),
    "503 with Retry-After": instead(503, {"Retry-After": "0"}),
    "429": instead(429, {"Retry-After": "0"}),
    "worker died": instead(500, {}, DIED),
    "worker killed": instead(507, {}, DIED),
    "our own 500": instead(500, {"Content-Type": "application/problem+json"}, OURS),
    **{f"status {status}": instead(status, {}, b"<html>") for status in GATEWAYS},
}
NO_TIME = errors.DeadlineExceeded
ENDS: dict[str, tuple[Fault, type[DiagonalFlipError]]] = {
    "reset before the request": (faults.reset_before_request, errors.ConnectionFailed),
    "reset after the request": (faults.reset_after_request, errors.ConnectionFailed),
    "half an answer": (faults.half_an_answer, errors.ConnectionFailed),
    "half a header": (faults.half_a_header, errors.ConnectionFailed),
    "no header": (faults.no_header, errors.ConnectionFailed),
    "stall": (faults.stall, NO_TIME),
    "stall in the header": (faults.stall_in_header, NO_TIME),
    "stall in the body": (faults.stall_in_body, NO_TIME),
    "drip": (faults.drip, NO_TIME),
    "drip of the body": (faults.drip_body, NO_TIME),
    "503": (instead(503, {}), errors.ServerOverloaded),
    "worker died": (instead(500, {}, DIED), errors.InternalError),
}
AT_ONCE: dict[str, tuple[Fault, type[DiagonalFlipError]]] = {
    "503, come back later": (instead(503, {"Retry-After": "60"}), errors.ServerOverloaded),
    "content type": (instead(200, {"Content-Type": "text/html"}, b"hi"), errors.InvalidAnswer),
    "no content type": (instead(200, {}, bytes(240)), errors.InvalidAnswer),
    "short body": (instead(200, OCTETS, bytes(239)), errors.InvalidAnswer),
    "long body": (instead(200, OCTETS, bytes(241)), errors.InvalidAnswer),
    "empty body": (instead(200, OCTETS), errors.InvalidAnswer),
    "count": (instead(200, OCTETS | {"Flip-Images": "14"}, bytes(240)), errors.InvalidAnswer),
    "wire": (instead(200, OCTETS | {"Flip-Wire-Version": "2"}, bytes(240)), errors.InvalidAnswer),
    "gzip": (instead(200, OCTETS | {"Content-Encoding": "gzip"}, bytes(240)), errors.InvalidAnswer),
    "redirect": (instead(302, {"Location": "/"}), errors.InvalidAnswer),
    "another 500": (instead(500, {}, BROKEN), errors.InvalidAnswer),
    "400 that says internal_error": (instead(400, {}, OURS), errors.InvalidAnswer),
    "401": (instead(401, {}), errors.NotAuthorized),
    "403": (instead(403, {}), errors.NotAuthorized),
    "404": (instead(404, {}, b'{"code": 404}'), errors.ModelNotFound),
    "412": (instead(412, {}, b'{"code": "model_mismatch"}'), errors.ModelMismatch),
    "invalid image": (instead(400, {}, b'{"code": "invalid_image"}'), errors.InvalidImage),
}


@pytest.mark.parametrize("fault", PASSES.values(), ids=PASSES)
def test_a_fault_that_passes_is_not_noticed(call: Call, fault: Fault) -> None:
    with faulty(fault, fault) as server:
        got = call(server.url, "predict", NUMBERS, deadline_s=30.0)
        assert server.requests == 3
    assert np.array_equal(got, TABLE[NUMBERS])


@pytest.mark.parametrize("unusual", [faults.interim, faults.without_length, faults.of_no_coding])
def test_unusual_answers_are_read(call: Call, unusual: Fault) -> None:
    with faulty(always=unusual) as server:
        got = call(server.url, "predict", NUMBERS, images_per_request=4)
        assert server.requests == 4
    assert np.array_equal(got, TABLE[NUMBERS])


@pytest.mark.parametrize(("fault", "error"), ENDS.values(), ids=ENDS)
def test_a_fault_that_stays_ends(call: Call, fault: Fault, error: type[DiagonalFlipError]) -> None:
    with (
        faulty(always=fault) as server,
        within(DEADLINE_S + SLACK_S),
        pytest.raises((error, NO_TIME)) as caught,
    ):
        call(server.url, "predict", NUMBERS, deadline_s=DEADLINE_S)
    # An attempt that has begun may run out of time; what was wrong before it is told then.
    assert type(caught.value) in (error, NO_TIME)
    assert error.__name__ in f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize(("fault", "error"), AT_ONCE.values(), ids=AT_ONCE)
def test_what_repeating_cannot_mend_is_not_repeated(
    call: Call, fault: Fault, error: type[DiagonalFlipError]
) -> None:
    with faulty(always=fault) as server:
        with pytest.raises(error) as caught:
            call(server.url, "predict", NUMBERS, deadline_s=30.0)
        assert server.requests == 1
    assert type(caught.value) is error


def test_a_redirection_says_where_to(call: Call) -> None:
    moved = instead(301, {"Location": "https://flip.example"}, b"<html>")
    with (
        faulty(always=moved) as server,
        pytest.raises(errors.InvalidAnswer, match=r"301: https://flip.example\."),
    ):
        call(server.url, "predict", NUMBERS)


def test_retry_after_is_honoured(call: Call) -> None:
    with faulty(instead(503, {"Retry-After": "1"})) as server:
        started = time.monotonic()
        call(server.url, "predict", NUMBERS, deadline_s=30.0)
        assert time.monotonic() - started >= 1


@pytest.mark.slow
def test_a_fault_in_the_middle_of_a_long_job_loses_nothing(call: Call) -> None:
    numbers = np.random.default_rng(0).integers(0, 16, 20_001)
    with faulty(*(list(PASSES.values()) * 3)) as server:
        got = call(server.url, "predict", numbers, images_per_request=500, deadline_s=60.0)
        assert server.requests >= 41 + 3 * len(PASSES) - 3  # pre-opened resets may coincide
    assert np.array_equal(got, TABLE[numbers])


@pytest.mark.parametrize("fault", [faults.stall, faults.drip_body], ids=["stall", "drip"])
def test_the_deadline_holds_for_many_chunks_too(call: Call, fault: Fault) -> None:
    settings = {"images_per_request": 100, "deadline_s": DEADLINE_S}
    with faulty(always=fault) as server, within(DEADLINE_S + SLACK_S), pytest.raises(NO_TIME):
        call(server.url, "predict", [1] * 5000, **settings)


async def read_nothing(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def read_slowly(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Each piece that is sent would have the whole time again."""
    while await reader.read(1 << 15):  # noqa: ASYNC110 - it is slow
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("serve", "scheme"), [(read_nothing, "http"), (read_nothing, "https"), (read_slowly, "http")]
)
def test_the_deadline_holds_while_the_server_hardly_reads(serve: Any, scheme: str) -> None:
    """It stalls while 16 MiB are sent, or in TLS's handshake."""
    settings = {"images_per_request": 1 << 25, "deadline_s": DEADLINE_S, "verify": False}
    with listening(serve) as url, within(DEADLINE_S + SLACK_S), pytest.raises(NO_TIME):
        call_sync(url.replace("http", scheme), "predict_packed", bytes(1 << 24), **settings)


def test_ctrl_c_counts_while_the_server_reads_nothing() -> None:
    accepted = threading.Event()

    async def accept(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        accepted.set()
        await asyncio.Event().wait()

    def interrupted() -> Iterator[bytes]:
        yield bytes((1 << 24) + 1)
        accepted.wait(30)
        raise KeyboardInterrupt

    with (
        listening(accept) as url,
        Client(url, images_per_request=1 << 25) as client,
        within(SLACK_S),
        pytest.raises(KeyboardInterrupt),
    ):
        list(client.predict_chunks(interrupted()))


def test_a_wrong_address_does_not_take_the_whole_deadline(unused_url: str, call: Call) -> None:
    """The error names it, without its password."""
    named = unused_url.replace("//", "//someone:secret@")
    with within(30), pytest.raises(errors.ConnectionFailed) as caught:
        call(named, "predict", NUMBERS, deadline_s=300.0)
    assert unused_url in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_address_that_is_silent_does_not_keep_from_the_next(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty() as server, ExitStack() as sockets:
        port = int(server.url.rpartition(":")[2])
        silent = sockets.enter_context(socket.create_server(("127.0.0.2", port), backlog=0))
        for _ in range(3):  # nobody accepts them, and so no one after them is answered
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))
            for host in ("127.0.0.2", "127.0.0.1")
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with within(DEADLINE_S + SLACK_S):
            got = call(f"http://flip.invalid:{port}", "predict", NUMBERS, deadline_s=30)
    assert np.array_equal(got, TABLE[NUMBERS])


def test_a_slow_route_is_no_silent_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection by satellite takes longer than an address may at first."""
    connect = urllib3.util.connection.create_connection

    def connect_slowly(address: Any, timeout: float, *args: Any, **kwargs: Any) -> socket.socket:
        if timeout < 1.5:
            raise TimeoutError
        return connect(address, timeout, *args, **kwargs)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", connect_slowly)
    with faulty() as server:
        got = call_sync(server.url, "predict", NUMBERS, deadline_s=30)
    assert np.array_equal(got, TABLE[NUMBERS])


def test_waiting_ends_when_the_server_is_there(call: Call) -> None:
    starting = [*PASSES.values(), instead(404, {})]
    with faulty(*starting) as server:
        call(server.url, "wait_until_ready", 60.0)
        assert server.requests >= len(starting) + 17


def test_waiting_needs_not_many_requests_in_a_second(call: Call) -> None:
    limited = instead(429, {"Retry-After": "0"})
    with faulty(*(500 * [faults.unspoilt, limited])) as server:
        call(server.url, "wait_until_ready", 10)


def test_waiting_has_an_end(unused_url: str, call: Call) -> None:
    """The error tells of the server, and not of what little time the last check had."""
    with pytest.raises(NO_TIME, match=r"refused|Connect call|answer in 0\.5 s"):
        call(unused_url, "wait_until_ready", 0.5)


@pytest.mark.parametrize(
    ("together", "alone", "alone_later"),
    [
        (instead(200, OCTETS, b"\xff" * 256), *2 * [instead(200, OCTETS, b"\xff" * 16)]),
        (faults.unspoilt, instead(200, OCTETS, bytes(16)), faults.unspoilt),
    ],
    ids=["not finite", "not the same alone"],
)
def test_waiting_for_a_wrong_server_ends_at_once(
    call: Call, together: Fault, alone: Fault, alone_later: Fault
) -> None:
    with faulty(together, alone, always=alone_later) as server:
        with pytest.raises(errors.InvalidAnswer):
            call(server.url, "wait_until_ready", 60.0)
        assert server.requests == 17


def described(without: str) -> Fault:
    told = {name: value for name, value in DESCRIPTION.items() if name != without}
    return instead(200, {}, json.dumps(told).encode())


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        *((described(without=name), errors.InvalidAnswer, name) for name in DESCRIPTION),
        (instead(200, {}, b"hello"), errors.InvalidAnswer, "No JSON object"),
        (instead(200, {}, b"[1]"), errors.InvalidAnswer, "No JSON object"),
        (instead(415, {}, b'{"code": "unsupported_media_type"}'), errors.UnsupportedMediaType, "."),
    ],
)
def test_info_of_another_server_is_a_clear_error(
    call: Call, fault: Fault, error: type[DiagonalFlipError], message: str
) -> None:
    with faulty(fault) as server, pytest.raises(error, match=message):
        call(server.url, "info")


def test_info_is_asked_again_where_that_helps(call: Call) -> None:
    with faulty(instead(503, {})) as server:
        assert call(server.url, "info") == ServerInfo(**DESCRIPTION)
        assert server.requests == 2
