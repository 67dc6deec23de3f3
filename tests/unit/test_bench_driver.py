"""The benchmark's drivers against a server that can be wrong."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.driver import Address, run_python
from benchmarks.workloads import Exchange, Predictions, Workload
from benchmarks.workloads import exchanges as make_exchanges
from benchmarks.wrk import run_wrk, wrk_is_here
from diagonalflip.wire import FLOAT16, OCTETS, PACKED
from tests.drills.load import Load
from tests.faults.fake_server import listening, read_request, response

WORKLOAD = Workload("test", 8, 3)
TABLE = np.random.default_rng(5).normal(size=(16, 4)).astype("<f4")
TRACEPARENT = re.compile("00-([0-9a-f]{32})-[0-9a-f]{16}-01")
Answer = Callable[[int, bytes], tuple[int, bytes]]


def predict(packed: bytes) -> Predictions:
    numbers = np.frombuffer(packed, np.uint8)
    return TABLE[np.stack([numbers >> 4, numbers & 15], axis=1).reshape(-1)]


REFERENCE = predict(b"\x01\x23\x45\x67")
WORK = make_exchanges(WORKLOAD, predict)
WRONG = (30, 3, 0)
HALF = REFERENCE.astype("<f2")
BITS = np.packbits(REFERENCE >= 0.5)


def right(_: int, packed: bytes) -> tuple[int, bytes]:
    return 200, predict(packed).tobytes()


def every_tenth(bad: Answer) -> Answer:
    return lambda turn, packed: bad(turn, packed) if turn % 10 == 9 else right(turn, packed)


@contextlib.contextmanager
def server(answer: Answer, heads: list[dict[str, str]] | None = None) -> Iterator[Address]:
    """Give a server; ``answer`` is given a count of all requests."""
    turns = itertools.count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                headers, packed = await read_request(reader)
                if heads is not None:
                    heads.append(headers)
                status, body = answer(next(turns), packed)
                writer.write(response(status, {"Flip-Model-Version": "1.0"}, body))
        writer.close()

    with listening(serve) as url:
        yield Address(int(url.rpartition(":")[2]), "/")


def hang_up(_turn: int, _packed: bytes) -> tuple[int, bytes]:
    raise OSError


def overloaded(_turn: int, packed: bytes) -> tuple[int, bytes]:
    return 503, predict(packed).tobytes()


def empty(_turn: int, _packed: bytes) -> tuple[int, bytes]:
    return 200, b""


ANSWERS: dict[str, tuple[Answer, tuple[int, int, int], str | int]] = {
    "right": (right, (30, 0, 0), "right"),
    "value": (lambda _, it: (200, (predict(it) + np.float32(1e-4)).tobytes()), WRONG, "wrong"),
    "nan": (lambda _, it: (200, (predict(it) * np.float32("nan")).tobytes()), WRONG, "wrong"),
    "neighbour's": (lambda _, it: right(0, bytes(byte ^ 255 for byte in it)), WRONG, "wrong"),
    "short": (lambda _, it: (200, predict(it).tobytes()[:-4]), WRONG, "wrong"),
    "empty": (empty, WRONG, "wrong"),
    "status": (overloaded, WRONG, 503),
    "hangs up": (hang_up, (27, 0, 3), "lost"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_each_answer_is_counted_by_the_driver_and_by_the_drills(name: str) -> None:
    answer, counts, told = ANSWERS[name]
    with server(every_tenth(answer)) as address:
        outcome = run_python(address, WORKLOAD, WORK, requests=30)
    assert (outcome.requests, outcome.wrong, outcome.errors) == counts
    with server(answer) as address:
        assert Load(address, {"1.0": TABLE}).exchange(np.arange(16)) == told


@pytest.mark.parametrize(
    ("accept", "reference", "good", "wrong"),
    [
        (OCTETS, REFERENCE, (REFERENCE + np.float32(2e-7)), (REFERENCE + np.float32(2e-6))),
        (FLOAT16, REFERENCE, HALF, HALF + np.float16(0.01)),
        (PACKED, REFERENCE, BITS, BITS ^ np.uint8(0x40)),
        (OCTETS, None, np.zeros(128, np.uint8), np.zeros(127, np.uint8)),
    ],
    ids=["float32", "float16", "packed", "length alone"],
)
def test_each_form_is_judged_by_the_same_reference(
    accept: str, reference: Predictions | None, good: npt.NDArray[Any], wrong: npt.NDArray[Any]
) -> None:
    workload = Workload("test", 8, 1, accept)
    assert workload.answer_bytes == good.nbytes
    judge = Exchange(workload, b"", reference).judge
    assert judge(good.tobytes())
    assert not judge(wrong.tobytes())


def drive_both(address: Address, workload: Workload) -> None:
    work = make_exchanges(workload, predict)
    outcomes = [run_python(address, workload, work, requests=30)]
    if wrk_is_here():
        outcomes.append(run_wrk(address, workload, work, 1, outcomes[0].least_wire_bytes))
    for outcome in outcomes:
        assert outcome.requests > 10
        assert (outcome.wrong, outcome.errors) == (0, 0)


@pytest.mark.skipif(not wrk_is_here(), reason="no wrk on this machine")
@pytest.mark.parametrize("answer", [empty, overloaded])
def test_wrk_sees_statuses_and_bytes(answer: Answer) -> None:
    with server(right) as address:
        good = run_python(address, WORKLOAD, WORK, requests=30)
    with server(answer) as address:
        outcome = run_wrk(address, WORKLOAD, WORK, 1, good.least_wire_bytes)
    assert outcome.wrong > 0
    assert outcome.compared == 0


def test_each_request_of_every_run_has_another_trace() -> None:
    heads: list[dict[str, str]] = []
    with server(right, heads) as address:
        for _ in range(2):
            drive_both(address, replace(WORKLOAD, traced=True))
        found = [TRACEPARENT.fullmatch(head["traceparent"]) for head in heads]
        assert len({trace[1] for trace in found if trace}) == len(heads)
        heads.clear()
        drive_both(address, WORKLOAD)
    assert not any("traceparent" in head for head in heads)
