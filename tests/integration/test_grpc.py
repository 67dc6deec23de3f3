"""TorchServe's gRPC: the same bodies as over HTTP, through the stubs that the docs make."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from diagonalflip.wire import pack
from tests.conftest import ROOT
from tests.integration.conftest import TORCHSERVE_BYTES, Oracle, Server

PACKED = b"application/octet-stream"
TOLERANCE = 1e-6

Predict = Callable[..., bytes]


def block(page: str, language: str) -> str:
    """The one block of a language in the section on gRPC of a page."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = text.partition("\n## gRPC\n")[2].partition("\n## ")[0]
    [found] = re.findall(rf"^```{language}\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture(scope="module")
def stubs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of the docs have written the stubs."""
    folder = tmp_path_factory.mktemp("stubs")
    install, commands = block("torchserve.md", "sh").split("\n", 1)
    assert install.startswith("pip install ")
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    bash = ["bash", "-euxo", "pipefail", "-c", commands]
    subprocess.run(bash, cwd=folder, env=os.environ | path, check=True)
    return folder


@pytest.fixture(scope="module")
def stubs(stubs_folder: Path) -> Iterator[tuple[Any, Any]]:
    """The modules for ``inference.proto``: messages, and services."""
    sys.path.insert(0, str(stubs_folder))
    try:
        yield (
            importlib.import_module("inference_pb2"),
            importlib.import_module("inference_pb2_grpc"),
        )
    finally:
        sys.path.remove(str(stubs_folder))


@pytest.fixture(scope="module")
def stub(running: Server, stubs: tuple[Any, Any]) -> Iterator[Any]:
    """A stub on a channel to the server."""
    _, services = stubs
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
        yield services.InferenceAPIsServiceStub(channel)


@pytest.fixture(scope="module")
def predict(stub: Any, stubs: tuple[Any, Any]) -> Predict:
    """Calls ``Predictions`` with inputs and returns ``prediction``."""
    messages, _ = stubs

    def call(body: bytes, model: str = "diagonal_flip", **headers: bytes) -> bytes:
        inputs = {name.replace("_", "-"): value for name, value in headers.items()}
        request = messages.PredictionsRequest(model_name=model, input={"body": body} | inputs)
        return bytes(stub.Predictions(request, timeout=60).prediction)

    return call


def floats(prediction: bytes) -> npt.NDArray[np.float32]:
    return np.frombuffer(prediction, dtype="<f4").reshape(-1, 4)


def assert_close(got: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= TOLERANCE


@pytest.mark.parametrize("size", [1, 2, 3, 16, 1_001, TORCHSERVE_BYTES // 16])
def test_packed_bytes_to_floats(predict: Predict, oracle: Oracle, size: int) -> None:
    numbers = np.random.default_rng(size).integers(0, 16, size)
    content_type = PACKED + b"; padding=4" * (size % 2)
    prediction = predict(bytes(pack(numbers).packed), content_type=content_type)
    assert_close(floats(prediction), oracle(numbers))


def test_accept_is_an_input_too(predict: Predict, oracle: Oracle) -> None:
    prediction = predict(b"\xb6", content_type=PACKED, accept=b"application/json")
    answer = np.array(json.loads(prediction)["predictions"], dtype=np.float32)
    assert_close(answer, oracle([11, 6]))


def test_json_and_text_bodies(predict: Predict, oracle: Oracle) -> None:
    prediction = predict(b'{"images": [11, "0110"]}', content_type=b"application/json")
    assert_close(np.array(json.loads(prediction)["predictions"], np.float32), oracle([11, 6]))
    prediction = predict(b"b6 c", content_type=b"text/plain", accept=PACKED)
    assert_close(floats(prediction), oracle([11, 6, 12]))


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"", {"content_type": PACKED}, "empty_payload"),
        (bytes(TORCHSERVE_BYTES // 32 + 1), {"content_type": PACKED}, "too_many_images"),
        (b"\xb6", {"content_type": PACKED + b"; padding=4"}, "invalid_padding"),
        (b"\xb6", {"content_type": b"application/pdf"}, "unsupported_media_type"),
        (b"\xb6", {}, "unsupported_media_type"),
        (b"\xb6", {"content_type": PACKED, "accept": b"image/gif"}, "not_acceptable"),
        (b"\xb6", {"content_type": PACKED, "if_match": b'"0"'}, "model_mismatch"),
    ],
)
def test_an_error_is_the_problem_document(
    predict: Predict, body: bytes, headers: dict[str, bytes], code: str
) -> None:
    prediction = predict(body, **headers)
    assert prediction.startswith(b'{"')
    problem = json.loads(prediction)
    assert problem["code"] == code
    assert problem["status"] >= 400


def test_another_model_is_grpcs_own_error(predict: Predict) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        predict(b"\xb6", model="other", content_type=PACKED)
    assert raised.value.code() == grpc.StatusCode.INTERNAL


def test_the_program_in_the_docs_predicts(
    running: Server, stubs_folder: Path, oracle: Oracle
) -> None:
    program = block("wire-format.md", "python")
    assert "127.0.0.1:7070" in program
    command = [sys.executable, "-c", program.replace(":7070", f":{running.grpc_port}")]
    printed = subprocess.run(
        command, cwd=stubs_folder, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    rows = np.array([ast.literal_eval(line) for line in printed.splitlines()], np.float32)
    assert_close(rows, oracle([11, 6, 12]))


def test_concurrent_calls_never_get_each_others_answers(predict: Predict, oracle: Oracle) -> None:
    def call(seed: int) -> None:
        random = np.random.default_rng(seed)
        numbers = random.integers(0, 16, random.integers(1, 400))
        content_type = PACKED + b"; padding=4" * (numbers.size % 2)
        prediction = predict(bytes(pack(numbers).packed), content_type=content_type)
        assert_close(floats(prediction), oracle(numbers))

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(call, range(128)))
