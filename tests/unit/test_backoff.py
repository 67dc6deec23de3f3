"""Delays between restarts of one part."""

from __future__ import annotations

import pytest

from diagonalflip.server.supervisor.backoff import LONGEST_S, STABLE_S, RestartBackoff

DELAYS = [0, 1, 3, 7, 15, 15]


class Clock:
    """Seconds, as a test has them pass."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(
    ("starts_s", "lives_s", "ready", "failed"),
    [
        (0.0, 0.0, False, 6),
        (10 * STABLE_S, 0.0, False, 6),  # however slowly a start fails, it is no long life
        (10 * STABLE_S, STABLE_S - 1, True, 0),
    ],
)
def test_delays_between_short_lives_grow_to_the_longest(
    starts_s: float, lives_s: float, ready: bool, failed: int
) -> None:
    clock = Clock()
    backoff = RestartBackoff(clock)
    seen = []
    for _ in DELAYS:
        clock.seconds += starts_s
        if ready:
            backoff.ready()
        clock.seconds += lives_s
        seen.append(backoff.ended())
    assert seen == DELAYS
    assert backoff.failed_starts == failed
    assert [backoff.ended() for _ in range(2000)] == [LONGEST_S] * 2000
    backoff.ready()
    assert backoff.failed_starts == 0
    clock.seconds += STABLE_S
    assert [backoff.ended() for _ in DELAYS] == DELAYS, "a long life begins anew"
