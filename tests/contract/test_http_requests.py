"""How a request is read, as the RFC says: where it ends, what it asks for, what is wrong.

Other HTTP servers have read these requests wrongly. Every case, or group of cases, names where it
comes from. Its bytes and its outcome are our own:

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
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest

from tests.contract.conftest import PATH, Port, read

PING = b"GET /ping HTTP/1.1\r\nHost: a\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: a\r\n" % PATH.encode()
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
NEXT = POST + b"Content-Length: 4\r\n\r\nnext"
CLOSE, KEEP_ALIVE = b"Connection: close", b"Connection: keep-alive"
UPGRADE = b"Connection: Upgrade", b"Upgrade: h2c"
CODED = b"Transfer-Encoding: chunked"
CONTINUE = b"Expect: 100-continue"
HTTP_2 = b"Connection: Upgrade, HTTP2-Settings"

CODES = {
    400: "invalid_request",
    404: "model_not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    414: "target_too_long",
    431: "headers_too_large",
    501: "unsupported_transfer",
}


class Case(NamedTuple):
    """Bytes on one connection, and what comes back for them."""

    end: str  # of the connection; if it waits, the server does, for the rest of the request
    name: str
    source: str
    sent: bytes
    responses: tuple[int | bytes, ...]  # in their order: a status, or the body of a 200


def make_case(end: str, name: str, source: str, sent: bytes, *responses: int | bytes) -> Case:
    return Case(end, name, source, sent, responses or (400,) * (end == "closed"))


kept, closed, waits = (partial(make_case, end) for end in ("kept", "closed", "waits"))


def each(
    make: Callable[[bytes], bytes],
    source: str,
    *values: bytes,
    case: Callable[..., Case] = closed,
    response: int | bytes = 400,
) -> list[Case]:
    """Make requests that differ in one value, with one outcome."""
    return [case(f"{make.__name__} {value!r}", source, make(value), response) for value in values]


def lines(*each_: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in (*each_, b""))


def ping(*headers: bytes) -> bytes:
    return PING + lines(*headers)


def post(*headers: bytes) -> bytes:
    return POST + lines(*headers)


def get(target: bytes, version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> bytes:
    return lines(b"%b %b %b" % (method, target, version), b"Host: a")


def version(value: bytes) -> bytes:
    return get(b"/ping", value)


def method(value: bytes) -> bytes:
    return get(b"/ping", method=value)


def host(value: bytes) -> bytes:
    return lines(b"GET /ping HTTP/1.1", b"Host: " + value)


def option(value: bytes) -> bytes:
    return ping(b"Connection: " + value)


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


def asking(length: bytes) -> bytes:
    return post(CONTINUE, b"Content-Length: " + length)


PIPE = NEXT + ping() + get(b"/a")

LINES = [
    kept("CRLF first", "RFC 2.2; llhttp sample.md", b"\r\n" + ping(), 200),
    kept("CRLF behind a body", "llhttp connection.md", sized(b"1", b"a\r\n") + ping(), b"a", 200),
    closed("LF ends the request line", "probe Compliance", PING.replace(b"\r\n", b"\n", 1)),
    closed("LF ends the head", "RFC 2.2", PING + b"\n"),
    closed("CR ends the request line", "probe Compliance", PING.replace(b"\r\n", b"\r", 1)),
    closed("CR X ends the head", "garden server 30", PING + b"\rZx: a\r\n\r\n"),
    *each(
        ping,
        "RFC 5.2; probe; thesis line_endings; llhttp; smuggler 0dspam; garden server 19, 37",
        *(b"x: a\ny: b", b"x: a\n\ry: b", b"x:\ny: b", b"x: a\ry: b", b"x: a\r", b"x:\ry: b"),
        *(b"Transfer\r-Encoding: chunked", b"Connection: keep\ralive", b"x:\n", b"x: a\r\n b"),
        *(b"x: a\r\n\tb", b"x: a\r\n ", b"name\r\n : value", b"Transfer-\r\nEncoding: chunked"),
        *(b"x: a\r\n Content-Length: 5", b"Connection: a,\r\n close"),
    ),
]

HEADERS = [
    closed("an empty value, then close", "RFC 5.1", ping(b"x:", b"Connection: close"), 200),
    kept("no value, then a length", "RFC 5.1", post(b"x:", b"Content-Length: 1") + b"a", b"a"),
    *each(
        ping,
        "thesis random, replaceDash; RFC 9110 5.6.2; llhttp sample.md; RFC 5.1; smuggler",
        *(b"x:a", b"!#$%&'*+-.^_`|~09azAZ: x", b"x: \xe4\xff\x80", b"x::a:b", b"Content_Length: 3"),
        *(b"Transfer_Encoding: chunked", b"x:\r\ny: \t ", b"x: a\r\nx: b"),
        case=kept,
        response=200,
    ),
    *each(
        ping,
        "RFC 5.1, 9110 5.5, 5.6.2; h11; smuggler; probe; garden server 8, 18, 20, 27, 28, 35, 43",
        *(b"Content-Length : 5", b"Transfer-Encoding : chunked"),
        *(b"x : a", b"x\t: a", b"Transfer Encoding: chunked", b"Content\tLength: 9"),
        *(b"Content-Length 10", b": a", b":", b"a[b: c", b"a@b: c", b"a\0b: c", b"a\x01b: c"),
        *(b"a\x7fb: c", b"\xeffoo: a", b"Content-Length\x85: 5", b"x: a\0b", b"x: a\0"),
        *(b"x: a\x07\x08\x0bb", b"x: a\x7fb"),
    ),
    closed("a value too long", "probe MalformedInput", ping(b"x: " + b"a" * 20_000), 431),
    closed("a name too long", "probe MalformedInput", ping(b"a" * 20_000 + b": x"), 431),
    closed("too many headers", "probe MalformedInput", ping(*[b"name: value"] * 4000), 431),
]

TOO_LONG = (b"33554433", b"4294967301", b"9223372036854775807", b"9999999999999999999")
PART = sized(b"1\r\nContent-Range: bytes 5-5/*", b"a")

LENGTHS = [
    closed("a part", "RFC 9110 14.5; curl -T FILE -C 5", PART.replace(b"POST", b"PUT")),
    kept("a part that is not put", "RFC 9110 14.4", PART, b"a"),
    kept("zeroes before a length", "llhttp content-length.md", sized(b"005"), b"abcde"),
    kept("a length that is not octal", "garden server 32", sized(b"010", b"a" * 10), b"a" * 10),
    kept("many zeroes", "RFC 9110 8.6", sized(b"0" * 200 + b"5"), b"abcde"),
    kept("blanks around a length", "llhttp content-length.md", sized(b" \t5\t "), b"abcde"),
    kept("letters of its name", "llhttp content-length.md", post(b"conTENT-LENGTH:1") + b"a", b"a"),
    kept("no length, no body", "RFC 6.3", post(), b""),
    kept("a body of GET", "probe Compliance", ping(b"Content-Length: 3") + b"abc", 200),
    kept("a body like a request", "garden server 48", sized(b"%d" % len(NEXT), NEXT), NEXT),
    kept("length 0, then a request", "probe Smuggling", sized(b"0", b"") + ping(), b"", 200),
    *each(
        sized,
        "garden server 10, 12, 16, 23, 26, 29, 33, 38, 42, 46; probe; thesis; RFC 6.3, 9110 8.6",
        *(b"+5", b"-5", b"-0", b"0x5", b"5_0", b"5.0", b"5Z", b'"5"', b"5 5", b"", b" ", b"5\x0c"),
        *(b"\x0b5", b"\xa05", b"5\x85", b"\xd9\xa5", b"5\0", b"5, 6", b"5, 5", b"5,"),
        *(b"5\r\nContent-Length: 6", b"6\r\nContent-Length: 5", b"5\r\nContent-Length: 5"),
        *(b"\r\nContent-Length: 5", b"5\r\nContent-Length : 5", b"18446744073709551621"),
        *(b"9" * 100, b"\r\n 5", b"5\r\n\t1"),
    ),
    *each(sized, "RFC 9110 8.6, 15.5.14; thesis overflow", *TOO_LONG, response=413),
    waits("a body that is short", "probe Compliance", sized(b"6")),
]

CODINGS = [
    *each(
        coded,
        "thesis random; smuggler tabprefix1, yelling; h11; RFC 9110 5.6.1; garden server 21",
        *(b"chunked", b" \t chunked ", b" CHUNKED", b" cHuNkeD", b" , chunked"),
        case=kept,
        response=b"abc",
    ),
    kept("letters of its name", "thesis UPPERlowercase", CHUNKED.replace(b"Tr", b"tR") + LAST, b""),
    *each(
        coded,
        "RFC 6.1; smuggler cowComma, revdualchunk; thesis te_comma",
        *(b" gzip, chunked", b" cow, chunked", b" identity, chunked"),
        b" cow\r\nTransfer-Encoding: chunked",
        response=501,
    ),
    *each(
        coded,
        "RFC 6.3, 7.1; thesis te_comma, obs_fold, random; llhttp; garden server 11, 12; smuggler",
        *(b" gzip", b" identity", b" pigeons", b" chunked, gzip", b" chunked, identity"),
        *(b" chunked\r\nTransfer-Encoding: gzip", b" chunked, chunked"),
        *(b" chunked\r\nTransfer-Encoding: chunked", b"", b" ,", b" chunk", b" xchunked"),
        *(b" chunkedchunked", b' "chunked"', b" chunked;a=b", b" cow chunked bar", b" cow chunked"),
        *(b":chunked", b"\x0bchunked", b" chunked\x0b", b"\x0cchunked", b"\0chunked"),
        *(b" \xa0chunked\xa0", b"\xffchunked", b" chunked\r", b"\n chunked", b"\r\n chunked"),
        *(b" chunked\r\n ,x", b" chunked\r\nContent-Length: 3", b" chunked\r\nContent-Length: 0"),
        *(b"\r\nContent-Length: 5", b" identity\r\nContent-Length: 5"),
        b" ,chunked\r\nContent-Length: 5",
    ),
    closed("length, then coding", "garden transducer 23", sized(b"5\r\n" + CODED, LAST)),
    closed("HTTP/1.0 and a coding", "RFC 6.1; probe Smuggling", old(coded(b" chunked")), b"abc"),
    closed("the same with keep-alive", "RFC 6.1", old(coded(b" chunked", KEEP_ALIVE)), b"abc"),
]

CHUNKS = [
    kept("two chunks", "llhttp transfer-encoding.md", chunk(b"1\r\na\r\n2\r\n", b"bc\r\n"), b"abc"),
    kept("a size in letters", "h11 test_io.py", chunk(b"a\r\n", b"b" * 10 + b"\r\n"), b"b" * 10),
    kept("in capitals", "h11 test_io.py", chunk(b"aA\r\n", b"x" * 0xAA + b"\r\n"), b"x" * 0xAA),
    kept("zeroes before a size", "thesis overflow", chunk(b"0" * 40 + b"5\r\n"), b"abcde"),
    kept("zeroes at the end", "thesis weirdNumbers", CHUNKED + b"000\r\n\r\n", b""),
    kept("CRLF in a chunk", "RFC 7.1", chunk(b"4\r\n", b"\r\n\r\n\r\n"), b"\r\n\r\n"),
    kept("a request in it", "probe Smuggling", chunk(b"%x\r\n" % len(NEXT), NEXT + b"\r\n"), NEXT),
    kept("chunks, then a request", "RFC 9.3.2", chunk(b"5\r\n") + ping(), b"abcde", 200),
    kept("extensions", "llhttp transfer-encoding.md", chunk(b"5;a;b=c;d=e\r\n"), b"abcde"),
    kept("one in quotes", "RFC 7.1.1", chunk(b'5;a="x;\\"y\t\xe4"\r\n'), b"abcde"),
    kept("an extension at the end", "h11 test_io.py", CHUNKED + b"0;a=b\r\n\r\n", b""),
    *each(
        chunk,
        "garden server 1, 17, 22, 25, 31, 36, 47, transducer 13, 24; probe; thesis; RFC 7.1; h11",
        *(b"+5\r\n", b"-5\r\n", b"0x5\r\n", b"0_5\r\n", b"5h\r\n", b" 5\r\n", b"5 \r\n"),
        *(b"5\t\r\n", b"5 a\r\n", b"\r\n", b";a\r\n", b"INVALID!!!\r\n", b"5\0\r\n", b"5\n"),
        *(b"5\r", b"5\r\r;ABCD\r\n", b"5;\r\n", b"5;a[=b\r\n", b"5;a=b\n", b"5;a=b\r\r\n"),
        *(b"5;a\rb\r\n", b"5;a=\0\r\n", b'5;a="b\r\n', b'5;a="b\n"\r\n', b"FFFFFFFFFFFFFFFF0\r\n"),
        *(b"10000000000000005\r\n", b"3\r\n"),
    ),
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
    kept("hosts in them", "probe Smuggling", trailer(b"Host: b", b"Host: c") + ping(), b"a", 200),
    kept("an upgrade in trailers", "RFC 9110 6.5.1", trailer(*UPGRADE) + ping(), b"a", 200),
    kept("a trailer like a request", "garden server 39", trailer(b"X:GET / HTTP/1.1"), b"a"),
    closed("close in a trailer", "RFC 9.6", trailer(b"Connection: close"), b"a"),
    closed("XX behind the last chunk", "garden server 39", CHUNKED + b"0\r\nXX"),
    *each(trailer, "RFC 5, 7.1.2; probe", b"x", b"x : a", b"x: a\r\n b", b"x: a\0", b"x: a\ny: b"),
    closed("LF ends the trailers", "RFC 2.2", CHUNKED + b"0\r\n\n"),
    closed("a trailer too long", "RFC 9110 5.4", trailer(b"x: " + b"a" * 20_000), 431),
    closed("too many trailers", "RFC 9110 5.4", trailer(*[b"name: value"] * 4000), 431),
]

TARGETS = [
    kept("an absolute target", "RFC 3.2.2", get(b"http://a/ping"), 200),
    kept("another host than Host", "RFC 3.2.2; probe Smuggling", get(b"http://b:80/ping"), 200),
    kept("a scheme in capitals", "RFC 9110 4.2.3", get(b"HTTP://[::1]/ping"), 200),
    kept("an absolute target without a path", "llhttp uri.md", get(b"http://a:1?b"), 404),
    kept("a query", "llhttp uri.md", get(b"/ping?a=b?c/../"), 200),
    kept("NUL in percent", "probe MalformedInput", get(b"/ping%00"), 404),
    kept("CRLF in percent", "probe MalformedInput", get(b"/ping%0d%0aa:b"), 404),
    kept("OPTIONS of the server", "RFC 3.2.4", get(b"*", method=b"OPTIONS"), 200),
    closed("no target", "probe Compliance", method(b"GET").replace(b"/ping ", b"")),
    *each(
        get,
        "RFC 3.2, 3.2.1, 3.2.3, 3.2.4; RFC 9110 4.2; probe; garden server 7, 9; llhttp uri.md",
        *(b"", b"*", b"a:80", b"ping", b"!", b"http:///ping", b"http://:80/ping"),
        *(b"http://a:80b/ping", b"http://user@a/ping", b"/ping#a", b"/ping?a#b", b"/ping a"),
        *(b"/pi\rng", b"/ping\n", b"/ping\ta", b"/ping\0", b"/ping\x01", b"/ping\x7f"),
        *(b"/p\xc3\xafng", b"/ping?\xff"),
    ),
    closed("a target too long", "RFC 3", get(b"/" + b"a" * 20_000), 414),
    kept("HTTP/1.0, no host", "RFC 3.2", lines(b"GET /ping HTTP/1.0", KEEP_ALIVE), 200),
    *each(
        host,
        "RFC 3.2; RFC 9110 7.2",
        *(b"", b"a", b"a:80", b"a-b_c.d:80", b"127.0.0.1:8080", b"[::1]:8080", b"a%20b:"),
        case=kept,
        response=200,
    ),
    kept("the same type twice", "RFC 9110 8.3", post(b"Content-Type: a", b"Content-type: a"), b""),
    closed("two types", "RFC 9110 8.3", post(b"Content-Type: a", b"Content-Type: b")),
    closed("no host", "RFC 3.2", b"GET /ping HTTP/1.1\r\n\r\n"),
    closed("no host, an absolute target", "RFC 3.2", b"GET http://a/ping HTTP/1.1\r\n\r\n"),
    *each(
        host,
        "RFC 3.2; probe Compliance, Smuggling; garden transducer 12; garden server 46",
        *(b"a\r\nHost: b", b"@", b"a\r\nhOST: a", b"\r\nHost: a", b"a, b", b"a b", b"user@a"),
        *(b"a/path", b"a?b", b"a#b", b"a:b", b"a:80:80", b"[::1", b"[::1]a", b"a\0.b"),
        b"\xffa\xff",
    ),
]

REQUEST_LINES = [
    kept("more than one space", "RFC 3 allows it", method(b"GET").replace(b" ", b"  "), 200),
    closed("HTTP/0.9", "probe Compliance", b"GET /ping\r\n\r\n"),
    *each(
        version,
        "thesis HTTPVersion; garden server 4, 5, 15, 24; RFC 2.2, 2.3, 3; probe Compliance; llhttp",
        *(b"HTTP/0.9", b"HTTP/1.32", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/1", b"HTTP/01.1"),
        *(b"HTTP/1.01", b"HTTP/+1.1", b"HTTP/257.1", b"HTTP/ 1.1", b"HTTP/\r\r1.1", b"http/1.1"),
        *(b"HTTP/1.1 a", b"HTTP/1.1\0", b"ICE/1.0", b"HTTP/1.1\r\n x: a", b"HTTP/1.1\r\n\tx: a"),
    ),
    *each(
        method,
        "RFC 9110 9.1, 9.3.6; probe Compliance; llhttp invalid.md; garden server 6, 40; RFC 3",
        *(b"get", b"FOOBAR", b"MKCOLA", b"CONNECT", b'G=":<>(e),[T];?"', b"G\0T", b"\xc7ET"),
        *(b" GET", b"\0GET", b"\xef\xbb\xbfGET", b"GET\t/ping"),
    ),
    closed("a method too long", "probe MalformedInput", method(b"A" * 20_000)),
    closed("bytes of TLS", "RFC 3", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"),
    closed("HTTP/2", "probe MalformedInput", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    closed("a response", "RFC 3", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    kept("a method not allowed", "RFC 9110 15.5.6", method(b"DELETE"), 405),
    kept("TRACE", "RFC 9110 9.3.8; probe Compliance", method(b"TRACE"), 405),
    kept("a registered method", "llhttp method.md", method(b"M-SEARCH"), 405),
    kept("a body not wanted", "probe Smuggling", sized(b"5").replace(b"POST", b"OPTIONS"), 200),
    closed("chunks not wanted", "RFC 9.6", chunk(b"5\r\n").replace(b"POST", b"OPTIONS"), 200),
    kept("HEAD", "RFC 9110 9.3.2", method(b"HEAD"), 200),
]

CONNECTIONS = [
    kept("a pipeline", "llhttp pipelining.md", PIPE * 9, *(b"next", 200, 404) * 9),
    closed("an error in it", "garden server 45", NEXT + ping() + b"rubbish\r\n", b"next", 200, 400),
    closed("rubbish behind a body", "garden bonus 3", sized(b"5") + b"\0", b"abcde", 400),
    closed("HTTP/1.0", "RFC 9.3; llhttp connection.md", version(b"HTTP/1.0") + ping(), 200),
    kept("HTTP/1.0 and keep-alive", "RFC 9.3", old(ping(KEEP_ALIVE)), 200),
    closed("HTTP/1.0 and both", "RFC 9.3", old(ping(KEEP_ALIVE + b", close")), 200),
    closed("HTTP/1.0 and both in lines", "RFC 9.3", old(ping(CLOSE.title(), KEEP_ALIVE)), 200),
    *each(
        option,
        "RFC 9.3, 9.6; llhttp connection.md; RFC 9110 5.3",
        *(b"close", b"CLOSE\t", b"a, ,close,b", b"a\r\nConnection: close", b"close, keep-alive"),
        *(b"keep-alive, close", b"close\r\n\r\n\0rubbish"),
        response=200,
    ),
    *each(
        option,
        "RFC 9110 7.6.1",
        *(b"closed", b"x-close, close-x", b"Content-Length, Host", b"Upgrade"),
        case=kept,
        response=200,
    ),
    closed("a body, close", "llhttp connection.md", sized(b"1\r\n" + CLOSE, b"a\r\n"), b"a"),
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
    closed("of HTTP/1.0, no host", "RFC 3.2", lines(b"GET /ping HTTP/1.0", *UPGRADE), 200),
    kept("of Java", "its HttpClient", post(HTTP_2, UPGRADE[1]) * 2, b"", b""),
    closed("with a long body", "RFC 9110 7.8", post(*UPGRADE, b"Content-Length: 33554433"), 413),
    closed("with length and coding", "RFC 6.1", coded(b" chunked", *UPGRADE, b"Content-Length: 5")),
    closed("with two hosts", "RFC 3.2", ping(*UPGRADE, b"Host: a")),
    closed("with a coding", "RFC 6.1", coded(b" gzip, chunked", *UPGRADE), 501),
    kept("100-continue", "RFC 9110 10.1.1", asking(b"1") + b"a", 100, b"a"),
    kept("in other letters", "h11", coded(b" chunked", CONTINUE.title()), 100, b"abc"),
    kept("with blanks", "RFC 9110 5.5", sized(b"1\r\nExpect: \t 100-continue\t", b"a"), 100, b"a"),
    kept("with an upgrade", "RFC 9110 7.8", coded(b" chunked", CONTINUE, *UPGRADE), 100, b"abc"),
    closed("without a body", "RFC 9110 10.1.1", ping(CONTINUE), 200),
    closed("in HTTP/1.0", "probe Compliance", old(asking(b"1") + b"a"), b"a"),
    closed("with a bad length", "RFC 6.3", asking(b"+1") + b"a"),
    closed("with another coding", "RFC 6.1", coded(b" gzip", CONTINUE)),
    kept("another expectation", "RFC 9110 10.1.1", ping(b"Expect: 200-ok"), 200),
]

STRICTER = [
    closed("tab behind a coding", "RFC 5.1; smuggler tabsuffix", coded(b" chunked\t")),
    closed("an empty coding at the end", "RFC 9110 5.6.1; thesis te_comma", coded(b" chunked,")),
    closed("space before an extension's name", "RFC 7.1.1; h11 test_io.py", chunk(b"5; a\r\n")),
    closed("space before an extension", "RFC 7.1.1; RFC 9110 5.6.3", chunk(b"5 ;a\r\n")),
    closed("a length in a trailer", "RFC 9110 6.5.1; probe", trailer(b"Content-Length: 50")),
    closed("a coding in a trailer", "probe Smuggling", trailer(b"Transfer-Encoding: gzip")),
    closed("HTTP/1.2", "RFC 9110 2.5; thesis HTTPVersion", version(b"HTTP/1.2")),
]
"""The RFC would have these served. llhttp rejects them, which nobody can misread."""

CASES = [
    *(*LINES, *HEADERS, *LENGTHS, *CODINGS, *CHUNKS),
    *(*TARGETS, *REQUEST_LINES, *CONNECTIONS, *OFFERS, *STRICTER),
]


def check(port: Port, connection: socket.socket, case: Case, is_whole: bool) -> None:
    # Behind a request that ends the connection, another one gets no response.
    send(port, connection, case.sent + NEXT * (case.end == "closed"), is_whole)
    asked, kept_by = case.sent.partition(b" ")[0].decode("latin-1"), None
    for expected in case.responses:
        answer = read(connection, asked)
        kept_by = answer.headers["connection"]
        wanted = (200, expected) if isinstance(expected, bytes) else (expected, answer.body)
        assert (answer.status, answer.body) == wanted
        assert answer.status < 400 or answer.code == CODES[answer.status]
    if case.end == "kept":
        assert kept_by == ("keep-alive" if b" HTTP/1.0\r\n" in case.sent else None)
        send(port, connection, NEXT, is_whole)
        assert read(connection)[::2] == (200, b"next")
        return
    if case.end == "closed":
        assert kept_by == "close"
    else:
        connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b""


def send(port: Port, connection: socket.socket, sent: bytes, is_whole: bool) -> None:
    """Send bytes so that the server reads them at once, or one by one, or at most 1000 times."""
    size = len(sent) + 1 if is_whole else len(sent) // 1000 + 1
    for start in range(0, len(sent), size):
        connection.sendall(sent[start : start + size])
        port.do(int)  # in a later turn of the loop than the one that reads them


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_request_is_read_as_the_rfc_says(shared_port: Port, case: Case) -> None:
    """When it is new, when it is remembered, and byte by byte."""
    for is_whole in (True, True, False):
        with shared_port.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            check(shared_port, connection, case, is_whole)
