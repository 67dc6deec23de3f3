"""Requests that a parser remembers are read as if it had never seen them."""

from __future__ import annotations

import itertools
import tracemalloc
from contextlib import suppress
from typing import cast
from unittest.mock import MagicMock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diagonalflip.errors import DiagonalFlipError, HeadersTooLarge
from diagonalflip.server.http import limits
from diagonalflip.server.http.connection import Connection
from diagonalflip.server.http.head import KNOWN_HEAD_BYTES
from diagonalflip.server.http.parser import Parser
from diagonalflip.wire import MAX_BODY_BYTES

Event = tuple[object, ...]

HEADS = [
    "POST /predictions/diagonal_flip HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
    (
        "POST /predictions/diagonal_flip?a=1 HTTP/1.1\r\nHost: a\r\nAccept: a\r\naccept: b\r\n"
        "Content-Length: {}\r\n\r\n"
    ),
    "\r\nPUT http://x/ping/ HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
    "POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: {}\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: b\r\nContent-Length: {}\r\n\r\n",
    "POST / HTTP/1.1\nHost: a\nContent-Length: {}\n\n",
]
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
BODIES = [b"", b"a", b"b", b"\r\n\r\n", b"x\r\n\r\ny", b"POST / HTTP/1.1\r\nHost: a\r\n\r\n"]
IDS = [
    *(f"traceparent:{value}" for value in (" 1", " 2", "5", " ", "  ", " 6 7", " 8\r\n 9")),
    *("Traceparent: 3", "TRACEPARENT: 4", "traceparent: h\r\ntraceparent:i", "X-Request-Id: a"),
    *("x-request-id: b\r\ntracestate: c=d", "x-request-id: e\r\nX-Request-ID: f"),
    *("traceparent: \xff", "x: traceparent: g", "x: y\r\n z", "x: y"),
]
POST = "POST / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n"
OWN = POST.format("{}\r\nContent-Length: 1") + "b"
LENGTHS = [
    "1",
    "01",
    "+1",
    "0x1",
    "1 ",
    " 1",
    "-1",
    "1, 1",
    "1\r\ncontent-length: 1",
    "9" * 20,
    "1_0",
]
REQUESTS = [
    *(head.format(len(body)).encode() + body for head in HEADS for body in BODIES),
    *(OWN.format(each).encode("latin-1") for each in IDS),
    *(POST.format(f"Content-Length: {each}").encode() + b"b" for each in LENGTHS),
    b"\r\nGET /ping HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\nX-Request-Id: a\r\nGET /ping HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\n\r\nX-Request-Id: a\r\nGET /ping HTTP/1.1\r\nHost: a\r\n\r\n",
    *(OWN.format(f"X-Request-Id: b\r\nX-Request-Id:{each}").encode() for each in "qr"),
    OWN.format("X-Request-Id:q").encode(),
    CHUNKED,
    b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD /ping HTTP/1.1\r\nHost: a\r\n\r\n",
    *(b"\n", b"\n\r\n\r\n", b"\r\n\r\n", b"\x00"),
]


