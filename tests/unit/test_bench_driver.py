"""The benchmark's drivers against a server that can be wrong."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.driver import Address, Outcome, run_python
from benchmarks.servers import certify
from benchmarks.workloads import Judge, Predictions, Rule, Workload
from benchmarks.workloads import exchanges as make_exchanges
from benchmarks.wrk import run_wrk, write_job, wrk_is_here
from diagonalflip.wire import FLOAT16, OCTETS, PACKED

WORKLOAD = Workload("test", 8, 3)
TABLE = np.random.default_rng(5).normal(size=(16, 4)).astype("<f4")
TRACEPARENT = re.compile(rb"\r\ntraceparent: 00-([0-9a-f]{32})-[0-9a-f]{16}-01\r\n")
Answer = Callable[[int, bytes], tuple[int, bytes]]


def predict(packed: bytes) -> Predictions:
    numbers = np.frombuffer(packed, np.uint8)
    return TABLE[np.stack([numbers >> 4, numbers & 15], axis=1).reshape(-1)]


REFERENCE = predict(b"\x01\x23\x45\x67")
HALF = REFERENCE.astype("<f2")
BITS = np.packbits(REFERENCE >= 0.5)


def right(_: int, packed: bytes) -> tuple[int, bytes]:
    return 200, predict(packed).tobytes()


def every_tenth(bad: Answer) -> Answer:
    return lambda turn, packed: bad(turn, packed) if turn % 10 == 9 else right(turn, packed)


@contextlib.contextmanager
def server(
    answer: Answer, heads: list[bytes] | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[Address]:
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
                if heads is not None:
                    heads.append(head)
                status, body = answer(turn - 1, packed)
                writer.write(
                    b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
                )
        writer.close()

    listener = loop.run_until_complete(asyncio.start_server(connection, "127.0.0.1", 0, ssl=tls))
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


def hang_up(_turn: int, _packed: bytes) -> tuple[int, bytes]:
    raise OSError


def test_right_answers_pass() -> None:
    work = make_exchanges(WORKLOAD, Rule.TOLERANCE, predict)
    with server(right) as address:
        outcome = run_python(address, WORKLOAD, work, requests=30)
    assert (outcome.requests, outcome.wrong, outcome.errors) == (30, 0, 0)
    assert all(exchange.judge.seen for exchange in work)


BAD_ANSWERS = {
    "value": lambda _, packed: (200, (predict(packed) + np.float32(1e-4)).tobytes()),
    "nan": lambda _, packed: (200, (predict(packed) * np.float32("nan")).tobytes()),
    "neighbour's": lambda turn, packed: right(turn, bytes(byte ^ 0xFF for byte in packed)),
    "short": lambda _, packed: (200, predict(packed).tobytes()[:-4]),
    "empty": lambda _turn, _packed: (200, b""),
    "status": lambda _, packed: (503, predict(packed).tobytes()),
}


@pytest.mark.parametrize(
    ("bad", "counts"),
    [*((bad, (30, 3, 0)) for bad in BAD_ANSWERS.values()), (hang_up, (27, 0, 3))],
    ids=[*BAD_ANSWERS, "hangs up"],
)
def test_every_bad_answer_is_counted(bad: Answer, counts: tuple[int, int, int]) -> None:
    work = make_exchanges(WORKLOAD, Rule.TOLERANCE, predict)
    with server(every_tenth(bad)) as address:
        outcome = run_python(address, WORKLOAD, work, requests=30)
    assert (outcome.requests, outcome.wrong, outcome.errors) == counts


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("accept", "rule", "good", "wrong"),
    [
        (OCTETS, Rule.TOLERANCE, (REFERENCE + np.float32(2e-7)), (REFERENCE + np.float32(2e-6))),
        (FLOAT16, Rule.TOLERANCE, HALF, HALF + np.float16(0.01)),
        (PACKED, Rule.TOLERANCE, BITS, BITS ^ np.uint8(0x40)),
        (OCTETS, Rule.LENGTH, np.zeros(128, np.uint8), np.zeros(127, np.uint8)),
    ],
    ids=["float32", "float16", "packed", "length alone"],
)
def test_each_form_is_judged_by_the_same_reference(
    accept: str, rule: Rule, good: npt.NDArray[Any], wrong: npt.NDArray[Any]
) -> None:
    workload = Workload("test", 8, 1, accept)
    assert workload.answer_bytes == good.nbytes
    judge = Judge(REFERENCE, workload, rule)
    assert judge(good.tobytes())
    assert not judge(wrong.tobytes())


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


def drive_both(address: Address, workload: Workload, job: Path) -> list[Outcome]:
    """Outcomes of the asyncio driver and, if it is installed, of wrk."""
    work = make_exchanges(workload, Rule.TOLERANCE, predict)
    outcomes = [run_python(address, workload, work, requests=30)]
    if wrk_is_here():
        write_job(job, work, outcomes[0].least_wire_bytes)
        outcomes.append(run_wrk(address, workload, 1, job, compare=Rule.TOLERANCE))
    return outcomes


def test_each_request_of_every_run_has_another_trace(tmp_path: Path) -> None:
    heads: list[bytes] = []
    with server(right, heads) as address:
        for _ in range(2):
            for outcome in drive_both(address, replace(WORKLOAD, traced=True), tmp_path):
                assert outcome.requests > 10
                assert (outcome.wrong, outcome.errors) == (0, 0)
    traces = [found[1] for head in heads if (found := TRACEPARENT.search(head))]
    assert len(set(traces)) == len(heads)
    heads.clear()
    with server(right, heads) as address:
        drive_both(address, WORKLOAD, tmp_path)
    assert not any(b"traceparent" in head for head in heads)


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_answers_over_tls_are_compared_too(tmp_path: Path) -> None:
    certificate, key = certify(tmp_path / "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with server(right, tls=context) as address:
        for outcome in drive_both(replace(address, certificate=certificate), WORKLOAD, tmp_path):
            assert outcome.requests > 10
            assert (outcome.wrong, outcome.errors) == (0, 0)
    with server(every_tenth(BAD_ANSWERS["value"]), tls=context) as address:
        for outcome in drive_both(replace(address, certificate=certificate), WORKLOAD, tmp_path):
            assert outcome.wrong > 0


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_a_server_with_another_certificate_is_an_error(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certify(tmp_path / "server"))
    certificate, _ = certify(tmp_path / "other")
    work = make_exchanges(WORKLOAD, Rule.TOLERANCE, predict)
    with server(right, tls=context) as address:
        outcome = run_python(replace(address, certificate=certificate), WORKLOAD, work, requests=30)
    assert (outcome.requests, outcome.errors) == (0, WORKLOAD.connections)


def test_without_openssl_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(RuntimeError, match="Install it, or leave them out with --servers"):
        certify(tmp_path)
