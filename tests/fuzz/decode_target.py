"""Requests out of fuzz bytes, read as the handler reads them; there is no model.

The bytes are: flags, ``Content-Type``, ``Accept``, ``If-Match``, how often pieces of the body
between two marks are repeated, and the body.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from time import thread_time_ns
from typing import Any, cast

from diagonalflip import wire
from diagonalflip.errors import DiagonalFlipError
from diagonalflip.inference import decoders, reading
from diagonalflip.inference.media_types import parse_media_type
from diagonalflip.inference.service import Service
from diagonalflip.inference.v2 import HEADER_LENGTH
from diagonalflip.message import Operation, Request
from diagonalflip.wire import FORM, JSON, OCTETS, PACKED, PBM, PNG, TEXT
from tests.fuzz.source import Execution, Source, header_bytes, repeat

EXPLAIN, SPLIT, MEND, ARRAY, LENGTH, RAW, CODE, WRAP = (1 << bit for bit in range(8))
"""Flags: an explanation; V2's binary tensors after an empty line; a PNG's checksums are made
right; the body is a bytearray; V2's length as in the bytes; a PNG's data are deflated; the body
has the coding that its header says; it is the file of a form."""

LONGEST = 640 << 10
"""Bytes that a repeated piece may fill: more than the largest packed request has."""

DIGEST = "5f" * 32
STATUSES = {400, 406, 412, 413, 415}
ODD = f"{OCTETS}; padding=4"
FORM_TYPE = f"{FORM}; boundary=b"
CONTENT_TYPES = (
    *(None, OCTETS, ODD, PACKED, f"{PACKED}; padding=4", JSON, TEXT, PNG, PBM),
    *(f"{JSON}; charset=utf-8", f"{TEXT}; charset=us-ascii", f"{OCTETS}; padding=0"),
    *(FORM_TYPE, f'{FORM}; boundary="b"'),
)
ACCEPTS = (None, "*/*", OCTETS, JSON, "image/*;q=0.5, */*;q=0.1", "text/plain, */*;q=0")
IF_MATCHES = (None, None, "*", f'"{DIGEST}"', f'"x", "{DIGEST}"')
CODINGS = (None, None, "gzip", "deflate", "identity", "GZIP ", "br", "gzip, gzip")
LENGTHS = ("0", "2", "99")
FORM_HEAD = b'--b\r\nContent-Disposition: form-data; name="data"; filename="%b"\r\n%b\r\n'
VECTORS = Path(__file__).parents[2] / "diagonalflip/vectors"

TENSOR = b'{"name": "pixels", "datatype": "%b", "shape": [1, 4]%b}'
DATA = b', "data": [1, 0, 1.0, true]'
BINARY = b', "parameters": {"binary_data_size": @}'
PACKED_TENSOR = (
    b'{"inputs": [{"name": "packed", "datatype": "UINT8", "shape": [2], '
    b'"parameters": {"padding": 4, "binary_data_size": @}}]}'
)
OUTPUT = b'{"name": "prediction", "parameters": {"binary_data": true}}'


def png(depth: int, kind: int) -> bytes:
    """A PNG of 4x2 pixels, checksums left out and data not deflated."""
    parts = {b"IHDR": bytes([0, 0, 0, 4, 0, 0, 0, 2, depth, kind, 0, 0, 0])}
    parts |= {b"PLTE": bytes(6)} if kind else {}
    row = b"\0\xb0" if depth == 1 else b"\0\0\1\0\1"
    parts |= {b"IDAT": row * 2, b"IEND": b""}
    chunks = [len(part).to_bytes(4, "big") + name + part + b"0000" for name, part in parts.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


PLAIN = (
    (0, OCTETS, b"\xb6\xc0"),
    (ARRAY, ODD, b"\xb6\xc0"),
    (0, JSON, b'{"images": [11, "0110", [1, 1, 0, 0], [[1, 1], [0, 0]]]}'),
    (0, TEXT, b"b6 c\r\n\t0F"),
    (0, PBM, b"P1\n# a comment\n4 2\n1 0 1 1\n0 1 1 0#\n"),
    (0, PBM, b"P4\n4 2\n\xb0\x60"),
    (0, None, b""),
    (0, FORM_TYPE, FORM_HEAD % (b"a.png", b"") + png(1, 0) + b"\r\n--b--\r\n"),
    (0, FORM_TYPE, FORM_HEAD % (b"a", b"Content-Type: text/plain\r\n") + b"b6\r\n--b--\r\n"),
    (0, FORM_TYPE, FORM_HEAD % (b"a.json", b"") + b'{"images": [11]}\r\n--b--\r\n'),
    (WRAP, JSON, b'{"images": [11]}'),
    (WRAP, ODD, b"\xb6\xc0"),
    (0, JSON, b'{"inputs": [%b]}' % TENSOR % (b"FP32", DATA)),
    (0, JSON, b'{"id": "a", "inputs": [%b], "outputs": [%b]}' % (TENSOR, OUTPUT) % (b"BOOL", DATA)),
    (SPLIT, None, b'{"inputs": [%b]}\n\n\1\0\1\1' % TENSOR % (b"UINT8", BINARY)),
    (SPLIT, None, PACKED_TENSOR + b"\n\n\xb6\xc0"),
)
NESTED = (b"[" * 31, b"]" * 31)
REPEATED = (
    (OCTETS, b"~\xb6~"),
    (TEXT, b"~b6 ~"),
    (JSON, b'{"images": [~11,~0]}'),
    (JSON, b'{"images": [~[1,0,1,1],~"0110"]}'),
    (JSON, b'{"images": [~[~0]}'),
    (JSON, b'{"inputs": [{"name": "packed", "datatype": "UINT8", "shape": ~%b~~%b~}]}' % NESTED),
    (JSON, b'{"images": [~%b~~%b~]}' % NESTED),
    (JSON, b'{"inputs": [%b]}' % TENSOR % (b"UINT8", b', "data": ["aaaa", ~"", ~0]')),
    (PBM, b"P1 2 2 ~#\n~1111"),
    (PBM, b"P1 64 64 ~1 ~"),
)


TOKENS: Sequence[bytes] = (
    *(b'{"images": [', b"]}", b"[[1, 0], [1, 1]]", b'"1011"', b"11,", b"-1", b"1e999", b"null"),
    *(b'{"inputs": [', b'"name": ', b'"packed"', b'"pixels"', b'"datatype": "FP32"', b'"BOOL"'),
    *(b'"shape": [2, 4]', b'"data": [', b'"parameters": {', b'"padding": 4', b"true", b"~"),
    *(b'"binary_data_size": @', b'"outputs": [', b'"binary_data": ', b"P1\n", b"P4 ", b"2 2 "),
    *(b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"IEND", b"acTL", b"fcTL", b"fdAT", b"zTXt", b"iCCP"),
    *(b"eXIf", b"\x89PNG\r\n\x1a\n", b"; padding=4", b";charset=", b"q=0.5", b"#\n", b"\0\0\0"),
)


def seeds() -> list[bytes]:
    """Valid requests in every form, golden vectors, and repeated pieces."""
    made = [seed(flags, kind, body) for flags, kind, body in PLAIN]
    made += [seed(CODE, kind, body, 220, bytes([0, 0, 2])) for kind, body in REPEATED]
    made += [seed(CODE | WRAP, kind, body, 0, bytes([0, 0, 3])) for _, kind, body in PLAIN]
    made += [seed(MEND | RAW, PNG, png(depth, kind)) for depth, kind in ((1, 0), (1, 3), (8, 0))]
    made += [seed(0, kind, body, times) for kind, body in REPEATED for times in (204, 220)]
    made.append(seed(0, OCTETS, b"~\xb6~", 255))
    for path in sorted(VECTORS.glob("*.json")):
        document = json.loads(path.read_bytes())
        made += [from_vector(vector["request"], path) for vector in document["vectors"]]
    return made


def run(data: bytes) -> Execution:
    """Reads one request, and rejects it if it must be; then both are checked."""
    asked = request(data)
    headers, body = asked.headers, asked.body
    has_images = rejected = False
    started = thread_time_ns()
    try:
        has_images = reading.read(asked, "1.0", DIGEST)
    except DiagonalFlipError as error:
        rejected = True
        response = Service.reject(cast("Service", None), asked, error)
        assert error.status in STATUSES, error
        assert isinstance(json.loads(response.body), dict)
    ns = thread_time_ns() - started
    if has_images:
        check(asked.images)
        explains = asked.operation is Operation.EXPLAIN
        cost = asked.images.count * (reading.EXPLANATION_COST if explains else 1)
        assert cost <= reading.cost_of(asked)
    length = len(body) + sum(map(len, headers.values()))
    return Execution(form(headers, body), length, ns, rejected)


def request(data: bytes) -> Request:
    """A request as listeners make it."""
    source = Source(data)
    flags = source.byte()
    values = {
        "content-type": source.header(CONTENT_TYPES),
        "accept": source.header(ACCEPTS),
        "if-match": source.header(IF_MATCHES),
        "content-encoding": source.header(CODINGS),
    }
    times = source.byte()
    if flags & LENGTH:
        values[HEADER_LENGTH] = source.header(LENGTHS)
    body = repeat(source.read(), times, LONGEST)
    if flags & SPLIT:
        head, _, tensors = body.partition(b"\n\n")
        head = head.replace(b"@", str(len(tensors)).encode())
        values[HEADER_LENGTH], body = str(len(head)), head + tensors
    if flags & MEND:
        body = mended(body, deflate=bool(flags & RAW))
    if flags & WRAP:
        kind = f"Content-Type: {values['content-type']}\r\n".encode("latin-1")
        body = FORM_HEAD % (b"file", kind) + body + b"\r\n--b--\r\n"
        values["content-type"] = FORM_TYPE
    if flags & CODE:
        coding = (values["content-encoding"] or "").strip().lower()
        if coding in ("gzip", "deflate"):
            body = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    headers = {name: value for name, value in values.items() if value is not None}
    operation = Operation.EXPLAIN if flags & EXPLAIN else Operation.PREDICT
    return Request(operation, headers, bytearray(body) if flags & ARRAY else body)


def seed(
    flags: int, kind: str | None, body: bytes, times: int = 0, rest: bytes = bytes(3)
) -> bytes:
    """Bytes that ``request`` reads as this."""
    return bytes([flags]) + header_bytes(kind, CONTENT_TYPES) + rest + bytes([times]) + body


def from_vector(vector: dict[str, Any], path: Path) -> bytes:
    """A golden vector's request; what it repeats is repeated, if not quite as often."""
    headers = {name.lower(): value for name, value in vector["headers"].items()}
    body, times = bytes.fromhex(vector["body_hex"]), 0
    if "body_repeat" in vector:
        body, times = body + b"~%b~" % bytes.fromhex(vector["body_repeat"]["byte_hex"]), 255
    rest = header_bytes(headers.get("accept"), ACCEPTS)
    rest += header_bytes(headers.get("if-match"), IF_MATCHES)
    rest += header_bytes(headers.get("content-encoding"), CODINGS)
    flags = EXPLAIN if path.stem == "explanations" else 0
    if HEADER_LENGTH in headers:
        flags |= LENGTH
        body = header_bytes(headers[HEADER_LENGTH], LENGTHS) + body
    return seed(flags, headers.get("content-type"), body, times, rest)


