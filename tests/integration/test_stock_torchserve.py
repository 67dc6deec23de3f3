"""The archive in a TorchServe that nobody configured, as TorchServe's own documents start it."""

from __future__ import annotations

import contextlib
import gzip
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from benchmarks.running import TORCHSERVE_ANSWER_BYTES, log_tail, process
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor.ports import free_ports
from diagonalflip.server.supervisor.torchserve_command import find_torchserve
from diagonalflip.wire import JSON, OCTETS, TEXT
from tests.integration.conftest import PATH, Oracle, Server, new_folder, run_command
from tests.integration.test_predictions import assert_predicts, packed_request

pytestmark = pytest.mark.slow

PORTS = """
inference_address=http://127.0.0.1:{0}
management_address=http://127.0.0.1:{1}
metrics_address=http://127.0.0.1:{2}
grpc_inference_port={3}
grpc_management_port={4}
"""
INFER = "/v2/models/diagonal_flip/infer"
PIXELS = (
    b'{"id": "7", "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 4], "data": %s}]}'
)
LENGTH = "Inference-Header-Content-Length"
FORM = "multipart/form-data; boundary=b"
WORDS = b'{"images": [11, "0110"]}'


def part(content: bytes, kind: str, name: str = "a") -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="data"; filename="{name}"\r\n'
    return f"{head}Content-Type: {kind}\r\n\r\n".encode() + content + b"\r\n--b--\r\n"


# Path, content type, body, and further headers; what is no golden vector.
REQUESTS: dict[str, tuple[str, str, bytes, dict[str, str]]] = {
    "packed": (PATH, OCTETS, b"\xb6", {}),
    "JSON in capitals": (PATH, "Application/JSON", WORDS, {}),
    "JSON, compressed": (PATH, JSON, gzip.compress(WORDS), {"Content-Encoding": "gzip"}),
    "text after a byte order mark": (PATH, TEXT, b"\xef\xbb\xbfb6", {}),
    "text, compressed": (PATH, TEXT, zlib.compress(b"b6"), {"Content-Encoding": "deflate"}),
    "a form": (PATH, FORM, part(b"\xb6", OCTETS), {}),
    "a form with JSON": (PATH, FORM, part(WORDS, JSON), {}),
    "a form with JSON of no type": (PATH, FORM, part(WORDS, OCTETS, "a.json"), {}),
    "a form with text": (PATH, FORM, part(b"b6", TEXT), {}),
    "a form with a PBM": (PATH, FORM, part(b"P1 2 2 1011", OCTETS, "a.pbm"), {}),
    "a form with V2": (PATH, FORM, part(PIXELS % b"[1, 0, 1, 1]", JSON), {}),
    "a form with an archive": (PATH, FORM, part(b"PK\3\4\x14\0\0\0", OCTETS, "a.zip"), {}),
    "V2 in floats": (INFER, JSON, PIXELS % b"[1.0, 0e0, 1E0, -0.0]", {}),
    "V2 in booleans": (INFER, JSON, PIXELS % b"[true, false, 1, -0]", {}),
    "V2 with nulls": (INFER, JSON, b'{"id": null, ' + (PIXELS % b"[1, 0, 1, 1]")[12:], {}),
    "V2 that tells its length": (INFER, JSON, PIXELS % b"[1,0,1,1]", {LENGTH: "100"}),
    "V2 that tells a wrong length": (INFER, JSON, PIXELS % b"[1,0,1,1]", {LENGTH: "99"}),
    "V2 with a fraction": (INFER, JSON, PIXELS % b"[1, 0, 1, 0.9999999999999999]", {}),
    "V2 with a large integer": (INFER, JSON, PIXELS % b"[1, 0, 1, 18446744073709551617]", {}),
    "V2 with NaN": (INFER, JSON, PIXELS % b"[1, 0, 1, NaN]", {}),
    "V2 with a comma too many": (INFER, JSON, PIXELS % b"[1, 0, 1, 1,]", {}),
    "V2 with half a character": (INFER, JSON, b'{"id": "\\ud800", ' + (PIXELS % b"1")[12:], {}),
    "a version": (f"{PATH}/1.0", OCTETS, b"\xb6", {}),
    "JSON of a string": (PATH, JSON, b'"b6"', {}),
    "a fraction": (PATH, JSON, b'{"images": [3.0]}', {}),
    "a large integer": (PATH, JSON, b'{"images": [%b]}' % (b"9" * 400), {}),
    "NaN": (PATH, JSON, b'{"images": [NaN]}', {}),
    "infinity": (PATH, JSON, b'{"images": [1e400]}', {}),
    "null": (PATH, JSON, b"null", {}),
    "half a character": (PATH, JSON, b'["\\ud800"]', {}),
    "text that is no UTF-8": (PATH, TEXT, b"\xff", {}),
}


