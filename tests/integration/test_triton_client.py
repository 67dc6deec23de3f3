"""Triton's own HTTP client speaks Open Inference Protocol V2 to the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from diagonalflip.wire import pack, to_pixels
from tests.integration.conftest import Oracle, Server
from tests.integration.test_predictions import assert_close

pytestmark = pytest.mark.both_ports

MODEL = "diagonal_flip"
DTYPES: dict[str, npt.DTypeLike] = {"FP32": np.float32, "UINT8": np.uint8, "BOOL": np.bool_}

Client = Any  # tritonclient has no types


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client with room for 32 requests in flight."""
    with triton.InferenceServerClient(urlsplit(server.url).netloc, concurrency=32) as opened:
        yield opened


def test_it_tells_of_itself(running: Server) -> None:
    """All of V2 but TorchServe's part is the HTTP listener's."""
    with triton.InferenceServerClient(urlsplit(running.url).netloc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        assert client.is_model_ready(MODEL, "1.0")
        assert not client.is_model_ready("other")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        for version in ("", "1.0"):
            metadata = client.get_model_metadata(MODEL, version)
            assert (metadata["name"], metadata["versions"]) == (MODEL, ["1.0"])
            assert metadata["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 4]}]
            (tensor,) = metadata["outputs"]
            assert tensor == {"name": "prediction", "datatype": "FP32", "shape": [-1, 4]}
        config = client.get_model_config(MODEL)
        assert config["max_batch_size"] == 1 << 20
        assert config["input"] == [{"name": "pixels", "data_type": "TYPE_FP32", "dims": [4]}]


def tensor(name: str, datatype: str, data: npt.NDArray[Any], *, binary: bool = True) -> Any:
    made = triton.InferInput(name, list(data.shape), datatype)
    return made.set_data_from_numpy(data, binary_data=binary)


def pixels_input(numbers: npt.ArrayLike, datatype: str = "FP32", *, binary: bool = True) -> Any:
    """``pixels`` of image numbers ``int[n]``."""
    pixels: npt.NDArray[Any] = to_pixels(numbers).reshape(-1, 4).astype(DTYPES[datatype])
    return tensor("pixels", datatype, pixels, binary=binary)


def packed_input(numbers: npt.ArrayLike, *, binary: bool = True) -> Any:
    """``packed`` of image numbers ``int[n]``; an odd number is declared."""
    images = pack(numbers)
    made = tensor("packed", "UINT8", np.frombuffer(images.packed, np.uint8), binary=binary)
    if images.count % 2:
        # tritonclient has no public way to give a tensor a parameter of its own.
        made._parameters["padding"] = 4
    return made


def output(*, binary: bool) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput("prediction", binary_data=binary)]


@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("binary", [True, False])
def test_every_input_and_output(
    client: Client, oracle: Oracle, *, binary: bool, binary_out: bool | None
) -> None:
    """Where no output is named, it is a binary one."""
    pixels = [pixels_input(range(16), datatype, binary=binary) for datatype in DTYPES]
    sizes = (1, 2, 3, 16, 3_001)
    packed = [packed_input(np.arange(size) % 16, binary=binary) for size in sizes]
    for made, size in zip([*pixels, *packed], (16, 16, 16, *sizes), strict=True):
        outputs = None if binary_out is None else output(binary=binary_out)
        result = client.infer(MODEL, [made], outputs=outputs)
        assert_close(result.as_numpy("prediction"), oracle(np.arange(size) % 16))
        described, response = result.get_output("prediction"), result.get_response()
        wanted = {} if binary_out is False else {"binary_data_size": 16 * size}
        assert described.get("parameters", {}) == wanted
        assert ("data" in described) == (binary_out is False)
        assert (response["model_name"], response["model_version"]) == (MODEL, "1.0")
        assert "id" not in response


@pytest.mark.parametrize("make_input", [pixels_input, packed_input])
def test_concurrent_requests_keep_their_ids_and_images(
    client: Client, oracle: Oracle, make_input: Callable[..., Any]
) -> None:
    random = np.random.default_rng(1)
    batches = [random.integers(0, 16, random.integers(1, 400)) for _ in range(32)]
    in_flight = [
        client.async_infer(
            MODEL,
            [make_input(numbers, binary=bool(index % 2))],
            outputs=output(binary=bool(index % 3)),
            request_id=f'Gänse "{index}"',
        )
        for index, numbers in enumerate(batches)
    ]
    for index, (request, numbers) in enumerate(zip(in_flight, batches, strict=True)):
        result = request.get_result(timeout=60)
        assert result.get_response()["id"] == f'Gänse "{index}"'
        assert_close(result.as_numpy("prediction"), oracle(numbers))


@pytest.mark.parametrize(
    ("name", "data", "status", "code"),
    [
        ("pixels", np.full((1, 4), 2, np.uint8), "400", "invalid_tensor"),
        ("packed", np.zeros(524_289, np.uint8), "413", "too_many_images"),
    ],
)
def test_errors_arrive_as_the_clients_own_exception_and_leave_others_alone(  # noqa: PLR0913, PLR0917
    client: Client, oracle: Oracle, name: str, data: npt.NDArray[Any], status: str, code: str
) -> None:
    good = [client.async_infer(MODEL, [pixels_input([number])]) for number in range(8)]
    with pytest.raises(InferenceServerException) as raised:
        client.infer(MODEL, [tensor(name, "UINT8", data)])
    assert raised.value.status() == status
    # V2's error object has one field, so the code goes in front of our message.
    assert raised.value.message().startswith(f"{code}: ")
    assert "Expected " in raised.value.message()
    for number, request in enumerate(good):
        got = request.get_result(timeout=60).as_numpy("prediction")
        assert_close(got, oracle([number]))
