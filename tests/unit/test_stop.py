"""A stop signal is an exception only where the process waits."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from supervisor.stop import Stop, StopRequested


@pytest.fixture
def stop() -> Iterator[Stop]:
    """One that SIGALRM requests."""
    before = signal.getsignal(signal.SIGALRM)
    stop = Stop()
    stop.on([signal.SIGALRM])
    yield stop
    signal.signal(signal.SIGALRM, before)


def test_a_pause_without_a_signal_just_ends(stop: Stop) -> None:
    stop.pause(0)
    stop.pause(0.01)


def test_a_signal_raises_at_the_next_pause_and_not_before(stop: Stop) -> None:
    signal.raise_signal(signal.SIGALRM)
    signal.raise_signal(signal.SIGALRM)
    for _ in range(2):
        with pytest.raises(StopRequested):
            stop.pause(0)


def test_a_signal_ends_a_pause(stop: Stop) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    with pytest.raises(StopRequested):
        stop.pause(3600)