@pytest.fixture(scope="module")
def stock(artifacts: Path) -> Iterator[str]:
    """The URL of TorchServe, started by its own command with nothing but its ports."""
    installed = find_torchserve(Settings(torchserve="1"))
    assert installed is not None
    port = free_ports(5)
    command = [str(Path(sys.executable).with_name("torchserve")), "--start", "--foreground"]
    command += ["--ncs", "--disable-token-auth", "--model-store", str(artifacts)]
    command += ["--models", "diagonal_flip=diagonal_flip.mar", "--ts-config", "ports"]
    variables = {"JAVA_HOME": str(installed.java.parent.parent)}
    with new_folder() as folder:
        (folder / "ports").write_text(PORTS.format(*range(port, port + 5)))
        variables |= dict.fromkeys(("TEMP", "TMPDIR"), str(folder))
        with process(command, folder, variables) as started:
            url = f"http://127.0.0.1:{port}"
            while ask(url, "packed").status_code != requests.codes.ok:
                assert started.poll() is None, log_tail(folder)
            yield url


def ask(base: str, name: str) -> requests.Response:
    path, content_type, body, more = REQUESTS[name]
    headers = {"Content-Type": content_type} | more
    with contextlib.suppress(requests.ConnectionError):
        return requests.post(base + path, body, headers=headers, timeout=60)
    return requests.Response()


def content(response: requests.Response) -> Any:
    """Return what must be the same, with its type: of an error only its code.

    TorchServe does not tell that broken JSON came to V2's path, where errors look otherwise.
    """
    kind = response.headers["Content-Type"]
    if "json" not in kind:
        return kind, response.content
    document = response.json()
    code = document.get("code") or document.get("error", "").partition(":")[0]
    return code or (kind, document)


def test_the_conformance_kit_passes(stock: str) -> None:
    run_command("check", stock)


@pytest.mark.parametrize("name", REQUESTS)
def test_it_answers_as_the_http_listener_does(stock: str, running: Server, name: str) -> None:
    got, wanted = ask(stock, name), ask(running.base, name)
    assert (got.status_code, content(got)) == (wanted.status_code, content(wanted))
    for header in ("Flip-Images", "Flip-Model-Digest", "Flip-Model-Version"):
        assert got.headers.get(header) == wanted.headers.get(header)


def test_sixteen_maximal_answers_at_once_keep_nobody_waiting(stock: str, oracle: Oracle) -> None:
    numbers = np.random.default_rng(4).integers(0, 16, TORCHSERVE_ANSWER_BYTES // 16)
    body, content_type = packed_request(numbers)
    expected = oracle(numbers)

    def send(_: int) -> float:
        began = time.monotonic()
        headers = {"Content-Type": content_type}
        response = requests.post(stock + PATH, body, headers=headers, timeout=30)
        seconds = time.monotonic() - began
        assert_predicts(response, expected)
        return seconds

    with ThreadPoolExecutor(16) as pool:
        assert max(pool.map(send, range(16))) < 10
