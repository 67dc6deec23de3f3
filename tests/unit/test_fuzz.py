"""The short form of `make fuzz`: the same targets, seeds and checks, always the same mutants."""

from __future__ import annotations

from itertools import islice
from types import ModuleType

import pytest

from tests.fuzz import connection_target, decode_target
from tests.fuzz.source import mutants


@pytest.mark.filterwarnings("default")  # Pillow warns of damaged animations, and goes on
@pytest.mark.parametrize(
    ("target", "executions"),
    [
        (decode_target, 20_000),
        pytest.param(decode_target, 50_000, marks=pytest.mark.slow),
        pytest.param(connection_target, 50_000, marks=pytest.mark.slow),
    ],
)
def test_whatever_comes_is_answered_or_rejected(target: ModuleType, executions: int) -> None:
    rejected = 0
    for data in islice(mutants(target.seeds(), target.TOKENS, 1), executions):
        try:
            rejected += target.run(data).rejected
        except Exception as error:
            pytest.fail(f"{data!r}: {error!r}")
    assert 0 < rejected < executions
