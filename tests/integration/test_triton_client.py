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

pytestmark = pytest.mark.both_ports

MODEL = "diagonal_flip"
TOLERANCE = 1e-6
DTYPES: dict[str, npt.DTypeLike] = {"FP32": np.float32, "UINT8": np.uint8, "BOOL": np.bool_}
BINARY = pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])

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
            (tensor,) = metadata["inputs"]
            assert tensor == {"name": "pixels", "datatype": "FP32", "shape": [-1, 4]}
            (tensor,) = metadata["outputs"]
            assert tensor == {"name": "prediction", "datatype": "FP32", "shape": [-1, 4]}
        config = client.get_model_config(MODEL)
        assert config["max_batch_size"] == 1 << 20
        assert config["input"] == [{"name": "pixels", "data_type": "TYPE_FP32", "dims": [4]}]


def pixels_input(
    numbers: npt.ArrayLike, datatype: str = "FP32", *, binary: bool = True
) -> triton.InferInput:
    """``pixels`` of image numbers ``int[n]``."""
    pixels: npt.NDArray[Any] = to_pixels(numbers).reshape(-1, 4).astype(DTYPES[datatype])
    tensor = triton.InferInput("pixels", list(pixels.shape), datatype)
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    return tensor


def packed_input(numbers: npt.ArrayLike, *, binary: bool = True) -> triton.InferInput:
    """``packed`` of image numbers ``int[n]``; an odd number is declared."""
    images = pack(numbers)
    data = np.frombuffer(images.packed, dtype=np.uint8)
    tensor = triton.InferInput("packed", list(data.shape), "UINT8")
    tensor.set_data_from_numpy(data, binary_data=binary)
    if images.count % 2:
        # tritonclient has no public way to give a tensor a parameter of its own.
        tensor._parameters["padding"] = 4
    return tensor


def output(*, binary: bool = True) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput("prediction", binary_data=binary)]


def assert_predicts(result: triton.InferResult, expected: npt.NDArray[np.float32]) -> None:
    got = result.as_numpy("prediction")
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= TOLERANCE


@pytest.mark.parametrize("datatype", DTYPES)
@BINARY
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary_out", "json_out"])
def test_pixels(
    client: Client, oracle: Oracle, datatype: str, *, binary: bool, binary_out: bool
) -> None:
    inputs = [pixels_input(range(16), datatype, binary=binary)]
    result = client.infer(MODEL, inputs, outputs=output(binary=binary_out))
    assert_predicts(result, oracle(range(16)))
    described = result.get_output("prediction")
    assert ("binary_data_size" in described.get("parameters", {})) == binary_out
    assert ("data" in described) != binary_out


@pytest.mark.parametrize("numbers", [[11], [11, 6], [11, 6, 12], list(range(16))], ids=len)
@BINARY
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary_out", "json_out"])
def test_packed(
    client: Client, oracle: Oracle, numbers: list[int], *, binary: bool, binary_out: bool
) -> None:
    inputs = [packed_input(numbers, binary=binary)]
    result = client.infer(MODEL, inputs, outputs=output(binary=binary_out))
    assert_predicts(result, oracle(numbers))


def test_no_output_named_means_a_binary_one(client: Client, oracle: Oracle) -> None:
    result = client.infer(MODEL, [pixels_input([11, 6])])
    assert_predicts(result, oracle([11, 6]))
    assert result.get_output("prediction")["parameters"] == {"binary_data_size": 32}


@pytest.mark.parametrize("request_id", ["", "a-1", 'Gänse "42"'])
def test_the_id_is_echoed(client: Client, request_id: str) -> None:
    response = client.infer(MODEL, [pixels_input([11])], request_id=request_id).get_response()
    assert response.get("id", "") == request_id
    assert (response["model_name"], response["model_version"]) == (MODEL, "1.0")


def test_a_large_batch(client: Client, oracle: Oracle) -> None:
    numbers = np.random.default_rng(0).integers(0, 16, 30_001)
    assert_predicts(client.infer(MODEL, [packed_input(numbers)]), oracle(numbers))


