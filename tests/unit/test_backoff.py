"""Delays between restarts of one part."""

from __future__ import annotations

import pytest

from diagonalflip.server.supervisor.backoff import LONGEST_S, STABLE_S, RestartBackoff

DELAYS = [0, 1, 3, 7, 15, 15]


@pytest.mark.parametrize(
    ("starts_s", "lives_s", "ready", "failed"),
    [
        (0.0, 0.0, False, 6),
        (10 * STABLE_S, 0.0, False, 6),  # however slowly a start fails, it is no long life
        (10 * STABLE_S, STABLE_S - 1, True, 0),
    ],
)
def test_delays_between_short_lives_grow_to_the_longest(
    starts_s: float, lives_s: float, ready: bool, failed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("diagonalflip.server.supervisor.backoff.time.monotonic", lambda: now[0])
    backoff = RestartBackoff()
    seen = []
    for _ in DELAYS:
        now[0] += starts_s
        if ready:
            backoff.ready()
        now[0] += lives_s
        seen.append(backoff.ended())
    assert seen == DELAYS
    assert backoff.failed_starts == failed
    assert [backoff.ended() for _ in range(2000)] == [LONGEST_S] * 2000
    backoff.ready()
    assert backoff.failed_starts == 0
    now[0] += STABLE_S
    assert [backoff.ended() for _ in DELAYS] == DELAYS, "a long life begins anew"
