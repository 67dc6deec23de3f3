"""The open-loop driver: when requests go out, what counts as latency, and that it ends."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from diagonalflip import errors
from diagonalflip._endpoint import Reply
from diagonalflip.cli import report
from diagonalflip.cli.driver import Driver, Outcome, schedule
from diagonalflip.cli.load import BODIES, checked_send
from diagonalflip.cli.raw import Raw
from diagonalflip.wire import Images, unpack

LONG_S = 60.0


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Seconds since some moment."""
        return self.now_s


def test_a_fixed_schedule_is_even() -> None:
    due = schedule(10, 1.0, poisson=False, seed=1)
    assert due.tolist() == pytest.approx([n / 10 for n in range(10)])
    assert len(schedule(0.01, 0.01, poisson=False, seed=1)) == 1


def test_a_poisson_schedule_has_exponential_gaps() -> None:
    due = schedule(100, 1000.0, poisson=True, seed=1)
    gaps = np.diff(due)
    assert (gaps >= 0).all()
    assert due[0] >= 0
    assert due[-1] < 1000
    assert gaps.mean() == pytest.approx(0.01, rel=0.02)
    assert gaps.std() == pytest.approx(0.01, rel=0.02)
    assert due.tolist() == schedule(100, 1000.0, poisson=True, seed=1).tolist()


def test_every_request_is_sent_once() -> None:
    sent: list[int] = []
    outcome = Driver(lambda i, _: sent.append(i), [0.0] * 100, 7, LONG_S).run()
    assert sorted(sent) == list(range(100))
    assert len(outcome.latencies_s) == 100
    assert (outcome.unanswered, outcome.failures) == (0, {})


def test_a_stall_makes_late_what_was_due_in_it() -> None:
    """One connection, ten requests due at once: the last waited for nine others."""
    clock = Clock()
    left: list[float] = []

    def send(_index: int, left_s: float) -> None:
        left.append(left_s)
        clock.now_s += 1  # the stall itself

    outcome = Driver(send, [0.0] * 10, 1, LONG_S, clock).run()
    assert outcome.latencies_s == [float(second) for second in range(1, 11)]
    assert outcome.latest_start_s == 9
    assert left == [LONG_S - second for second in range(10)]


def test_failures_are_counted_by_what_they_say() -> None:
    def send(index: int, _: float) -> None:
        if index % 2:
            raise errors.ServerOverloaded("503", "an answer")

    outcome = Driver(send, [0.0] * 10, 2, LONG_S).run()
    assert list(outcome.failures.values()) == [5]
    assert len(outcome.latencies_s) == 5


def test_it_ends_though_answers_are_still_out() -> None:
    never = threading.Event()
    try:
        outcome = Driver(lambda *_: cast("None", never.wait()), [0.0] * 5, 2, 0.05).run()
    finally:
        never.set()
    assert outcome.unanswered == 5
    assert outcome.latencies_s == []


def test_what_is_due_is_not_sent_after_the_end() -> None:
    clock = Clock()
    sent: list[int] = []

    def send(index: int, _: float) -> None:
        sent.append(index)
        clock.now_s += 2 * LONG_S

    outcome = Driver(send, [0.0, 0.0], 1, LONG_S, clock).run()
    assert sent == [0]
    assert outcome.unanswered == 1


class Flipping:
    """Answers right, or as a test wants."""

    def __init__(self) -> None:
        self.wrong: Reply | None = None

    def post(self, body: bytes, headers: dict[str, str], **_: Any) -> Reply:
        """As ``Raw.post``."""
        if self.wrong is not None:
            return self.wrong
        odd = headers["Content-Type"].endswith("; padding=4")
        numbers = unpack(Images(body, 2 * len(body) - odd))
        rows = np.repeat(numbers[:, None], 4, axis=1).astype("<f4")
        return Reply(200, {"Content-Type": "application/octet-stream"}, rows.tobytes())


@pytest.mark.parametrize("count", [1, 2, 33])
def test_right_answers_pass(count: int) -> None:
    send = checked_send(cast("Raw", Flipping()), count)
    for index in range(2 * BODIES):
        send(index, 1.0)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (Reply(200, {}, b""), errors.InvalidAnswer),
        (Reply(200, {}, np.array([1, 2, 3, 4], "<f4").tobytes()), errors.InvalidAnswer),
        (Reply(500, {}, b""), errors.InvalidAnswer),
        (Reply(503, {}, b""), errors.ServerOverloaded),
    ],
)
def test_any_other_answer_is_a_failure(wrong: Reply, error: type[Exception]) -> None:
    server = Flipping()
    send = checked_send(cast("Raw", server), 1)
    server.wrong = wrong
    with pytest.raises(error):
        send(0, 1.0)


def test_a_server_that_predicts_nan_is_not_loaded() -> None:
    server = Flipping()
    nan = np.full(4, np.nan, "<f4").tobytes()
    server.wrong = Reply(200, {"Content-Type": "application/octet-stream"}, nan)
    with pytest.raises(errors.InvalidAnswer, match="not finite"):
        checked_send(cast("Raw", server), 1)


OUTCOME = Outcome([n / 1000 for n in range(1, 1001)], {"ServerOverloaded: x": 2}, 3, 0.004)


def test_percentiles() -> None:
    summary = report.summarise(OUTCOME, 1005)
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["due"], summary["answered"], summary["unanswered"]) == (1005, 1000, 3)
    assert summary["latest_start_ms"] == 4.0
    latency = summary["latency_ms"]
    assert list(latency) == ["p50", "p90", "p99", "p99.9", "p99.99", "max"]
    assert latency["p50"] == pytest.approx(500, rel=2e-3)
    assert latency["p99"] == pytest.approx(990, rel=2e-3)
    assert latency["max"] == pytest.approx(1000, rel=2e-3)


def test_a_report_for_people() -> None:
    text = report.text(report.summarise(OUTCOME, 1005))
    assert "1000 of 1005 requests answered" in text
    assert "2 times ServerOverloaded: x" in text
    assert "p99.9" in text


def test_nothing_answered_has_no_latency() -> None:
    assert report.summarise(Outcome(), 5)["latency_ms"] == {}


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
@pytest.mark.parametrize("outcome", [OUTCOME, Outcome([0.001])])
def test_a_plot(tmp_path: Path, suffix: str, magic: bytes, outcome: Outcome) -> None:
    path = tmp_path / f"load{suffix}"
    report.check_available(path)
    report.draw(outcome, path, "title")
    assert path.read_bytes().startswith(magic)


@pytest.mark.parametrize(("missing", "plot"), [("hdrh", None), ("matplotlib", Path("x.svg"))])
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, missing: str, plot: Path | None
) -> None:
    found = {"hdrh": object(), "matplotlib": object()} | {missing: None}
    monkeypatch.setattr(report, "find_spec", found.get)
    with pytest.raises(errors.DiagonalFlipError, match=rf"no {missing}.*diagonalflip\[load\]"):
        report.check_available(plot)
