"""The benchmark's drivers against a server that can be wrong."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.driver import Address, run_python, run_wrk, write_job, wrk_is_here
from benchmarks.workloads import Judge, Predictions, Rule, Workload
from benchmarks.workloads import exchanges as make_exchanges
from diagonalflip.wire import FLOAT16, OCTETS, PACKED

WORKLOAD = Workload("test", 8, 3)
TABLE = np.random.default_rng(5).normal(size=(16, 4)).astype("<f4")
Answer = Callable[[int, bytes], tuple[int, bytes]]


def predict(packed: bytes) -> Predictions:
    numbers = np.frombuffer(packed, np.uint8)
    return TABLE[np.stack([numbers >> 4, numbers & 15], axis=1).reshape(-1)]


def right(_: int, packed: bytes) -> tuple[int, bytes]:
    return 200, predict(packed).tobytes()


def every_tenth(bad: Answer) -> Answer:
    return lambda turn, packed: bad(turn, packed) if turn % 10 == 9 else right(turn, packed)


@contextlib.contextmanager
def server(answer: Answer, *, chunked: bool = False) -> Iterator[Address]:
    """Answers on a thread of its own; ``answer`` is given a count of all requests."""
    loop = asyncio.new_event_loop()
    turn = 0

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turn
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(head.partition(b"content-length:")[2].split()[0])
                packed = await reader.readexactly(size)
                turn += 1
                status, body = answer(turn - 1, packed)
                writer.write(b"HTTP/1.1 %d X\r\n" % status + encoded(body, chunked=chunked))
        writer.close()

    listener = loop.run_until_complete(asyncio.start_server(connection, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield Address(listener.sockets[0].getsockname()[1], "/")
    finally:
        asyncio.run_coroutine_threadsafe(_end(listener), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(listener: asyncio.Server) -> None:
    listener.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def encoded(body: bytes, *, chunked: bool) -> bytes:
    if not chunked:
        return b"Content-Length: %d\r\n\r\n" % len(body) + body
    head = b"Transfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n1\r\n%b\r\n0\r\n\r\n" % (len(body) - 1, body[:-1], body[-1:])


@pytest.mark.parametrize("chunked", [False, True])
def test_right_answers_pass(chunked: bool) -> None:
    work = make_exchanges(WORKLOAD, Rule.TOLERANCE, predict)
    with server(right, chunked=chunked) as address:
        outcome = run_python(address, WORKLOAD, work, requests=30)
    assert (outcome.requests, outcome.wrong, outcome.errors) == (30, 0, 0)
    assert set(outcome.latency_us) == {"p50", "p99", "max"}
    assert all(exchange.judge.seen for exchange in work)


BAD_ANSWERS = {
    "value": lambda _, packed: (200, (predict(packed) + np.float32(1e-4)).tobytes()),
    "nan": lambda _, packed: (200, (predict(packed) * np.float32("nan")).tobytes()),
    "neighbour's": lambda turn, packed: right(turn, bytes(byte ^ 0xFF for byte in packed)),
    "short": lambda _, packed: (200, predict(packed).tobytes()[:-4]),
    "empty": lambda _turn, _packed: (200, b""),
    "status": lambda _, packed: (503, predict(packed).tobytes()),
}


@pytest.mark.parametrize("bad", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_every_wrong_answer_is_counted(bad: Answer) -> None:
    work = make_exchanges(WORKLOAD, Rule.TOLERANCE, predict)
    with server(every_tenth(bad)) as address:
        outcome = run_python(address, WORKLOAD, work, requests=30)
    assert (outcome.requests, outcome.wrong) == (30, 3)


def test_a_server_that_hangs_up_is_an_error() -> None:
    def fail(turn: int, packed: bytes) -> tuple[int, bytes]:
        if turn == 4:
            raise OSError
        return right(turn, packed)

    work = make_exchanges(WORKLOAD, Rule.TOLERANCE, predict)
    with server(fail) as address:
        outcome = run_python(address, WORKLOAD, work, requests=30)
    assert (outcome.wrong, outcome.errors) == (0, 1)


@pytest.mark.skipif(not wrk_is_here(), reason="no wrk on this machine")
@pytest.mark.parametrize("bad", [None, *BAD_ANSWERS.values()], ids=["none", *BAD_ANSWERS])
def test_wrk_compares_answers(bad: Answer | None, tmp_path: Path) -> None:
    work = make_exchanges(WORKLOAD, Rule.TOLERANCE, predict)
    with server(right) as address:
        good = run_python(address, WORKLOAD, work, requests=30)
    write_job(tmp_path, work, good.least_wire_bytes)
    with server(every_tenth(bad) if bad else right) as address:
        outcome = run_wrk(address, WORKLOAD, 1, tmp_path, compare=Rule.TOLERANCE)
    assert outcome.compared >= outcome.requests > 10
    assert (outcome.wrong >= outcome.compared // 10 - 1) if bad else (outcome.wrong == 0)


@pytest.mark.skipif(not wrk_is_here(), reason="no wrk on this machine")
@pytest.mark.parametrize("kind", ["empty", "status"])
def test_wrk_without_comparison_still_sees_statuses_and_bytes(kind: str, tmp_path: Path) -> None:
    work = make_exchanges(WORKLOAD, Rule.TOLERANCE, predict)
    with server(right) as address:
        good = run_python(address, WORKLOAD, work, requests=30)
    write_job(tmp_path, work, good.least_wire_bytes)
    with server(BAD_ANSWERS[kind]) as address:
        outcome = run_wrk(address, WORKLOAD, 1, tmp_path, compare=None)
    assert outcome.wrong > 0
    assert outcome.compared == 0


def test_bits_may_differ_within_the_tolerance() -> None:
    reference = predict(b"\x01\x23\x45\x67")
    judge = Judge(reference, WORKLOAD, Rule.TOLERANCE)
    assert judge(reference.tobytes())
    assert judge((reference + np.float32(2e-7)).tobytes())
    assert not judge((reference + np.float32(2e-6)).tobytes())


def test_smaller_forms_are_judged_by_the_same_reference() -> None:
    reference = predict(b"\x01\x23\x45\x67")
    half = reference.astype("<f2")
    packed = np.packbits(reference >= 0.5)
    for accept, answer in ((FLOAT16, half.tobytes()), (PACKED, packed.tobytes())):
        workload = Workload("test", 8, 1, accept)
        assert len(answer) == workload.answer_bytes
        assert Judge(reference, workload, Rule.TOLERANCE)(answer)
        wrong = bytes([*answer[:-1], answer[-1] ^ 0x40])
        assert not Judge(reference, workload, Rule.TOLERANCE)(wrong)
    assert Workload("test", 8, 1, OCTETS).answer_bytes == reference.nbytes


def test_fixed_answers_are_judged_by_length_alone() -> None:
    judge = Judge(predict(b"\x01\x23\x45\x67"), WORKLOAD, Rule.LENGTH)
    assert judge(bytes(128))
    assert not judge(bytes(127))
