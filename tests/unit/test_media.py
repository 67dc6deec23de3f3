"""Media types are read leniently, and ``Accept`` is weighed as RFC 9110 says."""

from __future__ import annotations

import pytest

from diagonalflip.inference.media_types import MediaType, negotiate, parse_media_type
from diagonalflip.wire import JSON, OCTETS


@pytest.mark.parametrize(
    ("header", "name", "parameters"),
    [
        ('  application/json; Charset="UTF-8"', JSON, {"charset": "UTF-8"}),
        ("application/octet-stream ; padding = 4", OCTETS, {"padding": "4"}),
        ("a/b; x=1; y=2", "a/b", {"x": "1", "y": "2"}),
        *(("a/b; x", "a/b", {"x": ""}), ("a/b;", "a/b", {"": ""}), (";;;", "", {"": ""})),
    ],
)
def test_a_media_type_is_read(header: str, name: str, parameters: dict[str, str]) -> None:
    assert parse_media_type(header) == MediaType(name, parameters)


CHOSEN = {
    JSON: [f",, {JSON} ,", f"{JSON};q=0.001", f"{JSON}; Q=0.9, {OCTETS}; Q=0.8"],
    OCTETS: ["", "   ", " , ", f"{JSON};q=rubbish, {OCTETS};q=0.1", "application/*;q=0.2, */*"],
    None: [
        *("application/json+x", "rubbish", ";q=1", "application/*;q=0, */*"),
        *(f"{JSON};q={weight}" for weight in ("rubbish", "", "2", "-1", "nan", "inf")),
    ],
}
"""What the golden vectors do not have."""


@pytest.mark.parametrize(
    ("accept", "chosen"), [(accept, chosen) for chosen, each in CHOSEN.items() for accept in each]
)
def test_the_best_offer_is_chosen(accept: str, chosen: str | None) -> None:
    assert negotiate(accept, (OCTETS, JSON)) == chosen
