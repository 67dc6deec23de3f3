"""A form with one file is that file; any other form is rejected."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from diagonalflip.errors import InvalidPayload, UnsupportedCoding, UnsupportedMediaType
from diagonalflip.inference import forms
from diagonalflip.inference.decoders import DECODERS
from diagonalflip.inference.media_types import file_type
from diagonalflip.inference.reading import cost_of, read
from diagonalflip.message import Operation, Request
from diagonalflip.wire import FORMS, JSON, NPY, PACKED, PBM, PNG, SUFFIXES, TEXT, unpack
from handlers.diagonalflip_handler import understand
from tests.unit.test_picture import plain_pbm_of, png_of, raw_pbm_of, sheet

BOUNDARY = "------------------------d74496d66958873e"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
OCTETS = "application/octet-stream"
FILE = 'form-data; name="data"; filename="images.bin"'
EVERY_BYTE = bytes(range(256)) + b"\r\n--\r\n" + BOUNDARY.encode()


def form(*parts: tuple[str, str, bytes]) -> bytes:
    """Build a form; each part has a disposition, a type and bytes."""
    made = []
    for disposition, kind, body in parts:
        head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n"
        head += f"Content-Type: {kind}\r\n" if kind else ""
        made.append(head.encode() + b"\r\n" + body + b"\r\n")
    return b"".join(made) + f"--{BOUNDARY}--\r\n".encode()


ONE = form((FILE, OCTETS, b"\xb6"))


@pytest.mark.parametrize("body", [b"\xb6", b"", EVERY_BYTE, bytes(1 << 20)])
@pytest.mark.parametrize("kind", [OCTETS, f"{OCTETS}; padding=4", "image/png"])
def test_the_file_is_the_body(kind: str, body: bytes) -> None:
    assert forms.file_of(TYPE, form((FILE, kind, body))) == (kind, body)
    quoted = f'multipart/form-data; boundary="{BOUNDARY}"'
    assert forms.file_of(quoted, bytearray(form((FILE, kind, body)))) == (kind, body)


SHEET = sheet(1, 2)
CONTENTS = {
    JSON: b' {"images": [11]}',
    TEXT: b"b6",
    PNG: png_of(SHEET),
    PBM: raw_pbm_of(SHEET),
    OCTETS: b"\xb6",
    NPY: b"\x93NUMPY\1\0v\0{'descr': '|u1'",
    "application/jsonl": b"11\n6\n",
}
GENERIC = ["", OCTETS, "Application/Octet-Stream", f"{OCTETS};padding=0"]


def named(name: str, declared: str, content: bytes) -> bytes:
    return form((f'form-data; name="data"; filename="{name}"', declared, content))


@pytest.mark.parametrize("declared", GENERIC)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_suffix_tells_unless_the_content_contradicts(declared: str, suffix: str) -> None:
    kind = SUFFIXES[suffix]
    for content in {JSON, PNG, PBM, NPY} - {kind}:
        with pytest.raises(UnsupportedMediaType, match=f"begins as {content} does"):
            forms.file_of(TYPE, named(f"a{suffix}", declared, CONTENTS[content]))
    names = f"a{suffix}", f"a.b{suffix.upper()}", f"C:\\x y\\a{suffix}", f"{suffix[1:]}{suffix}"
    for name in names if kind in FORMS else ():
        found, _ = forms.file_of(TYPE, named(name, declared, CONTENTS[kind]))
        assert found == (declared or kind if kind == OCTETS else kind)
    assert set(FORMS) - {"v2", PACKED} <= set(SUFFIXES.values())


@pytest.mark.parametrize("declared", GENERIC)
@pytest.mark.parametrize("name", ["a", "a.dat", ".png", "a."])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        *((CONTENTS[kind], kind) for kind in (JSON, PNG, PBM, NPY)),
        (b'\xef\xbb\xbf{\n "inputs" : []}', JSON),
        (plain_pbm_of(SHEET), PBM),
        (b"P4 # by GIMP\n#\n4 2\n\xb0\x60", PBM),
        (b"GIF89a\2\0\2\0", "image/gif"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0\1", "image/jpeg"),
        (b"PK\3\4\x14\0\0\0", "application/zip"),
        (gzip.compress(b"\xb6"), "application/gzip"),
    ],
)
def test_the_content_tells_the_type(declared: str, name: str, content: bytes, kind: str) -> None:
    assert file_type(declared, content) == kind
    if kind in DECODERS:
        assert forms.file_of(TYPE, named(name, declared, content))[0] == kind
    else:
        with pytest.raises(UnsupportedMediaType, match=f"is {kind}. Expected .bin or .json"):
            forms.file_of(TYPE, named(name, declared, content))


@pytest.mark.parametrize("name", ["a", "a.dat", "a.bin", "a.o"])
def test_packed_images_may_begin_in_any_way(name: str) -> None:
    for beginning in (b"P4", b"P1", b"{", b"\x89PNG", b"\xff\xd8\xff", b"PK", b"GIF"):
        content = beginning + b"\xb6" * 40
        assert forms.file_of(TYPE, named(name, OCTETS, content)) == (OCTETS, content)
        assert forms.file_of(TYPE, named("a", "", content)) == ("", content)


def test_without_a_form_nobody_looks_at_the_content() -> None:
    for content in CONTENTS.values():
        request = Request(Operation.PREDICT, {"content-type": OCTETS}, content)
        assert read(request, "", "")
        assert request.images.packed == content


@pytest.mark.parametrize("declared", GENERIC)
def test_a_known_suffix_of_what_is_not_read_is_rejected(declared: str) -> None:
    suffixes = "jpg gif zip csv npy jsonl tgz json.gz pgm html pdf PDF"
    for suffix in suffixes.split():
        body = named(f"a.{suffix}", declared, b"\xb6" * 99)
        request = Request(Operation.PREDICT, {"content-type": TYPE}, body)
        cost_of(request)
        with pytest.raises(UnsupportedMediaType):
            read(request, "", "")


@pytest.mark.parametrize("declared", [JSON, TEXT, PNG, PBM, PACKED, f"{TEXT}; charset=utf-8"])
def test_a_type_that_says_something_wins(declared: str) -> None:
    for name, content in (("a.json", b"b6"), ("a.jpg", CONTENTS[PNG]), ("a.bin", CONTENTS[JSON])):
        assert forms.file_of(TYPE, named(name, declared, content))[0] == declared


@pytest.mark.parametrize(
    ("header", "value"),
    [
        *(("Content-Encoding", "gzip"), ("content-encoding", "BR")),
        *(("Content-Transfer-Encoding", each) for each in ("base64", "Quoted-Printable", "x-own")),
    ],
)
@pytest.mark.parametrize("whole", [bytes, gzip.compress])
def test_a_file_encoded_within_its_form_is_rejected(header: str, value: str, whole: Any) -> None:
    body = whole(form((f"{FILE}\r\n{header}: {value}", OCTETS, b"\xb6")))
    headers = {"content-type": TYPE} | ({} if body[:2] == b"--" else {"content-encoding": "gzip"})
    request = Request(Operation.PREDICT, headers, body)
    assert cost_of(request) == 1
    with pytest.raises(UnsupportedCoding, match=value):
        read(request, "", "")


def test_a_file_that_is_said_not_to_be_encoded_is_taken() -> None:
    transfers = [f"Content-Transfer-Encoding: {value}" for value in ("7bit", "8BIT", "binary")]
    for header in ("Content-Encoding: identity", *transfers):
        body = form((f"{FILE}\r\n{header}", OCTETS, b"\xb6"))
        assert forms.file_of(TYPE, body) == (OCTETS, b"\xb6")


def test_a_large_form_in_a_compression_is_read_as_a_small_one() -> None:
    tensor = b'{"name": "packed", "datatype": "UINT8", "shape": [1], "data": [182]}'
    for blanks in (0, 1 << 19):
        body = named("a.json", OCTETS, b'{"inputs": [%b%b]}' % (b" " * blanks, tensor))
        headers = {"content-type": TYPE, "content-encoding": "gzip"}
        request = Request(Operation.PREDICT, headers, gzip.compress(body))
        cost_of(request)
        assert read(request, "1.0", "")
        assert (request.form, unpack(request.images).tolist()) == ("v2", [11, 6])


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        (TYPE, b"\xb6", "Unexpected end"),
        (TYPE, form(), "without any part"),
        (TYPE, form(('form-data; name="data"', "", b"b6")), "no file"),
        (TYPE, form((FILE, OCTETS, b"\xb6"), (FILE, OCTETS, b"\xb6")), "several parts"),
        (TYPE, form((FILE, OCTETS, b"\xb6"), ('form-data; name="more"', "", b"1")), "several"),
        (TYPE, form((FILE, f"{OCTETS}; a={'b' * 9000}", b"\xb6")), "long header"),
        *((TYPE, ONE[:-cut], "Unexpected end") for cut in (4, 9, 60, 99)),
        ("multipart/form-data", ONE, "boundary"),
        ("multipart/form-data; boundary=other", ONE, "Boundary not found"),
    ],
)
def test_other_forms_are_rejected(content_type: str, body: bytes, message: str) -> None:
    with pytest.raises(InvalidPayload, match=message):
        forms.file_of(content_type, body)


def test_behind_torchserve_the_one_part_with_a_type_is_the_body() -> None:
    headers = {"Content-Type": TYPE, "Host": "a", "data": {"content-type": OCTETS}}
    request = understand(headers, {"data": b"\xb6"})
    assert request == Request(Operation.PREDICT, {"content-type": OCTETS, "host": "a"}, b"\xb6")
    for kind in (JSON, PNG, PBM):
        assert understand(headers, {"data": CONTENTS[kind]}).headers["content-type"] == kind
    two = headers | {"more": {"content-type": OCTETS}}
    assert understand(two, {"data": b"\xb6", "more": b"\xb6"}).body == b""


def test_the_operation_is_torchserves_mark_and_the_inputs_of_grpc_are_headers() -> None:
    for name in ("Explain", "EXPLAIN"):
        assert understand({name: "True", "explain": "False"}, {}).operation is Operation.PREDICT
    assert understand({"Explain": "False", "explain": "True"}, {}).operation is Operation.EXPLAIN
    assert "explain" not in understand({"Explain": "True"}, {}).headers
    inputs = {"accept": b"application/json", "body": b""}
    assert "accept" not in understand({"Host": "a"}, inputs).headers
    assert understand({}, inputs).headers["accept"] == "application/json"
    assert understand({"Accept": "a/b"}, inputs).headers["accept"] == "a/b"
