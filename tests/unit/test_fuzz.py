"""The short form of `make fuzz`: the same targets, seeds and checks, always the same mutants."""

from __future__ import annotations

from itertools import islice
from types import ModuleType

import pytest

from tests.fuzz import connection_target, decode_target
from tests.fuzz.source import mutants

pytestmark = pytest.mark.slow

SHORT = 50_000
"""Executions of a target: some seconds."""


@pytest.mark.filterwarnings("default")  # Pillow warns of damaged animations, and goes on
@pytest.mark.parametrize("target", [decode_target, connection_target])
def test_whatever_comes_is_answered_or_rejected(target: ModuleType) -> None:
    rejected = 0
    for data in islice(mutants(target.seeds(), target.TOKENS, 1), SHORT):
        try:
            rejected += target.run(data).rejected
        except Exception as error:
            pytest.fail(f"{data!r}: {error!r}")
    assert 0 < rejected < SHORT
