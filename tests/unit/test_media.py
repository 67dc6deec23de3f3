"""Media types are read leniently, and ``Accept`` is weighed as RFC 9110 says."""

from __future__ import annotations

import pytest

from diagonalflip.inference.media_types import MediaType, negotiate, parse_media_type
from diagonalflip.wire import JSON, OCTETS

OFFERS = (OCTETS, JSON)


@pytest.mark.parametrize(
    ("header", "name", "parameters"),
    [
        *((each, JSON, {}) for each in (JSON, "Application/JSON", "  application/json  ")),
        ("application/json;charset=utf-8", JSON, {"charset": "utf-8"}),
        ('application/json; Charset="UTF-8"', JSON, {"charset": "UTF-8"}),
        ("application/octet-stream;padding=4", OCTETS, {"padding": "4"}),
        ("application/octet-stream ; padding = 4", OCTETS, {"padding": "4"}),
        ("a/b; x=1; y=2", "a/b", {"x": "1", "y": "2"}),
        *(("a/b; x", "a/b", {"x": ""}), ("a/b;", "a/b", {"": ""})),
        *(("", "", {}), (";;;", "", {"": ""})),
    ],
)
def test_a_media_type_is_read(header: str, name: str, parameters: dict[str, str]) -> None:
    assert parse_media_type(header) == MediaType(name, parameters)


ANYTHING = ["", "   ", " , ", "*/*", "application/*", f"{JSON}, {OCTETS}", f"{OCTETS}, {JSON}"]
OURS = {
    JSON: [
        *(JSON, "APPLICATION/JSON", f"{JSON}; charset=utf-8", f"text/html, {JSON}", f",, {JSON} ,"),
        # Weights.
        *(f"{JSON}, {OCTETS};q=0.9", f"{JSON};q=0.5, */*;q=0.4", f"{JSON};q=0.001"),
        f"{JSON}; Q=0.9, {OCTETS}; Q=0.8",
        # The specific range beats the general one, whatever its weight.
        *(f"*/*, {OCTETS};q=0.1", f"{OCTETS};q=0.2, application/*;q=0.5"),
        # 0 is never.
        *(f"{OCTETS};q=0, */*", f"{OCTETS};q=0.000, application/*"),
    ],
    OCTETS: [
        *(OCTETS, "text/html,application/xhtml+xml,*/*;q=0.8", f"{JSON};q=0.9, {OCTETS}"),
        *(f"*/*;q=0.1, application/*;q=0.3, {JSON};q=0.2", "application/*;q=0.2, */*"),
        f"{JSON};q=rubbish, {OCTETS};q=0.1",
    ],
    None: [
        *(f"{JSON};q=0", "*/*;q=0", "application/*;q=0, */*", f"{JSON};q=0, {OCTETS};q=0, */*"),
        *("text/html", "text/*", "application/json+x", "rubbish", ";q=1"),
        *(f"{JSON};q={weight}" for weight in ("rubbish", "", "2", "-1", "nan", "inf")),
    ],
}


@pytest.mark.parametrize(
    ("accept", "chosen"), [(accept, chosen) for chosen, each in OURS.items() for accept in each]
)
def test_the_best_offer_is_chosen(accept: str, chosen: str | None) -> None:
    assert negotiate(accept, OFFERS) == chosen


@pytest.mark.parametrize("accept", ANYTHING)
def test_among_equals_the_server_prefers_its_first(accept: str) -> None:
    for offers in (OFFERS, OFFERS[::-1]):
        assert negotiate(accept, offers) == offers[0]
