"""Forms and PUT, as TorchServe's documents teach them, and compressed bodies, on both ports."""

from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest
import requests

from diagonalflip.wire import pack
from tests.integration.conftest import Oracle, Server

pytestmark = pytest.mark.both_ports

NUMBERS = [11, 6, 9, 0]
BODY = bytes(pack(NUMBERS).packed)
OCTETS = "application/octet-stream"


def check(answer: requests.Response, oracle: Oracle) -> None:
    assert answer.status_code == 200, answer.text
    rows = np.frombuffer(answer.content, "<f4").reshape(-1, 4)
    assert np.abs(rows - oracle(NUMBERS)).max() <= 1e-6


@pytest.mark.parametrize("name", ["data", "body", "image"])
def test_a_form_with_one_file_is_that_file(server: Server, oracle: Oracle, name: str) -> None:
    """``curl -F data=@images.bin``."""
    files = {name: ("images.bin", BODY, OCTETS)}
    check(requests.post(server.url, files=files, timeout=30), oracle)


def test_other_forms_are_refused(server: Server) -> None:
    file = ("images.bin", BODY, OCTETS)
    two = requests.post(server.url, files={"a": file, "b": file}, timeout=30)
    assert two.status_code in (400, 415)
    field = requests.post(server.url, files={"a": (None, "b6")}, timeout=30)
    assert field.status_code in (400, 415)


def test_put_is_as_post(server: Server, oracle: Oracle) -> None:
    """``curl -T images.bin -H 'Content-Type: ...'``."""
    headers = {"Content-Type": OCTETS}
    check(requests.put(server.url, data=BODY, headers=headers, timeout=30), oracle)


@pytest.mark.parametrize(
    ("coding", "body"), [("gzip", gzip.compress(BODY)), ("deflate", zlib.compress(BODY))]
)
def test_a_compressed_body_is_decompressed(
    server: Server, oracle: Oracle, coding: str, body: bytes
) -> None:
    headers = {"Content-Type": OCTETS, "Content-Encoding": coding}
    check(requests.post(server.url, data=body, headers=headers, timeout=30), oracle)


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip"])
def test_another_coding_is_refused(server: Server, coding: str) -> None:
    headers = {"Content-Type": OCTETS, "Content-Encoding": coding}
    answer = requests.post(server.url, data=BODY, headers=headers, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_coding")
    assert "gzip" in answer.headers["accept-encoding"]


@pytest.mark.parametrize("name", ["Explain", "EXPLAIN", "explain", "Describe"])
def test_no_header_of_a_client_is_a_mark_of_ours(server: Server, oracle: Oracle, name: str) -> None:
    headers = {"Content-Type": OCTETS, name: "True"}
    check(requests.post(server.url, data=BODY, headers=headers, timeout=30), oracle)
