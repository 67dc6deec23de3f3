"""The short form of `make fuzz`: the same targets, seeds and checks, always the same mutants."""

from __future__ import annotations

from itertools import islice

import pytest

from tests.fuzz.connection_target import Connections
from tests.fuzz.decode_target import Decoders
from tests.fuzz.source import Target, mutants

pytestmark = pytest.mark.slow

SHORT = 50_000
"""Executions of a target: some seconds."""


@pytest.mark.filterwarnings("default")  # Pillow warns of damaged animations, and goes on
@pytest.mark.parametrize("kind", [Decoders, Connections])
def test_whatever_comes_is_answered_or_rejected(kind: type[Target]) -> None:
    target = kind()
    rejected = 0
    for data in islice(mutants(target.seeds(), target.tokens, 1), SHORT):
        try:
            rejected += target.run(data).rejected
        except Exception as error:
            pytest.fail(f"{data!r}: {error!r}")
    assert 0 < rejected < SHORT
