"""Answers of the running server, every one compared with ONNX Runtime."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import requests

from diagonalflip import Client
from diagonalflip.wire import JSON, MAX_TEXT_IMAGES, OCTETS, TOLERANCE, pack, to_pixels
from tests.integration.conftest import TORCHSERVE_BYTES, Oracle, Server

pytestmark = pytest.mark.both_ports

REQUEST_FORMS = {
    "packed": None,
    "number": lambda number: number,
    "bit string": lambda number: f"{number:04b}",
    "flat pixels": lambda number: to_pixels([number]).reshape(4).tolist(),
    "nested pixels": lambda number: to_pixels([number])[0].tolist(),
}


def packed_request(numbers: npt.ArrayLike) -> tuple[bytes, str]:
    images = pack(numbers)
    return bytes(images.packed), f"{OCTETS}; padding=4" if images.count % 2 else OCTETS


def assert_close(got: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> None:
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= TOLERANCE


def assert_predicts(response: requests.Response, expected: npt.NDArray[np.float32]) -> None:
    assert response.status_code == 200, response.text
    if response.headers["Content-Type"] == OCTETS:
        got = np.frombuffer(response.content, dtype="<f4").reshape(-1, 4)
    else:
        got = np.array(response.json()["predictions"], dtype=np.float32)
    assert_close(got, expected)


@pytest.mark.parametrize(
    ("form", "size"),
    [
        *itertools.product(REQUEST_FORMS, (1, 2, 3, 16, 1_000)),
        *itertools.product(("packed", "number"), [MAX_TEXT_IMAGES - 1]),
    ],
)
@pytest.mark.parametrize("accept", [OCTETS, JSON, None])
def test_images_in_every_form(
    server: Server, oracle: Oracle, form: str, size: int, accept: str | None
) -> None:
    numbers = np.arange(16) if size == 16 else np.random.default_rng(size).integers(0, 16, size)
    write: Any = REQUEST_FORMS[form]
    if write is None:
        body, content_type = packed_request(numbers)
    else:
        images = [write(number) for number in numbers.tolist()]
        body, content_type = json.dumps({"images": images}).encode(), JSON
    response = server.post(body, content_type, accept)
    if not server.delivers(16 * size):
        assert response.json()["code"] == "too_many_images"
        return
    assert response.headers["Content-Type"] == (accept or (OCTETS if write is None else JSON))
    assert_predicts(response, oracle(numbers))


def test_torchserve_bounds_answers_and_our_client_follows(running: Server, oracle: Oracle) -> None:
    numbers = np.random.default_rng(0).integers(0, 16, 3 * TORCHSERVE_BYTES // 16)
    with Client(running.at_torchserve.base, images_per_request=len(numbers)) as client:
        assert_close(client.predict(numbers), oracle(numbers))
