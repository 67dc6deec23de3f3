"""The benchmark's drivers against a server that can be wrong."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import shutil
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from benchmarks import bench
from benchmarks.driver import Address, Outcome, run_python
from benchmarks.measures import Results
from benchmarks.running import Running, certify
from benchmarks.servers import Server
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
HALF = REFERENCE.astype("<f2")
BITS = np.packbits(REFERENCE >= 0.5)


def right(_: int, packed: bytes) -> tuple[int, bytes]:
    return 200, predict(packed).tobytes()


def every_tenth(bad: Answer) -> Answer:
    return lambda turn, packed: bad(turn, packed) if turn % 10 == 9 else right(turn, packed)


@contextlib.contextmanager
def server(
    answer: Answer, heads: list[dict[str, str]] | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[Address]:
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

    with listening(serve, tls) as url:
        yield Address(int(url.rpartition(":")[2]), "/")


def hang_up(_turn: int, _packed: bytes) -> tuple[int, bytes]:
    raise OSError


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
    [
        (right, (30, 0, 0)),
        *((bad, (30, 3, 0)) for bad in BAD_ANSWERS.values()),
        (hang_up, (27, 0, 3)),
    ],
    ids=["right", *BAD_ANSWERS, "hangs up"],
)
def test_every_bad_answer_is_counted(bad: Answer, counts: tuple[int, int, int]) -> None:
    work = make_exchanges(WORKLOAD, predict)
    with server(every_tenth(bad)) as address:
        outcome = run_python(address, WORKLOAD, work, requests=30)
    assert (outcome.requests, outcome.wrong, outcome.errors) == counts


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (right, "right"),
        *((bad, "wrong") for kind, bad in BAD_ANSWERS.items() if kind != "status"),
        (BAD_ANSWERS["status"], 503),
        (hang_up, "lost"),
    ],
    ids=["right", *(kind for kind in BAD_ANSWERS if kind != "status"), "status", "hangs up"],
)
def test_the_drills_load_counts_each_answer(answer: Answer, outcome: str | int) -> None:
    with server(answer) as address:
        load = Load(address, {"1.0": TABLE})
        assert load.exchange(np.arange(16)) == outcome


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


@pytest.mark.skipif(not wrk_is_here(), reason="no wrk on this machine")
@pytest.mark.parametrize("kind", ["empty", "status"])
def test_wrk_sees_statuses_and_bytes(kind: str) -> None:
    work = make_exchanges(WORKLOAD, predict)
    with server(right) as address:
        good = run_python(address, WORKLOAD, work, requests=30)
    with server(BAD_ANSWERS[kind]) as address:
        outcome = run_wrk(address, WORKLOAD, work, 1, good.least_wire_bytes)
    assert outcome.wrong > 0
    assert outcome.compared == 0


def drive_both(address: Address, workload: Workload) -> list[Outcome]:
    """Outcomes of the asyncio driver and, if it is installed, of wrk."""
    work = make_exchanges(workload, predict)
    outcomes = [run_python(address, workload, work, requests=30)]
    if wrk_is_here():
        outcomes.append(run_wrk(address, workload, work, 1, outcomes[0].least_wire_bytes))
    return outcomes


def test_each_request_of_every_run_has_another_trace() -> None:
    heads: list[dict[str, str]] = []
    with server(right, heads) as address:
        for _ in range(2):
            for outcome in drive_both(address, replace(WORKLOAD, traced=True)):
                assert outcome.requests > 10
                assert (outcome.wrong, outcome.errors) == (0, 0)
    found = [TRACEPARENT.fullmatch(head["traceparent"]) for head in heads]
    assert len({trace[1] for trace in found if trace}) == len(heads)
    heads.clear()
    with server(right, heads) as address:
        drive_both(address, WORKLOAD)
    assert not any("traceparent" in head for head in heads)


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_both_drivers_speak_tls_with_the_servers_own_certificate_alone(tmp_path: Path) -> None:
    certificate, key = certify(tmp_path / "server")
    other, _ = certify(tmp_path / "other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    work = make_exchanges(WORKLOAD, predict)
    with server(right, tls=context) as address:
        for outcome in drive_both(replace(address, certificate=certificate), WORKLOAD):
            assert outcome.requests > 10
            assert (outcome.wrong, outcome.errors) == (0, 0)
        outcome = run_python(replace(address, certificate=other), WORKLOAD, work, requests=30)
    assert (outcome.requests, outcome.errors) == (0, WORKLOAD.connections)


def test_without_openssl_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(RuntimeError, match="Install it, or leave them out with --servers"):
        certify(tmp_path)


def test_a_failed_slot_leaves_its_log_and_its_statuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def start(folder: Path) -> Iterator[Running]:
        folder.mkdir(parents=True)
        (folder / "output.log").write_text("why it answered 503")
        with server(every_tenth(BAD_ANSWERS["status"])) as address:
            process: Any = psutil.Process()
            yield Running(address.port, address.path, process=process, folder=folder)

    monkeypatch.setattr(bench, "SERVERS", {"bad": Server("bad", start)})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(bench, "first_export", lambda: tmp_path)
    monkeypatch.setattr(bench, "load_reference", lambda _: predict)
    options = argparse.Namespace(
        servers=["bad"], workloads=[WORKLOAD], rounds=1, seconds=1, sweep=False
    )
    results = Results({}, {}, [], [], [])
    [told] = bench.run(options, results, tmp_path / "scratch")
    [slot] = results.slots
    assert slot["failed"]
    assert slot["statuses"]["503"] == pytest.approx(slot["statuses"]["200"] / 9, abs=1)
    folder = Path(told.removeprefix("Logs are in "))
    assert (folder / "output.log").read_text() == "why it answered 503"
    assert json.loads((folder / "test.failed").read_text())["statuses"] == slot["statuses"]
