"""Faults on the way: each gives a correct answer or the documented error, within the deadline."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from diagonalflip import Client, ServerInfo, errors
from diagonalflip.errors import DiagonalFlipError
from tests.faults import proxy as faults
from tests.faults.conftest import Call, call_sync
from tests.faults.fake_server import DESCRIPTION, TABLE, listening
from tests.faults.proxy import Fault, fault_proxy, instead

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
    "stall": (faults.stall, NO_TIME),
    "stall in the header": (faults.stall_in_header, NO_TIME),
    "stall in the body": (faults.stall_in_body, NO_TIME),
    "drip": (faults.drip, NO_TIME),
    "drip of the body": (faults.drip_body, NO_TIME),
    "503": (instead(503, {}), errors.ServerOverloaded),
    "503, come back later": (instead(503, {"Retry-After": "60"}), errors.ServerOverloaded),
    "worker died": (instead(500, {}, DIED), errors.InternalError),
}
AT_ONCE: dict[str, tuple[Fault, type[DiagonalFlipError]]] = {
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
def test_a_fault_that_passes_is_not_noticed(fake_url: str, call: Call, fault: Fault) -> None:
    with fault_proxy(fake_url, fault, fault) as proxy:
        got = call(proxy.url, "predict", NUMBERS, deadline_s=30.0)
        assert proxy.requests == 3
    assert np.array_equal(got, TABLE[NUMBERS])


@pytest.mark.parametrize("unusual", [faults.interim, faults.without_length])
def test_unusual_answers_are_read(fake_url: str, call: Call, unusual: Fault) -> None:
    with fault_proxy(fake_url, always=unusual) as proxy:
        got = call(proxy.url, "predict", NUMBERS, images_per_request=4)
        assert proxy.requests == 4
    assert np.array_equal(got, TABLE[NUMBERS])


@pytest.mark.parametrize(("fault", "error"), ENDS.values(), ids=ENDS)
def test_a_fault_that_stays_ends_within_the_deadline(
    fake_url: str, call: Call, fault: Fault, error: type[DiagonalFlipError]
) -> None:
    with fault_proxy(fake_url, always=fault) as proxy:
        started = time.monotonic()
        with pytest.raises((error, NO_TIME)) as caught:
            call(proxy.url, "predict", NUMBERS, deadline_s=DEADLINE_S)
        assert time.monotonic() - started < DEADLINE_S + SLACK_S
    # An attempt that has begun may run out of time; what was wrong before it is told then.
    assert type(caught.value) in (error, NO_TIME)
    assert error.__name__ in f"{type(caught.value).__name__}: {caught.value}"


@pytest.mark.parametrize(("fault", "error"), AT_ONCE.values(), ids=AT_ONCE)
def test_what_repeating_cannot_mend_is_not_repeated(
    fake_url: str, call: Call, fault: Fault, error: type[DiagonalFlipError]
) -> None:
    with fault_proxy(fake_url, always=fault) as proxy:
        with pytest.raises(error) as caught:
            call(proxy.url, "predict", NUMBERS, deadline_s=30.0)
        assert proxy.requests == 1
    assert type(caught.value) is error


def test_retry_after_is_honoured(fake_url: str, call: Call) -> None:
    with fault_proxy(fake_url, instead(503, {"Retry-After": "1"})) as proxy:
        started = time.monotonic()
        call(proxy.url, "predict", NUMBERS, deadline_s=30.0)
        assert time.monotonic() - started >= 1


@pytest.mark.slow
def test_a_fault_in_the_middle_of_a_long_job_loses_nothing(fake_url: str, call: Call) -> None:
    numbers = np.random.default_rng(0).integers(0, 16, 20_001)
    with fault_proxy(fake_url, *(list(PASSES.values()) * 3)) as proxy:
        got = call(proxy.url, "predict", numbers, images_per_request=500, deadline_s=60.0)
        assert proxy.requests >= 41 + 3 * len(PASSES) - 3  # pre-opened resets may coincide
    assert np.array_equal(got, TABLE[numbers])


@pytest.mark.parametrize("fault", [faults.stall, faults.drip_body], ids=["stall", "drip"])
def test_the_deadline_holds_for_many_chunks_too(fake_url: str, call: Call, fault: Fault) -> None:
    with fault_proxy(fake_url, always=fault) as proxy:
        started = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            call(proxy.url, "predict", [1] * 5000, images_per_request=100, deadline_s=DEADLINE_S)
        assert time.monotonic() - started < DEADLINE_S + SLACK_S


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_deadline_holds_while_the_server_reads_nothing(scheme: str) -> None:
    """It stalls while 16 MiB are sent, or in TLS's handshake."""

    async def read_nothing(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    settings = {"images_per_request": 1 << 25, "deadline_s": DEADLINE_S, "verify": False}
    with listening(read_nothing) as url:
        address = url.replace("http", scheme)
        started = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            call_sync(address, "predict_packed", bytes(1 << 24), **settings)
        assert time.monotonic() - started < DEADLINE_S + SLACK_S


def test_the_deadline_holds_while_the_server_reads_slowly() -> None:
    """Each piece that is sent would have the whole time again."""

    async def read_slowly(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 15):  # noqa: ASYNC110 - it is slow
            await asyncio.sleep(0.02)

    settings = {"images_per_request": 1 << 25, "deadline_s": DEADLINE_S}
    with listening(read_slowly) as url:
        started = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            call_sync(url, "predict_packed", bytes(1 << 24), **settings)
        assert time.monotonic() - started < DEADLINE_S + SLACK_S


def test_ctrl_c_counts_while_the_server_reads_nothing() -> None:
    accepted = threading.Event()

    async def read_nothing(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        accepted.set()
        await asyncio.Event().wait()

    def interrupted() -> Iterator[bytes]:
        yield bytes((1 << 24) + 1)
        accepted.wait(30)
        raise KeyboardInterrupt

    with listening(read_nothing) as url, Client(url, images_per_request=1 << 25) as client:
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            list(client.predict_chunks(interrupted()))
        assert time.monotonic() - started < SLACK_S


def test_a_wrong_address_does_not_take_the_whole_deadline(unused_url: str, call: Call) -> None:
    started = time.monotonic()
    with pytest.raises(errors.ConnectionFailed):
        call(unused_url, "predict", NUMBERS, deadline_s=300.0)
    assert time.monotonic() - started < 30


def test_waiting_ends_when_the_server_is_there(fake_url: str, call: Call) -> None:
    starting = [*PASSES.values(), instead(404, {})]
    with fault_proxy(fake_url, *starting) as proxy:
        call(proxy.url, "wait_until_ready", 60.0)
        assert proxy.requests >= len(starting) + 17


def test_waiting_has_an_end(unused_url: str, call: Call) -> None:
    """The error tells of the server, and not of what little time the last check had."""
    with pytest.raises(errors.DeadlineExceeded, match=r"refused|Connect call|answer in 0\.5 s"):
        call(unused_url, "wait_until_ready", 0.5)


def test_waiting_for_a_wrong_server_ends_at_once(fake_url: str, call: Call) -> None:
    nan = instead(200, OCTETS, b"\xff" * 256)
    with fault_proxy(fake_url, nan, always=instead(200, OCTETS, b"\xff" * 16)) as proxy:
        with pytest.raises(errors.InvalidAnswer):
            call(proxy.url, "wait_until_ready", 60.0)
        assert proxy.requests == 17


def test_waiting_compares_alone_and_together(fake_url: str, call: Call) -> None:
    with fault_proxy(fake_url, always=faults.unspoilt) as proxy:
        proxy.faults = [faults.unspoilt, instead(200, OCTETS, bytes(16))]
        with pytest.raises(errors.InvalidAnswer):
            call(proxy.url, "wait_until_ready", 60.0)


@pytest.mark.parametrize("missing", DESCRIPTION)
def test_info_wants_everything(fake_url: str, call: Call, missing: str) -> None:
    told = json.dumps({k: v for k, v in DESCRIPTION.items() if k != missing}).encode()
    with (
        fault_proxy(fake_url, instead(200, {}, told)) as proxy,
        pytest.raises(errors.InvalidAnswer, match=missing),
    ):
        call(proxy.url, "info")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (instead(200, {}, b"hello"), errors.InvalidAnswer),
        (instead(200, {}, b"[1]"), errors.InvalidAnswer),
        (instead(415, {}, b'{"code": "unsupported_media_type"}'), errors.UnsupportedMediaType),
    ],
)
def test_info_of_another_server_is_a_clear_error(
    fake_url: str, call: Call, fault: Fault, error: type[DiagonalFlipError]
) -> None:
    with fault_proxy(fake_url, fault) as proxy, pytest.raises(error):
        call(proxy.url, "info")


def test_info_is_asked_again_where_that_helps(fake_url: str, call: Call) -> None:
    with fault_proxy(fake_url, instead(503, {})) as proxy:
        assert call(proxy.url, "info") == ServerInfo(**DESCRIPTION)
        assert proxy.requests == 2