@pytest.mark.parametrize("make_input", [pixels_input, packed_input])
def test_concurrent_requests_keep_their_ids_and_images(
    client: Client, oracle: Oracle, make_input: Callable[..., triton.InferInput]
) -> None:
    random = np.random.default_rng(1)
    batches = [random.integers(0, 16, random.integers(1, 400)) for _ in range(32)]
    in_flight = [
        client.async_infer(
            MODEL,
            [make_input(numbers, binary=bool(index % 2))],
            outputs=output(binary=bool(index % 3)),
            request_id=str(index),
        )
        for index, numbers in enumerate(batches)
    ]
    for index, (request, numbers) in enumerate(zip(in_flight, batches, strict=True)):
        result = request.get_result(timeout=60)
        assert result.get_response()["id"] == str(index)
        assert_predicts(result, oracle(numbers))


def wrong_shape() -> triton.InferInput:
    tensor = triton.InferInput("pixels", [1, 3], "FP32")
    return tensor.set_data_from_numpy(np.zeros((1, 3), np.float32))


def wrong_type() -> triton.InferInput:
    tensor = triton.InferInput("pixels", [1, 4], "INT64")
    return tensor.set_data_from_numpy(np.zeros((1, 4), np.int64))


def wrong_name() -> triton.InferInput:
    tensor = triton.InferInput("image", [1, 4], "FP32")
    return tensor.set_data_from_numpy(np.zeros((1, 4), np.float32))


def wrong_value() -> triton.InferInput:
    tensor = triton.InferInput("pixels", [1, 4], "FP32")
    return tensor.set_data_from_numpy(np.full((1, 4), 0.5, np.float32), binary_data=False)


def dirty_padding() -> triton.InferInput:
    tensor = triton.InferInput("packed", [1], "UINT8")
    tensor.set_data_from_numpy(np.array([0xB6], np.uint8))
    tensor._parameters["padding"] = 4  # as in packed_input
    return tensor


def too_many() -> triton.InferInput:
    tensor = triton.InferInput("packed", [524_289], "UINT8")
    return tensor.set_data_from_numpy(np.zeros(524_289, np.uint8))


@pytest.mark.parametrize(
    ("make_inputs", "status", "code"),
    [
        (lambda: [wrong_shape()], 400, "invalid_tensor"),
        (lambda: [wrong_type()], 400, "invalid_tensor"),
        (lambda: [wrong_name()], 400, "invalid_tensor"),
        (lambda: [wrong_value()], 400, "invalid_tensor"),
        (lambda: [pixels_input([1]), packed_input([1, 2])], 400, "invalid_tensor"),
        (lambda: [dirty_padding()], 400, "invalid_padding"),
        (lambda: [too_many()], 413, "too_many_images"),
    ],
    ids=["shape", "type", "name", "value", "two inputs", "padding", "too many"],
)
def test_errors_arrive_as_the_clients_own_exception(
    client: Client, make_inputs: Callable[[], list[triton.InferInput]], status: int, code: str
) -> None:
    with pytest.raises(InferenceServerException) as raised:
        client.infer(MODEL, make_inputs())
    assert raised.value.status() == str(status)
    # V2's error object has one field, so the code goes in front of our message.
    assert raised.value.message().startswith(f"{code}: ")
    assert "Expected " in raised.value.message()


def test_an_unknown_output_is_rejected(client: Client) -> None:
    with pytest.raises(InferenceServerException, match="prediction") as raised:
        client.infer(MODEL, [pixels_input([11])], outputs=[triton.InferRequestedOutput("other")])
    assert raised.value.status() == "400"


def test_an_error_leaves_the_requests_beside_it_alone(client: Client, oracle: Oracle) -> None:
    good = [client.async_infer(MODEL, [pixels_input([n])]) for n in range(8)]
    bad = [client.async_infer(MODEL, [wrong_shape()]) for _ in range(8)]
    for number, request in enumerate(good):
        assert_predicts(request.get_result(timeout=60), oracle([number]))
    for request in bad:
        with pytest.raises(InferenceServerException):
            request.get_result(timeout=60)
