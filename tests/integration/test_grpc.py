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
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from diagonalflip.wire import OCTETS
from tests.conftest import ROOT
from tests.integration.conftest import TORCHSERVE_BYTES, Oracle, Server
from tests.integration.test_predictions import assert_close, packed_request

PACKED = OCTETS.encode()

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
def predict(running: Server, stubs_folder: Path) -> Iterator[Predict]:
    """Calls ``Predictions`` with inputs and returns ``prediction``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(stubs_folder)
        messages = importlib.import_module("inference_pb2")
        services = importlib.import_module("inference_pb2_grpc")
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc_port}") as channel:
        stub = services.InferenceAPIsServiceStub(channel)

        def call(body: bytes, model: str = "diagonal_flip", **headers: bytes) -> bytes:
            inputs = {name.replace("_", "-"): value for name, value in headers.items()}
            request = messages.PredictionsRequest(model_name=model, input={"body": body} | inputs)
            return bytes(stub.Predictions(request, timeout=60, wait_for_ready=True).prediction)

        yield call


def assert_predicts(predict: Predict, oracle: Oracle, numbers: npt.NDArray[np.int64]) -> None:
    body, content_type = packed_request(numbers)
    prediction = predict(body, content_type=content_type.encode())
    assert_close(np.frombuffer(prediction, dtype="<f4").reshape(-1, 4), oracle(numbers))


@pytest.mark.parametrize("size", [1, 2, TORCHSERVE_BYTES // 16])
def test_packed_bytes_to_floats(predict: Predict, oracle: Oracle, size: int) -> None:
    assert_predicts(predict, oracle, np.random.default_rng(size).integers(0, 16, size))


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"\xb6", {"content_type": PACKED, "accept": b"application/json"}),
        (b'{"images": [11, "0110"]}', {"content_type": b"application/json"}),
        (b"b6", {"content_type": b"text/plain", "accept": b"application/json"}),
    ],
)
def test_inputs_are_headers(
    predict: Predict, oracle: Oracle, body: bytes, headers: dict[str, bytes]
) -> None:
    rows = json.loads(predict(body, **headers))["predictions"]
    assert_close(np.array(rows, np.float32), oracle([11, 6]))


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"", {"content_type": PACKED}, "empty_payload"),
        (bytes(TORCHSERVE_BYTES // 32 + 1), {"content_type": PACKED}, "too_many_images"),
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


def test_the_program_in_docs_predicts(running: Server, stubs_folder: Path, oracle: Oracle) -> None:
    program = block("wire-format.md", "python")
    assert "127.0.0.1:7070" in program
    command = [sys.executable, "-c", program.replace(":7070", f":{running.grpc_port}")]
    printed = subprocess.check_output(command, cwd=stubs_folder, text=True)
    rows = np.array([ast.literal_eval(line) for line in printed.splitlines()], np.float32)
    assert_close(rows, oracle([11, 6, 12]))
