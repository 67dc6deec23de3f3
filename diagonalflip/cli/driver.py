"""An open-loop load: requests are due on a schedule, whether or not the last one is answered.

A closed loop asks the next question after the last answer, so a server that stalls is asked
less while it does, and the stall is one slow sample (coordinated omission). Here a stall
makes everything due in it late, and latency counts from when a request was due.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from diagonalflip.errors import DiagonalFlipError

Send = Callable[[int, float], None]
"""Sends request number i within so many seconds; raises DiagonalFlipError if the answer is
missing or wrong."""


@dataclass
class Outcome:
    """What came of a load.

    Attributes:
        latencies_s: From due to answered, of every good answer.
        failures: Texts of what went wrong otherwise, and how often.
        unanswered: Requests that were due and had no answer when time was up.
        latest_start_s: Longest time from due to sent: how far the load fell behind.
    """

    latencies_s: list[float] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    unanswered: int = 0
    latest_start_s: float = 0.0


def schedule(
    rate: float, duration_s: float, *, poisson: bool, seed: int
) -> npt.NDArray[np.float64]:
    """Seconds from the start at which requests are due, ascending, all below ``duration_s``.

    Args:
        rate: Requests a second, on average.
        duration_s: Length of the schedule.
        poisson: Whether gaps are exponential, as of users who know nothing of each other,
            or all alike.
        seed: Of the random gaps.
    """
    count = int(np.ceil(rate * duration_s))
    if not poisson:
        return np.arange(count) / rate
    generator = np.random.default_rng(seed)
    # In a Poisson process that had n arrivals, they are n uniform times; n itself is Poisson.
    times = generator.uniform(0.0, duration_s, generator.poisson(rate * duration_s))
    return np.asarray(np.sort(times))


class Driver:
    """Sends what is due from as many threads as there may be connections.

    Args:
        send: Sends one request and checks its answer.
        due_s: Seconds from the start, ascending.
        connections: Threads.
        end_s: When all is over, seconds from the start; not a second later.
        clock: Seconds since some moment.
    """

    def __init__(
        self,
        send: Send,
        due_s: Sequence[float] | npt.NDArray[np.float64],
        connections: int,
        end_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._due_s = [float(due) for due in due_s]
        self._connections = connections
        self._end_s = end_s
        self._clock = clock
        self._next: Iterator[int] = iter(range(len(self._due_s)))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._outcome = Outcome()
        self._settled = 0

    def run(self) -> Outcome:
        """Runs the schedule; returns by ``end_s`` even if answers are still out."""
        start = self._clock()
        # Daemons, because a peer that drips can hold one for longer than the load may take.
        threads = [
            threading.Thread(target=self._work, args=(start,), daemon=True)
            for _ in range(self._connections)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join(max(0.0, start + self._end_s - self._clock()))
        finally:
            self._stop.set()
        with self._lock:
            self._outcome.unanswered = len(self._due_s) - self._settled
            return self._outcome

    def _work(self, start: float) -> None:
        while (index := self._take()) is not None:
            due = start + self._due_s[index]
            self._stop.wait(max(0.0, due - self._clock()))
            sent = self._clock()
            left_s = start + self._end_s - sent
            if self._stop.is_set() or left_s <= 0:
                return
            failure = None
            try:
                self._send(index, left_s)
            except DiagonalFlipError as error:
                failure = f"{type(error).__name__}: {error}"
            self._settle(self._clock() - due, sent - due, failure)

    def _take(self) -> int | None:
        with self._lock:
            return next(self._next, None)

    def _settle(self, latency_s: float, late_s: float, failure: str | None) -> None:
        with self._lock:
            if self._stop.is_set():
                return  # it was counted as unanswered
            outcome = self._outcome
            self._settled += 1
            outcome.latest_start_s = max(outcome.latest_start_s, late_s)
            if failure is None:
                outcome.latencies_s.append(latency_s)
            else:
                outcome.failures[failure] = outcome.failures.get(failure, 0) + 1
