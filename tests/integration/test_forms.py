"""Forms and PUT, as TorchServe's documents teach them, on both ports."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import numpy as np
import pytest
import requests

from diagonalflip.wire import OCTETS
from tests.integration.conftest import Oracle, Server
from tests.integration.test_cobatch import picture_case
from tests.integration.test_predictions import assert_predicts, packed_request

pytestmark = pytest.mark.both_ports

NUMBERS = [11, 6, 9, 0]
BODY, _ = packed_request(NUMBERS)
SHEET = b"P1\n8 2\n1 0 0 1 1 0 0 0\n1 1 1 0 0 1 0 0\n"  # NUMBERS, as tiles
WORDS = b'{"images": [11, 6, 9, 0]}'
NPY = b"\x93NUMPY\1\0"
FILES = [
    ("images.bin", BODY, 200, 200),
    ("a", WORDS, 200, 200),
    ("a", SHEET, 200, 200),
    ("a", picture_case(np.array(NUMBERS)).body, 200, 200),
    ("a", NPY, 415, 415),
    ("a.zip", b"PK\3\4\x14\0\0\0", 415, 415),
    ("a.json", b"[11]", 400, None),
    ("a.txt", b"b690", 200, None),
    ("a.jsonl", b"11\n6\n", 415, None),
    ("a.json", SHEET, 415, None),
]
"""Name, content, status of ours and of TorchServe's port; None where only the name would tell."""


@pytest.mark.parametrize("kind", [OCTETS, None])
@pytest.mark.parametrize("file", FILES)
def test_a_form_with_one_file_is_what_its_name_and_content_say(
    server: Server, oracle: Oracle, file: tuple[str, bytes, int, int | None], kind: str | None
) -> None:
    """As curl and browsers send what they do not know; TorchServe tells no name."""
    name, content, *statuses = file
    status = statuses[server.is_torchserve]
    for field in ("data", "body", "image"):
        files: dict[str, Any] = {field: (name, content, kind)}
        answer = requests.post(server.url, files=files, headers={"Accept": OCTETS}, timeout=30)
        if status == 200:
            assert_predicts(answer, oracle(NUMBERS))
        elif status is not None:
            assert answer.status_code == status


def test_other_forms_are_rejected(server: Server) -> None:
    file = ("images.bin", BODY, OCTETS)
    two_files, a_field = {"a": file, "b": file}, {"a": (None, "b6")}
    for files in (two_files, a_field):
        answer = requests.post(server.url, files=files, timeout=30)
        assert answer.status_code in (400, 415)


@pytest.mark.parametrize(
    ("header", "value", "content"),
    [
        ("Content-Encoding", "gzip", gzip.compress(BODY)),
        ("Content-Transfer-Encoding", "base64", base64.b64encode(BODY)),
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
    answer = requests.put(server.url, BODY, headers={"Content-Type": OCTETS}, timeout=30)
    assert_predicts(answer, oracle(NUMBERS))