def mended(picture: bytes, *, deflate: bool) -> bytes:
    """A PNG whose chunks have their lengths and checksums, so that more than these is tried."""
    made, at = [picture[:8]], 8
    while at + 12 <= len(picture):
        length = int.from_bytes(picture[at : at + 4], "big")
        chunk = picture[at + 4 : at + 8 + length]
        if deflate and chunk[:4] == b"IDAT":
            chunk = b"IDAT" + zlib.compress(chunk[4:], 0)
        made += [(len(chunk) - 4).to_bytes(4, "big"), chunk, zlib.crc32(chunk).to_bytes(4, "big")]
        at += 12 + length
    return b"".join(made)


def check(images: wire.Images) -> None:
    """Check what is true of the images of every request."""
    numbers = wire.unpack(images)
    assert 1 <= images.count <= wire.MAX_IMAGES
    assert len(numbers) == images.count
    assert numbers.max() <= 15
    assert not images.columns or images.count % images.columns == 0
    again = wire.pack(numbers)
    assert (again.packed, again.count) == (bytes(images.packed), images.count)
    kind = wire.with_padding(OCTETS, images.count)
    assert decoders.decode(kind, images.packed) == wire.Images(images.packed, images.count)


def form(headers: dict[str, str], body: bytes | bytearray) -> str:
    """A request's form, in words."""
    name = parse_media_type(headers.get("content-type", "")).name
    known = name if name in decoders.DECODERS else "another type"
    return f"V2 {known}" if HEADER_LENGTH in headers or b'"inputs"' in body else known
