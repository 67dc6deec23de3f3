"""Forms and PUT, as TorchServe's documents teach them, on both ports."""

from __future__ import annotations

import base64
import gzip
import io
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image, ImageOps

from diagonalflip.wire import pack
from tests.integration.conftest import Oracle, Server

pytestmark = pytest.mark.both_ports

NUMBERS = [11, 6, 9, 0]
BODY = bytes(pack(NUMBERS).packed)
OCTETS = "application/octet-stream"


def png_of(pbm: bytes) -> bytes:
    written = io.BytesIO()
    ImageOps.invert(Image.open(io.BytesIO(pbm))).save(written, format="PNG")
    return written.getvalue()


def check(answer: requests.Response, oracle: Oracle) -> None:
    assert answer.status_code == 200, answer.text
    rows = np.frombuffer(answer.content, "<f4").reshape(-1, 4)
    assert np.abs(rows - oracle(NUMBERS)).max() <= 1e-6


@pytest.mark.parametrize("name", ["data", "body", "image"])
def test_a_form_with_one_file_is_that_file(server: Server, oracle: Oracle, name: str) -> None:
    """``curl -F data=@images.bin``."""
    files = {name: ("images.bin", BODY, OCTETS)}
    check(requests.post(server.url, files=files, timeout=30), oracle)


def test_other_forms_are_rejected(server: Server) -> None:
    file = ("images.bin", BODY, OCTETS)
    two_files, a_field = {"a": file, "b": file}, {"a": (None, "b6")}
    for files in (two_files, a_field):
        answer = requests.post(server.url, files=files, timeout=30)
        assert answer.status_code in (400, 415)


SHEET = b"P1\n8 2\n1 0 0 1 1 0 0 0\n1 1 1 0 0 1 0 0\n"  # NUMBERS, as tiles
WORDS = b'{"images": [11, 6, 9, 0]}'
NPY = b"\x93NUMPY\1\0"
HEX = b"b690"
ZIP = b"PK\3\4\x14\0\0\0"
FILES = [
    ("a", WORDS, 200, 200),
    ("a", SHEET, 200, 200),
    ("a", png_of(SHEET), 200, 200),
    ("a", NPY, 415, 415),
    ("a.zip", ZIP, 415, 415),
    ("a.npy", NPY, 415, 415),
    ("a.json", WORDS, 200, 200),
    ("a.pbm", SHEET, 200, 200),
    ("a.PNG", png_of(SHEET), 200, 200),
    ("a.json", b"[11]", 400, None),
    ("a.txt", HEX, 200, None),
    ("a.jsonl", b"11\n6\n", 415, None),
    ("a.json", SHEET, 415, None),
    ("a.bin", WORDS, 415, None),
]
"""Name, content, status of ours and of TorchServe's port; None where only the name would tell."""


@pytest.mark.parametrize("kind", [OCTETS, None])
@pytest.mark.parametrize("file", FILES)
def test_a_file_of_generic_type_is_what_its_name_and_content_say(
    server: Server, oracle: Oracle, file: tuple[str, bytes, int, int | None], kind: str | None
) -> None:
    """As curl and browsers send what they do not know; TorchServe tells no name."""
    name, content, *statuses = file
    status = statuses[server.is_torchserve]
    files: dict[str, Any] = {"data": (name, content, kind)}
    answer = requests.post(server.url, files=files, headers={"Accept": OCTETS}, timeout=30)
    if status is not None:
        assert answer.status_code == status
    if status == 200:
        check(answer, oracle)


@pytest.mark.parametrize(
    ("header", "value", "content"),
    [
        ("Content-Encoding", "gzip", gzip.compress(BODY)),
        ("Content-Transfer-Encoding", "base64", base64.b64encode(BODY)),
        ("Content-Transfer-Encoding", "quoted-printable", b"=B6=90"),
    ],
)
def test_a_file_that_is_encoded_in_its_form_is_never_predicted_so(
    server: Server, header: str, value: str, content: bytes
) -> None:
    files = {"data": ("images.bin", content, OCTETS, {header: value})}
    answer = requests.post(server.url, files=files, timeout=30)
    assert answer.status_code in ((400, 415, 500) if server.is_torchserve else (415,))


def test_put_is_as_post(server: Server, oracle: Oracle) -> None:
    """``curl -T images.bin -H 'Content-Type: ...'``."""
    headers = {"Content-Type": OCTETS}
    check(requests.put(server.url, data=BODY, headers=headers, timeout=30), oracle)


@pytest.mark.parametrize("name", ["Explain", "EXPLAIN", "explain", "Describe"])
def test_no_header_of_a_client_is_a_mark_of_ours(server: Server, oracle: Oracle, name: str) -> None:
    headers = {"Content-Type": OCTETS, name: "True"}
    check(requests.post(server.url, data=BODY, headers=headers, timeout=30), oracle)
