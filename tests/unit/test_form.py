"""A form with one file is that file; any other form is refused."""

from __future__ import annotations

import flip_form
import pytest
from flip_handler import understand

from diagonalflip.errors import InvalidPayload
from diagonalflip.message import Request, Verb

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


@pytest.mark.parametrize("body", [b"\xb6", b"", EVERY_BYTE, bytes(1 << 20)])
@pytest.mark.parametrize("kind", [OCTETS, f"{OCTETS}; padding=4", "image/png"])
def test_the_file_is_the_body(kind: str, body: bytes) -> None:
    assert flip_form.file_of(TYPE, form((FILE, kind, body))) == (kind, body)
    quoted = f'multipart/form-data; boundary="{BOUNDARY}"'
    assert flip_form.file_of(quoted, bytearray(form((FILE, kind, body)))) == (kind, body)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.png", "image/png"), ("a.json", "application/json"), ("a.txt", "text/plain"), ("a", "")],
)
def test_without_a_type_the_files_name_tells(name: str, kind: str) -> None:
    body = form((f'form-data; name="data"; filename="{name}"', "", b"x"))
    assert flip_form.file_of(TYPE, body)[0] == kind


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        (TYPE, b"\xb6", "Unexpected end"),
        (TYPE, form(), "without any part"),
        (TYPE, form(('form-data; name="data"', "", b"b6")), "no file"),
        (TYPE, form((FILE, OCTETS, b"\xb6"), (FILE, OCTETS, b"\xb6")), "several parts"),
        (TYPE, form((FILE, OCTETS, b"\xb6"), ('form-data; name="more"', "", b"1")), "several"),
        *((TYPE, form((FILE, OCTETS, b"\xb6"))[:-cut], "Unexpected end") for cut in (4, 9, 60, 99)),
        ("multipart/form-data", form((FILE, OCTETS, b"\xb6")), "boundary"),
        (
            "multipart/form-data; boundary=other",
            form((FILE, OCTETS, b"\xb6")),
            "Boundary not found",
        ),
    ],
)
def test_other_forms_are_refused(content_type: str, body: bytes, message: str) -> None:
    with pytest.raises(InvalidPayload, match=message):
        flip_form.file_of(content_type, body)


def test_behind_torchserve_the_one_part_with_a_type_is_the_body() -> None:
    headers = {"Content-Type": TYPE, "Host": "a", "data": {"content-type": OCTETS}}
    request = understand(headers, {"data": b"\xb6"})
    assert request == Request(Verb.PREDICT, {"content-type": OCTETS, "host": "a"}, b"\xb6")
    two = headers | {"more": {"content-type": OCTETS}}
    assert understand(two, {"data": b"\xb6", "more": b"\xb6"}).body == b""


def test_the_verb_is_torchserves_mark_and_no_clients() -> None:
    for name in ("Explain", "EXPLAIN"):
        assert understand({name: "True", "explain": "False"}, {}).verb is Verb.PREDICT
    assert understand({"Explain": "False", "explain": "True"}, {}).verb is Verb.EXPLAIN
    assert "explain" not in understand({"Explain": "True"}, {}).headers


def test_a_query_is_no_header_and_the_inputs_of_grpc_are() -> None:
    inputs = {"accept": b"application/json", "body": b""}
    assert "accept" not in understand({"Host": "a"}, inputs).headers
    assert understand({}, inputs).headers["accept"] == "application/json"
