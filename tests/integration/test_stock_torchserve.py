"""The archive in a TorchServe that nobody configured, as TorchServe's own documents start it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from diagonalflip.wire import JSON, OCTETS, PNG, TEXT
from supervisor.ports import free_ports
from supervisor.settings import Settings
from supervisor.torchserve_command import find_torchserve
from tests.integration.conftest import PATH, TORCHSERVE_BYTES, Oracle, Server, new_folder
from tests.integration.test_cobatch import picture_case
from tests.integration.test_predictions import assert_predicts, packed_request

PORTS = """
inference_address=http://127.0.0.1:{0}
management_address=http://127.0.0.1:{1}
metrics_address=http://127.0.0.1:{2}
grpc_inference_port={3}
grpc_management_port={4}
"""
INFER = "/v2/models/diagonal_flip/infer"
EXPLAIN = "/explanations/diagonal_flip"
PIXELS = (
    b'{"id": "7", "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 4], "data": %s}]}'
)
HEAD = b'{"inputs": [{"name": "packed", "datatype": "UINT8", "shape": [1], "parameters": '
HEAD += b'{"binary_data_size": 1}}]}'
FORM = b'--b\r\nContent-Disposition: form-data; name="data"; filename="a"\r\n'
FORM += b"Content-Type: application/octet-stream\r\n\r\n\xb6\r\n--b--\r\n"

Asked = tuple[str, str, bytes, dict[str, str]]
"""Path, content type, body, and further headers."""

REQUESTS: dict[str, Asked] = {
    "packed": (PATH, OCTETS, b"\xb6", {}),
    "packed for JSON": (PATH, OCTETS, b"\xb6", {"Accept": JSON}),
    "an odd number": (PATH, f"{OCTETS}; padding=4", b"\xb6\x90", {}),
    "JSON": (PATH, JSON, b'{"images": [11, "0110", [[1, 1], [0, 0]], [0, 0, 0, 1]]}', {}),
    "JSON in UTF-8": (PATH, f"{JSON}; charset=utf-8", b'{"images": [11]}', {}),
    "a list": (PATH, JSON, b"[11, 6]", {}),
    "text": (PATH, TEXT, b"b6 c", {}),
    "a picture": (PATH, PNG, picture_case(np.arange(4)).body, {}),
    "a form": (PATH, "multipart/form-data; boundary=b", FORM, {}),
    "V2": (INFER, JSON, PIXELS % b"[1, 0, 1, 1]", {}),
    "V2 in binary": (
        INFER,
        OCTETS,
        HEAD + b"\xb6",
        {"Inference-Header-Content-Length": str(len(HEAD))},
    ),
    "an explanation": (EXPLAIN, JSON, b'{"images": [11]}', {}),
    "an explanation of text": (EXPLAIN, TEXT, b"b6", {}),
    "a version": (f"{PATH}/1.0", OCTETS, b"\xb6", {}),
    "nothing": (PATH, OCTETS, b"", {}),
    "no JSON": (PATH, JSON, b'{"images": [', {}),
    "JSON of a string": (PATH, JSON, b'"b6"', {}),
    "no UTF-8": (PATH, JSON, b"\xff\xfe{}", {}),
    "a wrong image": (PATH, JSON, b'{"images": [3, 16]}', {}),
    "infinity": (PATH, JSON, b'{"images": [1e400]}', {}),
    "no hex digits": (PATH, TEXT, "ä".encode(), {}),
    "a wrong type": (PATH, "application/pdf", b"\xb6", {}),
    "a wrong tensor": (INFER, JSON, PIXELS % b"[1, 0, 2, 1]", {}),
    "an answer that nobody can give": (PATH, OCTETS, b"\xb6", {"Accept": "image/gif"}),
}


@pytest.fixture(scope="module")
def stock(artifacts: Path) -> Iterator[str]:
    """The URL of TorchServe, started by its own command with nothing but its ports."""
    installed = find_torchserve(Settings(torchserve="1"))
    assert installed is not None
    port = free_ports(5)
    with new_folder() as folder, (folder / "printed").open("wb") as printed:
        (folder / "ports").write_text(PORTS.format(*range(port, port + 5)))
        command = [str(Path(sys.executable).with_name("torchserve")), "--start", "--foreground"]
        command += ["--ncs", "--disable-token-auth", "--model-store", str(artifacts)]
        command += ["--models", "diagonal_flip=diagonal_flip.mar", "--ts-config", "ports"]
        home = {"JAVA_HOME": str(installed.java.parent.parent)}
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | home | dict.fromkeys(("TEMP", "TMPDIR"), str(folder)),
            stdout=printed,
            stderr=printed,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            while ask(url, "packed").status_code != requests.codes.ok:
                assert process.poll() is None, (folder / "printed").read_text()
            yield url
        finally:
            with contextlib.suppress(ProcessLookupError):  # Java stays when the command ends
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ask(base: str, name: str) -> requests.Response:
    path, content_type, body, more = REQUESTS[name]
    headers = {"Content-Type": content_type} | more
    with contextlib.suppress(requests.ConnectionError):
        return requests.post(base + path, body, headers=headers, timeout=60)
    return requests.Response()


def content(response: requests.Response) -> Any:
    """Return what must be the same: of an error only its code."""
    if "json" not in response.headers["Content-Type"]:
        return response.content
    document = response.json()
    return document.get("code", document)


@pytest.mark.parametrize("name", REQUESTS)
def test_it_answers_as_the_front_door_does(stock: str, running: Server, name: str) -> None:
    got, wanted = ask(stock, name), ask(running.base, name)
    assert (got.status_code, content(got)) == (wanted.status_code, content(wanted))
    for header in ("Content-Type", "Flip-Images", "Flip-Model-Digest", "Flip-Model-Version"):
        assert got.headers.get(header) == wanted.headers.get(header)


def test_sixteen_maximal_answers_at_once_keep_nobody_waiting(stock: str, oracle: Oracle) -> None:
    numbers = np.random.default_rng(4).integers(0, 16, TORCHSERVE_BYTES // 16)
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
