r"""Requests that other HTTP servers have read wrongly, and what RFC 9110 and 9112 say of each.

Every case names where it comes from. Its bytes and its outcome are our own:

- RFC: a section of RFC 9112, or of RFC 9110 where that is named.
- garden: narfindustries/http-garden, ``TROPHIES.md``.
- llhttp: nodejs/llhttp, ``test/request/*.md``.
- h11: python-hyper/h11, ``h11/tests``.
- probe: MDA2AV/Http11Probe, ``src/Http11Probe/TestCases/Suites``.
- thesis: mattiasgrenfeldt/bachelors-thesis-http-request-smuggling, ``requests``.
- smuggler: defparam/smuggler, ``configs/exhaustive.py``.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from enum import Enum, auto
from http.client import parse_headers
from threading import Event
from typing import BinaryIO, NamedTuple

import pytest

from tests.contract.test_http import PATH, Port

PING = b"GET /ping HTTP/1.1\r\nHost: a\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: a\r\n" % PATH.encode()
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
NEXT = POST + b"Content-Length: 4\r\n\r\nnext"
CLOSE, KEEP_ALIVE = b"Connection: close", b"Connection: keep-alive"
UPGRADE = b"Connection: Upgrade", b"Upgrade: h2c"
CONTINUE = b"Expect: 100-continue"


class End(Enum):
    """What becomes of the connection after the last response."""

    KEPT = auto()
    CLOSED = auto()
    WAITS = auto()
    """The server waits for the rest of the request."""


class Case(NamedTuple):
    """Bytes on one connection, and what comes back for them.

    Attributes:
        responses: In their order: a status, or the body of a 200.
    """

    name: str
    source: str
    sent: bytes
    responses: tuple[int | bytes, ...]
    end: End


def kept(name: str, source: str, sent: bytes, *responses: int | bytes) -> Case:
    return Case(name, source, sent, responses, End.KEPT)


def closed(name: str, source: str, sent: bytes, *responses: int | bytes) -> Case:
    return Case(name, source, sent, responses or (400,), End.CLOSED)


def waits(name: str, source: str, sent: bytes, *responses: int | bytes) -> Case:
    return Case(name, source, sent, responses, End.WAITS)


def lines(*each: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in (*each, b""))


def ping(*headers: bytes) -> bytes:
    return PING + lines(*headers)


def post(*headers: bytes) -> bytes:
    return POST + lines(*headers)


def get(version: bytes = b"HTTP/1.1", target: bytes = b"/ping", method: bytes = b"GET") -> bytes:
    return lines(b"%b %b %b" % (method, target, version), b"Host: a")


def host(value: bytes) -> bytes:
    return lines(b"GET /ping HTTP/1.1", b"Host: " + value)


def sized(length: bytes, body: bytes = b"abcde") -> bytes:
    return post(b"Content-Length: " + length) + body


def coded(coding: bytes, *headers: bytes) -> bytes:
    return post(b"Transfer-Encoding:" + coding, *headers) + b"3\r\nabc\r\n" + LAST


def chunk(line: bytes, data: bytes = b"abcde\r\n") -> bytes:
    return CHUNKED + line + data + LAST


def trailer(*trailers: bytes) -> bytes:
    return CHUNKED + b"1\r\na\r\n0\r\n" + lines(*trailers)


def old(request: bytes) -> bytes:
    return request.replace(b"HTTP/1.1", b"HTTP/1.0")


LINES = [
    kept("CRLF first", "RFC 2.2; llhttp sample.md", b"\r\n" + ping(), 200),
    kept("CRLF behind a body", "llhttp connection.md", sized(b"1", b"a\r\n") + ping(), b"a", 200),
    closed("LF ends the request line", "probe Compliance", PING.replace(b"\r\n", b"\n", 1)),
    closed("LF ends a header", "probe Compliance", ping(b"x: a\ny: b")),
    closed("LF ends every line", "llhttp invalid.md", ping(b"x: a").replace(b"\r\n", b"\n")),
    closed("LF CR ends a header", "thesis line_endings", ping(b"x: a\n\ry: b")),
    closed("LF behind an empty value", "llhttp invalid.md", ping(b"x:\ny: b")),
    closed("LF ends the head", "RFC 2.2", PING + b"\n"),
    closed("LF LF ends the head", "garden server 19", PING + b"x:\n\n"),
    closed("LF before the version", "garden server 9", get(b"HTTP/1.1").replace(b" H", b"\nH")),
    closed("CR ends the request line", "probe Compliance", PING.replace(b"\r\n", b"\r", 1)),
    closed("CR ends a header", "thesis line_endings", ping(b"x: a\ry: b")),
    closed("CR CRLF ends a header", "thesis line_endings", ping(b"x: a\r")),
    closed("CR behind an empty value", "llhttp invalid.md", ping(b"x:\ry: b")),
    closed("CR in a name", "smuggler 0dspam", ping(b"Transfer\r-Encoding: chunked")),
    closed("CR in an option", "llhttp connection.md", ping(b"Connection: keep\ralive")),
    closed("CR in the target", "RFC 2.2", get(target=b"/pi\rng")),
    closed("CR X ends the head", "garden server 30", PING + b"\rZx: a\r\n\r\n"),
    closed(
        "CR before the body",
        "llhttp content-length.md",
        sized(b"3").replace(b"\r\n\r\n", b"\r\n\r"),
    ),
    closed("spaces, then CRLF first", "probe MalformedInput", b"   \r\n\r\n"),
    closed("a folded value", "RFC 5.2; probe Compliance", ping(b"x: a", b" b")),
    closed("a value folded by a tab", "RFC 5.2; llhttp sample.md", ping(b"x: a", b"\tb")),
    closed("an empty fold", "RFC 5.2", ping(b"x: a", b" ")),
    closed("a folded colon", "llhttp invalid.md", ping(b"name", b" : value")),
    closed("a folded name", "garden server 37", ping(b"Transfer-", b"Encoding: chunked")),
    closed("a folded length", "thesis obs_fold", sized(b"\r\n 5")),
    closed("a length that goes on", "thesis obs_fold", sized(b"5\r\n\t1")),
    closed("a length in a fold", "llhttp invalid.md", ping(b"x: a", b" Content-Length: 5")),
    closed("a folded coding", "thesis obs_fold", coded(b"\r\n chunked")),
    closed("a coding that goes on", "thesis obs_fold", coded(b" chunked\r\n ,x")),
    closed("a folded option", "llhttp connection.md", ping(b"Connection: a,", b" close")),
    closed("space before the first header", "RFC 2.2", PING.replace(b"Host", b" Host") + b"\r\n"),
    closed("tab before the first header", "garden server 4", PING.replace(b"Host", b"\tHost")),
]

HEADERS = [
    kept("empty values", "h11 test_io.py", ping(b"x:", b"y: \t "), 200),
    closed("an empty value, then close", "RFC 5.1", ping(b"x:", b"Connection: close"), 200),
    kept(
        "an empty value, then a length", "RFC 5.1", post(b"x:", b"Content-Length: 1") + b"a", b"a"
    ),
    kept(
        "an empty value, then a host",
        "RFC 5.1",
        PING.replace(b"Host", b"x:\r\nHost") + b"\r\n",
        200,
    ),
    kept("no space behind the colon", "thesis random", ping(b"x:a"), 200),
    kept("every character of a token", "RFC 9110 5.6.2", ping(b"!#$%&'*+-.^_`|~09azAZ: x"), 200),
    kept("a value beyond ASCII", "llhttp sample.md", ping(b"x: \xe4\xff\x80"), 200),
    kept("colons in a value", "RFC 5.1", ping(b"x::a:b"), 200),
    kept("the same header twice", "RFC 9110 5.3", ping(b"x: a", b"x: b"), 200),
    kept(
        "an underscore in the length's name", "thesis replaceDash", ping(b"Content_Length: 3"), 200
    ),
    kept("an underscore in the coding's", "smuggler", ping(b"Transfer_Encoding: chunked"), 200),
    closed("space before a colon", "RFC 5.1; h11 test_io.py", ping(b"x : a")),
    closed("tab before a colon", "h11 test_io.py", ping(b"x\t: a")),
    closed("space behind the length's name", "garden server 3", post(b"Content-Length : 5")),
    closed("space behind the coding's name", "smuggler", post(b"Transfer-Encoding : chunked")),
    closed("a space in a name", "smuggler spacejoin1", ping(b"Transfer Encoding: chunked")),
    closed("a tab in a name", "probe Normalization", ping(b"Content\tLength: 9")),
    closed("no colon", "garden server 28", ping(b"Content-Length 10")),
    closed("no name", "garden server 18; h11 test_io.py", ping(b": a")),
    closed("neither name nor value", "garden server 27", ping(b":")),
    closed("a bracket in a name", "probe Compliance", ping(b"a[b: c")),
    closed("an at in a name", "llhttp invalid.md", ping(b"a@b: c")),
    closed("NUL in a name", "h11 test_headers.py", ping(b"a\0b: c")),
    closed("a control in a name", "h11 test_headers.py", ping(b"a\x01b: c")),
    closed("DEL in a name", "RFC 9110 5.6.2", ping(b"a\x7fb: c")),
    closed("a name beyond ASCII", "garden server 8", ping(b"\xeffoo: a")),
    closed("0x85 behind a name", "garden server 20", ping(b"Content-Length\x85: 5")),
    closed("NUL in a value", "garden server 35", ping(b"x: a\0b")),
    closed("NUL ends a value", "garden server 43", ping(b"x: a\0")),
    closed("controls in a value", "probe MalformedInput", ping(b"x: a\x07\x08\x0bb")),
    closed("DEL in a value", "RFC 9110 5.5", ping(b"x: a\x7fb")),
    closed("a value too long", "probe MalformedInput", ping(b"x: " + b"a" * 20_000), 431),
    closed("a name too long", "probe MalformedInput", ping(b"a" * 20_000 + b": x"), 431),
    closed("too many headers", "probe MalformedInput", ping(*[b"name: value"] * 4000), 431),
]

LENGTHS = [
    kept("zeroes before a length", "llhttp content-length.md", sized(b"005"), b"abcde"),
    kept("a length that is not octal", "garden server 32", sized(b"010", b"a" * 10), b"a" * 10),
    kept("many zeroes", "RFC 9110 8.6", sized(b"0" * 200 + b"5"), b"abcde"),
    kept("blanks around a length", "llhttp content-length.md", sized(b" \t5\t "), b"abcde"),
    kept("letters of its name", "llhttp content-length.md", post(b"conTENT-LENGTH:1") + b"a", b"a"),
    kept("no length, no body", "RFC 6.3", post(), b""),
    kept("a body of GET", "probe Compliance", ping(b"Content-Length: 3") + b"abc", 200),
    kept("a body like a request", "garden server 48", sized(b"%d" % len(NEXT), NEXT), NEXT),
    kept("length 0, then a request", "probe Smuggling", sized(b"0", b"") + ping(), b"", 200),
    *(
        closed(f"length {value!r}", source, sized(value))
        for value, source in (
            (b"+5", "probe Compliance; thesis plusAndMinus"),
            (b"-5", "garden server 26"),
            (b"-0", "thesis plusAndMinus"),
            (b"0x5", "thesis weirdNumbers"),
            (b"5_0", "garden server 10"),
            (b"5.0", "thesis weirdNumbers"),
            (b"5Z", "garden server 29"),
            (b'"5"', "RFC 9110 8.6"),
            (b"5 5", "llhttp content-length.md"),
            (b"", "garden server 16"),
            (b" ", "garden server 38"),
            (b"5\x0c", "thesis weirdNumbers"),
            (b"\x0b5", "thesis weirdNumbers"),
            (b"\xa05", "garden server 46"),
            (b"5\x85", "garden server 12"),
            (b"\xd9\xa5", "RFC 9110 8.6"),
            (b"5\0", "RFC 9110 5.5"),
            (b"5, 6", "probe Smuggling"),
            (b"5, 5", "RFC 6.3"),
            (b"5,", "RFC 6.3"),
            (b"5\r\nContent-Length: 6", "garden server 23"),
            (b"6\r\nContent-Length: 5", "garden server 33"),
            (b"5\r\nContent-Length: 5", "RFC 6.3"),
            (b"\r\nContent-Length: 5", "garden server 42"),
            (b"5\r\nContent-Length : 5", "probe Normalization"),
            (b"18446744073709551621", "thesis overflow"),
            (b"9" * 100, "h11 test_headers.py"),
        )
    ),
    closed("a length beyond 32 bits", "thesis overflow", sized(b"4294967301"), 413),
    closed("a length of 63 bits", "thesis overflow", sized(b"9223372036854775807"), 413),
    waits("a body that is short", "probe Compliance", sized(b"6")),
]

CODINGS = [
    *(
        kept(f"coding {value!r}", source, coded(value), b"abc")
        for value, source in (
            (b"chunked", "thesis random"),
            (b" \t chunked ", "smuggler tabprefix1"),
            (b" CHUNKED", "smuggler yelling"),
            (b" cHuNkeD", "h11 test_headers.py"),
            (b" , chunked", "RFC 9110 5.6.1; garden server 21"),
        )
    ),
    kept(
        "letters of the coding's name",
        "thesis UPPERlowercase",
        CHUNKED.replace(b"Tr", b"tR") + LAST,
        b"",
    ),
    *(
        closed(f"coding {value!r}", source, coded(value), status)
        for status, value, source in (
            (501, b" gzip, chunked", "RFC 6.1"),
            (501, b" cow, chunked", "smuggler cowComma"),
            (501, b" identity, chunked", "thesis te_comma"),
            (501, b" cow\r\nTransfer-Encoding: chunked", "smuggler revdualchunk"),
            (400, b" gzip", "RFC 6.3"),
            (400, b" identity", "thesis get_te_identity"),
            (400, b" pigeons", "llhttp transfer-encoding.md"),
            (400, b" chunked, gzip", "llhttp transfer-encoding.md"),
            (400, b" chunked, identity", "thesis te_comma"),
            (400, b" chunked\r\nTransfer-Encoding: gzip", "llhttp transfer-encoding.md"),
            (400, b" chunked, chunked", "RFC 7.1; thesis te_comma"),
            (400, b" chunked\r\nTransfer-Encoding: chunked", "garden server 11"),
            (400, b"", "probe Smuggling"),
            (400, b" ,", "RFC 6.3"),
            (400, b" chunk", "smuggler lazygrep"),
            (400, b" xchunked", "thesis random"),
            (400, b" chunkedchunked", "llhttp transfer-encoding.md"),
            (400, b' "chunked"', "smuggler quoted"),
            (400, b" chunked;a=b", "RFC 7.1; thesis random"),
            (400, b" cow chunked bar", "smuggler nested"),
            (400, b" cow chunked", "smuggler nested"),
            (400, b":chunked", "thesis replaceDash"),
            (400, b"\x0bchunked", "smuggler vertprefix1"),
            (400, b" chunked\x0b", "smuggler endspace"),
            (400, b"\x0cchunked", "thesis obs_fold"),
            (400, b"\0chunked", "thesis obs_fold"),
            (400, b" \xa0chunked\xa0", "garden server 12"),
            (400, b"\xffchunked", "smuggler spaceFF"),
            (400, b" chunked\r", "smuggler 0dsuffix"),
            (400, b"\n chunked", "smuggler linewrapped1"),
        )
    ),
    closed("coding, then length", "RFC 6.1", coded(b" chunked", b"Content-Length: 3")),
    closed(
        "length, then coding",
        "garden transducer 23",
        sized(b"5\r\nTransfer-Encoding: chunked", LAST),
    ),
    closed("coding and length 0", "RFC 6.1", coded(b" chunked", b"Content-Length: 0")),
    closed("length, empty coding", "llhttp transfer-encoding.md", coded(b"", b"Content-Length: 5")),
    closed("length and identity", "thesis classics", coded(b" identity", b"Content-Length: 5")),
    closed(
        "length and ,chunked", "garden transducer 18", coded(b" ,chunked", b"Content-Length: 5")
    ),
    closed("HTTP/1.0 and a coding", "RFC 6.1; probe Smuggling", old(coded(b" chunked")), b"abc"),
    closed("the same with keep-alive", "RFC 6.1", old(coded(b" chunked", KEEP_ALIVE)), b"abc"),
]

CHUNKS = [
    kept(
        "two chunks",
        "llhttp transfer-encoding.md",
        CHUNKED + b"1\r\na\r\n2\r\nbc\r\n" + LAST,
        b"abc",
    ),
    kept(
        "a size in small letters",
        "llhttp transfer-encoding.md",
        chunk(b"a\r\n", b"a" * 10 + b"\r\n"),
        b"a" * 10,
    ),
    kept(
        "a size in capitals", "h11 test_io.py", chunk(b"aA\r\n", b"x" * 0xAA + b"\r\n"), b"x" * 0xAA
    ),
    kept("zeroes before a size", "thesis overflow", chunk(b"0" * 40 + b"5\r\n"), b"abcde"),
    kept("zeroes at the end", "thesis weirdNumbers", CHUNKED + b"000\r\n\r\n", b""),
    kept("CRLF in a chunk", "RFC 7.1", chunk(b"4\r\n", b"\r\n\r\n\r\n"), b"\r\n\r\n"),
    kept(
        "a request in a chunk",
        "probe Smuggling",
        chunk(b"%x\r\n" % len(NEXT), NEXT + b"\r\n"),
        NEXT,
    ),
    kept("chunks, then a request", "RFC 9.3.2", chunk(b"5\r\n") + ping(), b"abcde", 200),
    kept("extensions", "llhttp transfer-encoding.md", chunk(b"5;a;b=c;d=e\r\n"), b"abcde"),
    kept(
        "an extension in quotes",
        "llhttp transfer-encoding.md",
        chunk(b'5;a="x;\\"y\t\xe4"\r\n'),
        b"abcde",
    ),
    kept("an extension at the end", "h11 test_io.py", CHUNKED + b"0;a=b\r\n\r\n", b""),
    *(
        closed(f"chunk size {line!r}", source, chunk(line))
        for line, source in (
            (b"+5\r\n", "garden server 1; probe Smuggling"),
            (b"-5\r\n", "garden server 25"),
            (b"0x5\r\n", "thesis weirdNumbers"),
            (b"0_5\r\n", "garden server 22"),
            (b"5h\r\n", "RFC 7.1"),
            (b" 5\r\n", "garden transducer 24"),
            (b"5 \r\n", "llhttp transfer-encoding.md"),
            (b"5\t\r\n", "RFC 7.1"),
            (b"5 a\r\n", "llhttp transfer-encoding.md"),
            (b"\r\n", "garden server 17"),
            (b";a\r\n", "RFC 7.1"),
            (b"INVALID!!!\r\n", "garden server 47"),
            (b"5\0\r\n", "h11 test_io.py"),
            (b"5\n", "garden transducer 13; probe Smuggling"),
            (b"5\r", "probe Smuggling"),
            (b"5\r\r;ABCD\r\n", "garden server 31"),
            (b"5;\r\n", "RFC 7.1.1; probe Smuggling"),
            (b"5;a[=b\r\n", "probe Smuggling"),
            (b"5;a=b\n", "probe Smuggling"),
            (b"5;a=b\r\r\n", "garden server 36"),
            (b"5;a\rb\r\n", "probe Smuggling"),
            (b"5;a=\0\r\n", "probe Smuggling"),
            (b'5;a="b\r\n', "llhttp transfer-encoding.md"),
            (b'5;a="b\n"\r\n', "RFC 7.1.1"),
            (b"FFFFFFFFFFFFFFFF0\r\n", "probe MalformedInput"),
            (b"10000000000000005\r\n", "thesis teChunksize"),
        )
    ),
    closed("a chunk too long", "h11 test_io.py; probe Smuggling", chunk(b"3\r\n")),
    closed("a chunk without CRLF", "llhttp transfer-encoding.md", chunk(b"5\r\n", b"abcde")),
    closed("a chunk and LF", "garden transducer 13", chunk(b"5\r\n", b"abcde\n")),
    closed("a chunk and CR", "h11 test_io.py", chunk(b"5\r\n", b"abcde\r_")),
    closed("a chunk and X LF", "h11 test_io.py", chunk(b"5\r\n", b"abcde_\n")),
    closed("CRLF between chunks", "garden transducer 17", chunk(b"5\r\n", b"abcde\r\n\r\n")),
    waits("a chunk of 64 bits", "thesis teChunksize", chunk(b"ffffffffffffffff\r\n")),
    waits("a chunk beyond 32 bits", "thesis teChunksize", chunk(b"f00000005\r\n")),
    waits("no last chunk", "llhttp transfer-encoding.md", CHUNKED + b"5\r\nabcde\r\n"),
    waits("no line behind the last chunk", "RFC 7.1", CHUNKED + b"5\r\nabcde\r\n0\r\n"),
    kept("trailers", "llhttp transfer-encoding.md", trailer(b"x: a", b"y: b"), b"a"),
    kept(
        "hosts in trailers", "probe Smuggling", trailer(b"Host: b", b"Host: c") + ping(), b"a", 200
    ),
    kept("an upgrade in trailers", "RFC 9110 6.5.1", trailer(*UPGRADE) + ping(), b"a", 200),
    kept("a trailer like a request", "garden server 39", trailer(b"X:GET / HTTP/1.1"), b"a"),
    closed("close in a trailer", "RFC 9.6", trailer(b"Connection: close"), b"a"),
    closed("XX behind the last chunk", "garden server 39", CHUNKED + b"0\r\nXX"),
    closed("a trailer without a colon", "RFC 7.1.2", trailer(b"x")),
    closed("space before a trailer's colon", "RFC 5.1", trailer(b"x : a")),
    closed("a folded trailer", "RFC 5.2", trailer(b"x: a", b" b")),
    closed("NUL in a trailer", "RFC 9110 5.5", trailer(b"x: a\0")),
    closed("LF ends a trailer", "probe Smuggling", trailer(b"x: a\ny: b")),
    closed("LF ends the trailers", "RFC 2.2", CHUNKED + b"0\r\n\n"),
    closed("a trailer too long", "RFC 9110 5.4", trailer(b"x: " + b"a" * 20_000), 431),
    closed("too many trailers", "RFC 9110 5.4", trailer(*[b"name: value"] * 4000), 431),
]

TARGETS = [
    kept("an absolute target", "RFC 3.2.2", get(target=b"http://a/ping"), 200),
    kept(
        "another host than Host", "RFC 3.2.2; probe Smuggling", get(target=b"http://b:80/ping"), 200
    ),
    kept("a scheme in capitals", "RFC 9110 4.2.3", get(target=b"HTTP://[::1]/ping"), 200),
    kept("an absolute target without a path", "llhttp uri.md", get(target=b"http://a:1?b"), 404),
    kept("a query", "llhttp uri.md", get(target=b"/ping?a=b?c/../"), 200),
    kept("NUL in percent", "probe MalformedInput", get(target=b"/ping%00"), 404),
    kept("CRLF in percent", "probe MalformedInput", get(target=b"/ping%0d%0aa:b"), 404),
    kept("OPTIONS of the server", "RFC 3.2.4", get(target=b"*", method=b"OPTIONS"), 200),
    closed("no target", "probe Compliance", get().replace(b"/ping ", b"")),
    closed("an empty target", "RFC 3", get(target=b"")),
    closed("a target too long", "RFC 3", get(target=b"/" + b"a" * 20_000), 414),
    *(
        closed(f"target {target!r}", source, get(target=target))
        for target, source in (
            (b"*", "RFC 3.2.4; probe Compliance"),
            (b"a:80", "RFC 3.2.3"),
            (b"ping", "RFC 3.2.1"),
            (b"!", "garden server 7"),
            (b"http:///ping", "RFC 9110 4.2.1"),
            (b"http://:80/ping", "RFC 9110 4.2.1"),
            (b"http://a:80b/ping", "RFC 9110 4.2"),
            (b"http://user@a/ping", "RFC 9110 4.2.4"),
            (b"/ping#a", "RFC 3.2; probe Compliance"),
            (b"/ping?a#b", "llhttp uri.md"),
            (b"/ping a", "RFC 3.2; llhttp uri.md"),
            (b"/ping\ta", "RFC 3.2"),
            (b"/ping\0", "probe MalformedInput"),
            (b"/ping\x01", "RFC 3.2"),
            (b"/ping\x7f", "RFC 3.2"),
            (b"/p\xc3\xafng", "probe MalformedInput; llhttp uri.md"),
            (b"/ping?\xff", "RFC 3.2"),
        )
    ),
    kept(
        "HTTP/1.0 without a host", "RFC 3.2", b"GET /ping HTTP/1.0\r\n%b\r\n\r\n" % KEEP_ALIVE, 200
    ),
    kept("an empty host", "RFC 3.2", host(b""), 200),
    kept("a port", "RFC 9110 7.2", host(b"a:80"), 200),
    kept("an address", "RFC 9110 7.2", host(b"[::1]:8080"), 200),
    closed("no host", "RFC 3.2", b"GET /ping HTTP/1.1\r\n\r\n"),
    closed("no host, an absolute target", "RFC 3.2", b"GET http://a/ping HTTP/1.1\r\n\r\n"),
    *(
        closed(f"host {value!r}", source, host(value))
        for value, source in (
            (b"a\r\nHost: b", "RFC 3.2; probe Compliance"),
            (b"a\r\nhOST: a", "RFC 3.2; probe Compliance"),
            (b"\r\nHost: a", "RFC 3.2"),
            (b"a, b", "probe Smuggling"),
            (b"a b", "RFC 3.2"),
            (b"user@a", "probe Compliance"),
            (b"a/path", "probe Compliance"),
            (b"a?b", "RFC 3.2"),
            (b"a#b", "RFC 3.2"),
            (b"a:b", "RFC 3.2"),
            (b"a:80:80", "RFC 3.2"),
            (b"[::1", "RFC 3.2"),
            (b"[::1]a", "RFC 3.2"),
            (b"a\0.b", "garden transducer 12"),
            (b"\xffa\xff", "garden server 46"),
        )
    ),
]

REQUEST_LINES = [
    kept("more than one space", "RFC 3 allows it", get().replace(b" ", b"  "), 200),
    closed("HTTP/0.9", "probe Compliance", b"GET /ping\r\n\r\n"),
    *(
        closed(f"version {version!r}", source, get(version))
        for version, source in (
            (b"HTTP/0.9", "thesis HTTPVersion"),
            (b"HTTP/1.32", "garden server 5"),
            (b"HTTP/2.0", "RFC 2.3"),
            (b"HTTP/9.9", "probe Compliance"),
            (b"HTTP/1", "probe Compliance"),
            (b"HTTP/01.1", "thesis HTTPVersion"),
            (b"HTTP/1.01", "thesis HTTPVersion"),
            (b"HTTP/+1.1", "thesis HTTPVersion"),
            (b"HTTP/257.1", "garden server 24"),
            (b"HTTP/ 1.1", "probe Compliance"),
            (b"HTTP/\r\r1.1", "garden server 15"),
            (b"http/1.1", "RFC 2.3; thesis UPPERlowercase"),
            (b"HTTP/1.1 a", "RFC 3"),
            (b"HTTP/1.1\0", "RFC 2.3"),
            (b"ICE/1.0", "llhttp invalid.md"),
        )
    ),
    *(
        closed(f"method {method!r}", source, get(method=method))
        for method, source in (
            (b"get", "RFC 9110 9.1; probe Compliance"),
            (b"FOOBAR", "probe Compliance"),
            (b"MKCOLA", "llhttp invalid.md"),
            (b"CONNECT", "RFC 9110 9.3.6; probe Compliance"),
            (b'G=":<>(e),[T];?"', "garden server 6"),
            (b"G\0T", "garden server 40"),
            (b"\xc7ET", "RFC 9110 9.1"),
            (b" GET", "RFC 3"),
            (b"\0GET", "RFC 3"),
            (b"\xef\xbb\xbfGET", "RFC 3"),
            (b"GET\t/ping", "probe Compliance"),
        )
    ),
    closed("a method too long", "probe MalformedInput", get(method=b"A" * 20_000)),
    closed("bytes of TLS", "RFC 3", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"),
    closed("HTTP/2", "probe MalformedInput", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    closed("a response", "RFC 3", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    kept("a method not allowed", "RFC 9110 15.5.6", get(method=b"DELETE"), 405),
    kept("TRACE", "RFC 9110 9.3.8; probe Compliance", get(method=b"TRACE"), 405),
    kept("a registered method", "llhttp method.md", get(method=b"M-SEARCH"), 405),
    kept("a body not wanted", "probe Smuggling", sized(b"5").replace(b"POST", b"OPTIONS"), 200),
    closed("chunks not wanted", "RFC 9.6", chunk(b"5\r\n").replace(b"POST", b"OPTIONS"), 200),
    kept("HEAD", "RFC 9110 9.3.2", get(method=b"HEAD"), 200),
]

CONNECTIONS = [
    kept("a pipeline", "llhttp pipelining.md", (sized(b"1", b"a") + ping()) * 3, *(b"a", 200) * 3),
    closed("an error in it", "garden server 45", NEXT + ping() + b"rubbish\r\n", b"next", 200, 400),
    closed("rubbish behind a body", "garden bonus 3", sized(b"5") + b"\0", b"abcde", 400),
    closed("HTTP/1.0", "RFC 9.3; llhttp connection.md", get(b"HTTP/1.0") + ping(), 200),
    kept("HTTP/1.0 and keep-alive", "RFC 9.3", old(ping(KEEP_ALIVE)), 200),
    closed("HTTP/1.0 and both", "RFC 9.3", old(ping(KEEP_ALIVE + b", close")), 200),
    closed(
        "HTTP/1.0 and both in lines", "RFC 9.3", old(ping(b"Connection: Close", KEEP_ALIVE)), 200
    ),
    *(
        closed(f"option {value!r}", source, ping(b"Connection: " + value), 200)
        for value, source in (
            (b"close", "RFC 9.6"),
            (b"CLOSE\t", "llhttp connection.md"),
            (b"a, ,close,b", "llhttp connection.md"),
            (b"a\r\nConnection: close", "RFC 9110 5.3"),
            (b"close, keep-alive", "RFC 9.3"),
            (b"keep-alive, close", "RFC 9.3"),
            (b"close\r\n\r\n\0rubbish", "RFC 9.6"),
        )
    ),
    *(
        kept(f"option {value!r}", "RFC 9110 7.6.1", ping(b"Connection: " + value), 200)
        for value in (b"closed", b"x-close, close-x", b"Content-Length, Host", b"Upgrade")
    ),
    closed(
        "a body, close", "llhttp connection.md", post(b"Content-Length: 1", CLOSE) + b"a\r\n", b"a"
    ),
    closed("chunks, close", "RFC 9.6", coded(b" chunked", CLOSE), b"abc"),
    waits("half a head", "probe MalformedInput", PING + b"x: a"),
    waits("half a request behind another", "RFC 8", ping() + PING, 200),
    waits("nothing", "probe MalformedInput", b""),
]

OFFERS = [
    kept("an upgrade", "RFC 9110 7.8", ping(*UPGRADE), 200),
    kept("with a body", "llhttp connection.md", post(*UPGRADE, b"Content-Length: 1") + b"a", b"a"),
    kept("with chunks", "RFC 9110 7.8", coded(b" chunked", *UPGRADE), b"abc"),
    kept("in a row", "RFC 9110 7.8", ping(*UPGRADE) * 3, 200, 200, 200),
    kept("without its option", "probe Compliance", ping(UPGRADE[1]), 200),
    kept("with bytes beyond ASCII", "RFC 9110 5.5", ping(*UPGRADE, b"x: \xe4"), 200),
    kept("of a method not allowed", "RFC 9110 7.8", ping(*UPGRADE).replace(b"GET", b"PUT"), 405),
    closed("with close", "RFC 9110 7.8", ping(*UPGRADE, CLOSE), 200),
    closed("of HTTP/1.0", "RFC 9110 7.8; probe Compliance", old(ping(*UPGRADE)), 200),
    kept("of HTTP/1.0 and keep-alive", "RFC 9110 7.8", old(ping(*UPGRADE, KEEP_ALIVE)), 200),
    closed(
        "of HTTP/1.0, no host", "RFC 3.2", old(ping(*UPGRADE)).replace(b"Host: a\r\n", b""), 200
    ),
    closed("with length and coding", "RFC 6.1", coded(b" chunked", *UPGRADE, b"Content-Length: 5")),
    closed("with two hosts", "RFC 3.2", ping(*UPGRADE, b"Host: a")),
    closed("with a coding", "RFC 6.1", coded(b" gzip, chunked", *UPGRADE), 501),
    kept("100-continue", "RFC 9110 10.1.1", post(CONTINUE, b"Content-Length: 1") + b"a", b"a"),
    kept("in other letters", "h11 test_headers.py", coded(b" chunked", CONTINUE.title()), b"abc"),
    kept("with an upgrade", "RFC 9110 7.8", coded(b" chunked", CONTINUE, *UPGRADE), b"abc"),
    closed("without a body", "RFC 9110 10.1.1", ping(CONTINUE), 200),
    closed(
        "in HTTP/1.0", "probe Compliance", old(post(CONTINUE, b"Content-Length: 1") + b"a"), b"a"
    ),
    closed("with a bad length", "RFC 6.3", post(CONTINUE, b"Content-Length: +1") + b"a"),
    kept("another expectation", "RFC 9110 10.1.1", ping(b"Expect: 200-ok"), 200),
]

STRICTER = [
    closed("tab behind a coding", "RFC 5.1; smuggler tabsuffix", coded(b" chunked\t")),
    closed("an empty coding at the end", "RFC 9110 5.6.1; thesis te_comma", coded(b" chunked,")),
    closed("space before an extension's name", "RFC 7.1.1; h11 test_io.py", chunk(b"5; a\r\n")),
    closed("space before an extension", "RFC 7.1.1; RFC 9110 5.6.3", chunk(b"5 ;a\r\n")),
    closed("a length in a trailer", "RFC 9110 6.5.1; probe", trailer(b"Content-Length: 50")),
    closed("a coding in a trailer", "probe Smuggling", trailer(b"Transfer-Encoding: gzip")),
    closed("HTTP/1.2", "RFC 9110 2.5; thesis HTTPVersion", get(b"HTTP/1.2")),
]
"""The RFC would have these served. llhttp rejects them, which nobody can misread."""

CASES = [
    *(*LINES, *HEADERS, *LENGTHS, *CODINGS, *CHUNKS, *TARGETS),
    *(*REQUEST_LINES, *CONNECTIONS, *OFFERS, *STRICTER),
]


@pytest.fixture(scope="module")
def port() -> Iterator[Port]:
    opened = Port()
    yield opened
    opened.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_request_is_read_as_the_rfc_says(port: Port, case: Case) -> None:
    """In one piece and byte by byte, when it is new and when it is remembered."""
    for is_whole in (True, True, False, False):
        with port.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            check(port, connection, case, is_whole)


def check(port: Port, connection: socket.socket, case: Case, is_whole: bool) -> None:
    """Send what a case says, and compare what comes back."""
    responses = connection.makefile("rb")
    # Behind a request that ends the connection, another one gets no response.
    send(port, connection, case.sent + NEXT * (case.end is End.CLOSED), is_whole)
    method, option = case.sent.partition(b" ")[0], None
    for expected in case.responses:
        status, option, body = receive(responses, method)
        wanted = (200, expected) if isinstance(expected, bytes) else (expected, body)
        assert (status, body) == wanted
    if case.end is End.KEPT:
        assert option != "close"
        send(port, connection, NEXT, is_whole)
        assert receive(responses)[::2] == (200, b"next")
        return
    if case.end is End.CLOSED:
        assert option == "close"
    else:
        connection.shutdown(socket.SHUT_WR)
    assert responses.read() == b""


def send(port: Port, connection: socket.socket, sent: bytes, is_whole: bool) -> None:
    """Send bytes so that the server reads them at once, or one by one, or at most 1000 times."""
    size = len(sent) + 1 if is_whole else len(sent) // 1000 + 1
    for start in range(0, len(sent), size):
        connection.sendall(sent[start : start + size])
        seen = Event()
        port.call(seen.set)  # in a later turn of the loop than the one that reads them
        assert seen.wait(10)


def receive(responses: BinaryIO, method: bytes = b"POST") -> tuple[int, str | None, bytes]:
    """Return status, ``Connection`` and body of the next response that is not interim."""
    status = 100
    while status == 100:
        line = responses.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        status, headers = int(line.split()[1]), parse_headers(responses)
    length = 0 if method == b"HEAD" else int(headers["content-length"])
    return status, headers["connection"], responses.read(length)
