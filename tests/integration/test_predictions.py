"""Answers of the running server, every one compared with ONNX Runtime."""

from __future__ import annotations

import json
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import requests

from diagonalflip import Client
from diagonalflip.wire import MAX_TEXT_IMAGES, pack, to_pixels
from tests.integration.conftest import TORCHSERVE_BYTES, Oracle, Server

pytestmark = pytest.mark.both_ports

PACKED = "application/octet-stream"
JSON = "application/json"
TOLERANCE = 1e-6

REQUEST_FORMS = {
    "packed": None,
    "number": lambda number: number,
    "bit string": lambda number: f"{number:04b}",
    "flat pixels": lambda number: to_pixels([number]).reshape(4).tolist(),
    "nested pixels": lambda number: to_pixels([number])[0].tolist(),
}


def packed_request(numbers: npt.ArrayLike) -> tuple[bytes, str]:
    images = pack(numbers)
    return bytes(images.packed), f"{PACKED}; padding=4" if images.count % 2 else PACKED


def read(response: requests.Response) -> npt.NDArray[np.float32]:
    assert response.status_code == 200, response.text
    if response.headers["Content-Type"] == PACKED:
        return np.frombuffer(response.content, dtype="<f4").reshape(-1, 4)
    return np.array(response.json()["predictions"], dtype=np.float32)


def assert_predicts(response: requests.Response, expected: npt.NDArray[np.float32]) -> None:
    got = read(response)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= TOLERANCE


@pytest.mark.parametrize("number", range(16))
@pytest.mark.parametrize("form", REQUEST_FORMS)
@pytest.mark.parametrize("accept", [PACKED, JSON, None])
def test_every_image_in_every_form(
    server: Server, oracle: Oracle, form: str, number: int, accept: str | None
) -> None:
    write: Any = REQUEST_FORMS[form]
    if write is None:
        body, content_type = packed_request([number])
    else:
        body, content_type = json.dumps({"images": [write(number)]}).encode(), JSON
    response = server.post(body, content_type, accept)
    twin = PACKED if form == "packed" else JSON
    assert response.headers["Content-Type"] == (accept or twin)
    assert_predicts(response, oracle([number]))


def test_the_known_answer(server: Server) -> None:
    body, content_type = packed_request([11])
    floats = struct.unpack("<4f", server.post(body, content_type).content)
    assert floats == pytest.approx((0.1, -0.1, -0.05, -0.25), abs=TOLERANCE)


@pytest.mark.parametrize("size", [2, 3, 16, 1_000, MAX_TEXT_IMAGES - 1])
@pytest.mark.parametrize("content_type", [PACKED, JSON])
@pytest.mark.parametrize("accept", [PACKED, JSON])
def test_batches(server: Server, oracle: Oracle, size: int, content_type: str, accept: str) -> None:
    numbers = np.random.default_rng(size).integers(0, 16, size)
    if content_type == PACKED:
        body, content_type = packed_request(numbers)
    else:
        body = json.dumps({"images": numbers.tolist()}).encode()
    response = server.post(body, content_type, accept)
    if server.delivers(16 * size):
        assert_predicts(response, oracle(numbers))
    else:
        assert response.json()["code"] == "too_many_images"


def test_torchserve_bounds_its_answers_and_our_client_goes_along(
    running: Server, oracle: Oracle
) -> None:
    most = TORCHSERVE_BYTES // 16
    numbers = np.random.default_rng(0).integers(0, 16, 3 * most)
    assert_predicts(
        running.at_torchserve.post(*packed_request(numbers[:most])), oracle(numbers[:most])
    )
    rejected = running.at_torchserve.post(*packed_request(numbers[: most + 1]))
    assert (rejected.status_code, rejected.headers["Flip-Max-Images"]) == (413, str(most))
    assert "port 8080" in rejected.json()["detail"]
    with Client(running.at_torchserve.base, images_per_request=len(numbers)) as client:
        assert np.abs(client.predict(numbers) - oracle(numbers)).max() <= TOLERANCE


def test_json_answers_hold_the_same_float32_as_packed_ones(server: Server) -> None:
    body, content_type = packed_request(range(16))
    answers = [read(server.post(body, content_type, accept)) for accept in (PACKED, JSON)]
    server.assert_same(*(answer.tobytes() for answer in answers))


def test_concurrent_clients_never_get_each_others_answers(server: Server, oracle: Oracle) -> None:
    """64 clients, each with batches of its own sizes, forms and images, 10 requests each."""

    def client(seed: int) -> int:
        random = np.random.default_rng(seed)
        with requests.Session() as session:
            for _ in range(10):
                numbers = random.integers(0, 16, random.integers(1, 400))
                if random.integers(2):
                    body, content_type = packed_request(numbers)
                else:
                    body, content_type = json.dumps({"images": numbers.tolist()}).encode(), JSON
                response = session.post(
                    server.url,
                    data=body,
                    headers={"Content-Type": content_type, "Accept": PACKED},
                    timeout=60,
                )
                assert_predicts(response, oracle(numbers))
        return seed

    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(client, range(64))) == list(range(64))