class Recorder:
    """A ``Connection`` that lists what it is told of requests."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.buffered = MagicMock()
        self.parser = Parser(cast("Connection", self))

    def expect(self) -> None:
        """Says nothing of what is asked."""

    def ask_for_body(self) -> None:
        self.events.append(("asks",))

    def admit(self, method: str, path: str, headers: dict[str, str]) -> bool:
        """A head: what asks for /no has no business here."""
        self.events.append((method, path, dict(headers)))
        return path != "/no"

    def receive(self, body: bytes, connection: str) -> None:
        self.events.append((body, connection))
        if connection == "close":
            self.parser.close()


def events(pieces: list[bytes], *, forget: bool) -> list[Event]:
    recorder = Recorder()
    parser = recorder.parser
    try:
        for piece in pieces:
            if forget:
                parser._known = None
            if not parser.is_closed:
                parser.feed(piece)
    except DiagonalFlipError as error:
        if not parser.is_closed:
            recorder.events.append((type(error), str(error)))
    return [*recorder.events, ("is_awaited", parser.is_awaited)]


def own(*lines: str) -> list[bytes]:
    return [OWN.format(each).encode() for each in lines]


@example(own("X-Request-Id: a", "x-request-id: e\r\nX-Request-ID: f"), [])
@example(own("X-Request-Id:q", "X-Request-Id: b\r\nX-Request-Id:q"), [])
@example(own("traceparent: 1", "traceparent: 2", "traceparent:  "), [])
@settings(max_examples=1000)
@given(
    requests=st.lists(st.sampled_from(REQUESTS), max_size=8),
    cuts=st.lists(st.integers(0, 400), max_size=4),
)
def test_what_is_remembered_is_read_alike(requests: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(requests)
    borders = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    anywhere = [stream[a:b] for a, b in itertools.pairwise(borders)]
    for pieces in (requests, anywhere, requests + anywhere):
        assert events(pieces, forget=False) == events(pieces, forget=True)


def test_the_same_head_is_known_with_other_bodies_ids_and_lengths() -> None:
    head = POST.format("traceparent: {}\r\nX-Request-Id: {}\r\nContent-Length: {}")
    recorder = Recorder()
    recorder.parser.feed(head.format(1, 2, 1).encode() + b"a")
    recorder.parser._llhttp = MagicMock(feed_data=None)  # it is not needed any more
    for body in (b"b", b"", bytes(1234), b"\r\n\r\n"):
        recorder.events.clear()
        trace, length = "t" * (1 + len(body) % 9), str(len(body))
        recorder.parser.feed(head.format(trace, "i", length).encode() + body)
        headers = {"host": "a", "traceparent": trace, "x-request-id": "i", "content-length": length}
        assert recorder.events == [("POST", "/", headers), (body, "")]


@pytest.mark.parametrize("head", [*HEADS[3:6], HEADS[7]])
def test_what_says_more_than_it_asks_is_read_each_time(head: str) -> None:
    recorder = Recorder()
    with suppress(DiagonalFlipError):
        for body in BODIES[:2]:
            if not recorder.parser.is_closed:
                recorder.parser.feed(head.format(len(body)).encode() + body)
    assert recorder.parser._known is None


@pytest.mark.parametrize(("more", "connection"), [(0, ""), (1, "close")])
def test_a_long_body_that_is_not_wanted_ends_the_connection_after_a_known_head_too(
    monkeypatch: pytest.MonkeyPatch, more: int, connection: str
) -> None:
    body = bytes(limits.IGNORED_BODY_BYTES + more)
    request, recorder = HEADS[0].format(len(body)).encode() + body, Recorder()
    recorder.parser.feed(request)
    assert recorder.parser._known
    monkeypatch.setattr(recorder, "admit", lambda *_: False)
    recorder.parser.feed(request)
    assert [event for event in recorder.events if len(event) == 2] == [
        (body, ""),
        (b"", connection),
    ]


def test_what_has_come_of_a_request_is_freed_when_no_more_is_read() -> None:
    parser = Recorder().parser
    tracemalloc.start()
    try:
        parser.feed(HEADS[0].format(MAX_BODY_BYTES).encode() + bytes(1 << 24))
        assert tracemalloc.get_traced_memory()[0] > 1 << 24
        parser.close()
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_body_in_small_chunks_takes_about_as_much_memory_as_it_has_bytes() -> None:
    recorder, size = Recorder(), 1 << 14
    recorder.buffered.take = lambda _: None  # a mock would keep each call
    recorder.parser.feed(CHUNKED.partition(b"1\r\na\r\n")[0])
    tracemalloc.start()
    try:
        recorder.parser.feed(b"2\r\nab\r\n" * (size // 2))
        assert size <= tracemalloc.get_traced_memory()[0] < 4 * size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("extra", [0, 1])
def test_a_long_head_is_not_remembered(extra: int) -> None:
    start, recorder = b"GET / HTTP/1.1\r\nHost: a\r\nx: ", Recorder()
    recorder.parser.feed(start.ljust(KNOWN_HEAD_BYTES - 4 + extra, b"a") + b"\r\n\r\n")
    assert bool(recorder.parser._known) is not bool(extra)


def test_the_host_of_a_target_counts_and_not_the_header() -> None:
    """RFC 9112, section 3.2.2."""
    found = events([b"GET http://b:80/ping HTTP/1.1\r\nHost: a\r\n\r\n"], forget=True)
    assert found[0] == ("GET", "/ping", {"host": "b:80"})


@pytest.mark.parametrize("size", [33_000, 120_000, 140_000])
@pytest.mark.parametrize(
    "start", [b"", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"]
)
def test_a_head_that_does_not_end_is_rejected_in_one_piece_too(start: bytes, size: int) -> None:
    """A header is kept by llhttp until it is whole."""
    found = events([start + b"GET / HTTP/1.1\r\nx: " + bytes([97]) * size], forget=True)
    assert found[-2][0] is HeadersTooLarge


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("Accept: image/png\r\nACCEPT: */*;q=0.1", {"accept": "image/png, */*;q=0.1"}),
        ("Content-Encoding: gzip\r\nContent-Encoding: gzip", {"content-encoding": "gzip, gzip"}),
        ("Content-Type: a/b\r\nContent-type: a/b", {"content-type": "a/b"}),
        *(
            (f"{name}: \t a b\t ", {name.lower(): "a b"})  # RFC 9110, section 5.5
            for name in ("Authorization", "X-Request-Id", "Inference-Header-Content-Length")
        ),
    ],
)
def test_a_header_is_its_lines_without_blanks_around(lines: str, expected: dict[str, str]) -> None:
    found = events([f"POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n".encode()], forget=True)
    assert found[0][2] == {"host": "a"} | expected
