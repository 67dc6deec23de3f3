"""Media types are read leniently, and ``Accept`` is weighed as RFC 9110 says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagonalflip.inference.media_types import MediaType, negotiate, parse_media_type
from diagonalflip.wire import JSON, OCTETS

OFFERS = (OCTETS, JSON)


@pytest.mark.parametrize(
    ("header", "name", "parameters"),
    [
        ("application/json", JSON, {}),
        ("Application/JSON", JSON, {}),
        ("  application/json  ", JSON, {}),
        ("application/json;charset=utf-8", JSON, {"charset": "utf-8"}),
        ('application/json; Charset="UTF-8"', JSON, {"charset": "UTF-8"}),
        ("application/octet-stream;padding=4", OCTETS, {"padding": "4"}),
        ("application/octet-stream ; padding = 4", OCTETS, {"padding": "4"}),
        ("a/b; x=1; y=2", "a/b", {"x": "1", "y": "2"}),
        ("a/b; x", "a/b", {"x": ""}),
        ("a/b;", "a/b", {"": ""}),
        ("", "", {}),
        (";;;", "", {"": ""}),
    ],
)
def test_a_media_type_is_read(header: str, name: str, parameters: dict[str, str]) -> None:
    assert parse_media_type(header) == MediaType(name, parameters)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        # Anything: the server's own preference.
        ("", OCTETS),
        ("   ", OCTETS),
        ("*/*", OCTETS),
        ("application/*", OCTETS),
        # One of ours.
        (JSON, JSON),
        (OCTETS, OCTETS),
        ("APPLICATION/JSON", JSON),
        ("application/json; charset=utf-8", JSON),
        # Lists.
        ("application/json, application/octet-stream", OCTETS),
        ("text/html, application/json", JSON),
        ("text/html,application/xhtml+xml,*/*;q=0.8", OCTETS),
        (",, application/json ,", JSON),
        # Weights.
        ("application/json, application/octet-stream;q=0.9", JSON),
        ("application/json;q=0.9, application/octet-stream", OCTETS),
        ("application/json;q=0.5, */*;q=0.4", JSON),
        ("application/json;q=0.001", JSON),
        ("application/json; Q=0.9, application/octet-stream; Q=0.8", JSON),
        # The specific range beats the general one, whatever its weight.
        ("*/*, application/octet-stream;q=0.1", JSON),
        ("*/*;q=0.1, application/*;q=0.3, application/json;q=0.2", OCTETS),
        ("application/*;q=0.2, */*", OCTETS),
        ("application/octet-stream;q=0.2, application/*;q=0.5", JSON),
        # 0 is never.
        ("application/octet-stream;q=0, */*", JSON),
        ("application/octet-stream;q=0.000, application/*", JSON),
        ("application/json;q=0", None),
        ("*/*;q=0", None),
        ("application/*;q=0, */*", None),
        ("application/json;q=0, application/octet-stream;q=0, */*", None),
        # None of ours.
        ("text/html", None),
        ("text/*", None),
        ("application/json+x", None),
        # Rubbish.
        ("rubbish", None),
        (";q=1", None),
        ("application/json;q=rubbish", None),
        ("application/json;q=", None),
        ("application/json;q=2", None),
        ("application/json;q=-1", None),
        ("application/json;q=nan", None),
        ("application/json;q=inf", None),
        ("application/json;q=rubbish, application/octet-stream;q=0.1", OCTETS),
    ],
)
def test_the_best_offer_is_chosen(accept: str, chosen: str | None) -> None:
    assert negotiate(accept, OFFERS) == chosen


@pytest.mark.parametrize("accept", ["", " , ", "*/*", "application/*", f"{JSON}, {OCTETS}"])
@pytest.mark.parametrize("offers", [(OCTETS, JSON), (JSON, OCTETS)])
def test_among_equals_the_server_prefers_its_first(accept: str, offers: tuple[str, ...]) -> None:
    assert negotiate(accept, offers) == offers[0]


@given(st.text(max_size=80) | st.text(alphabet='*/;,=q01. "ajson', max_size=40))
def test_no_header_can_break_the_reading(header: str) -> None:
    parse_media_type(header)
    assert negotiate(header, OFFERS) in (*OFFERS, None)
