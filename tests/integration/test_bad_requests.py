"""Bad requests get their own clear answer, alone and among good ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from diagonalflip.wire import MAX_IMAGES, pack
from tests.integration.conftest import Oracle, Server

pytestmark = pytest.mark.both_ports

PACKED = "application/octet-stream"
JSON = "application/json"

BAD_REQUESTS = {
    "empty packed": (b"", PACKED, 400, "empty_payload"),
    "empty JSON": (b"", JSON, 400, "empty_payload"),
    "no images": (b'{"images": []}', JSON, 400, "empty_payload"),
    "padding bits set": (b"\xb6", f"{PACKED}; padding=4", 400, "invalid_padding"),
    "padding of 3": (b"\xb0", f"{PACKED}; padding=3", 400, "invalid_padding"),
    "too many images": (bytes(MAX_IMAGES // 2 + 1), PACKED, 413, "too_many_images"),
    "pixel 2": (b'{"images": [[1, 0, 2, 1]]}', JSON, 400, "invalid_image"),
    "number 16": (b'{"images": [3, 16]}', JSON, 400, "invalid_image"),
    "number -1": (b'{"images": [-1]}', JSON, 400, "invalid_image"),
    "three bits": (b'{"images": ["101"]}', JSON, 400, "invalid_image"),
    "true": (b'{"images": [true]}', JSON, 400, "invalid_image"),
    "ragged pixels": (b'{"images": [[[1, 0], [1]]]}', JSON, 400, "invalid_image"),
    "broken JSON": (b'{"images": [', JSON, 400, "invalid_json"),
    "other JSON": (b'{"pixels": [1]}', JSON, 400, "invalid_json"),
    "form": (b"b6f0", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
    "unknown type": (b"b6f0", "application/pdf", 415, "unsupported_media_type"),
    "no type": (b"b6f0", None, 415, "unsupported_media_type"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_told_what_was_got_and_expected(server: Server, name: str) -> None:
    body, content_type, status, code = BAD_REQUESTS[name]
    response = server.post(body, content_type)
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["got"]
    assert problem["expected"]


def test_an_answer_that_nobody_can_give_is_rejected(server: Server) -> None:
    response = server.post(b"\xb6", PACKED, accept="image/gif")
    assert response.status_code == 406
    assert response.json()["code"] == "not_acceptable"


def test_the_error_names_the_image(server: Server) -> None:
    response = server.post(b'{"images": [1, 2, [1, 0, 2, 1], 16]}', JSON)
    assert "image 2" in response.json()["got"]


def test_bad_requests_leave_good_ones_beside_them_alone(server: Server, oracle: Oracle) -> None:
    """240 requests at once, every third one bad; good ones get what they get alone."""
    alone = {
        size: server.post(bytes(pack(np.arange(size) % 16).packed), PACKED).content
        for size in (2, 6, 40, 300)
    }
    sizes = list(alone)
    bad = list(BAD_REQUESTS.values())

    def send(index: int) -> None:
        if index % 3 == 0:
            body, content_type, status, code = bad[index // 3 % len(bad)]
            response = server.post(body, content_type)
            assert (response.status_code, response.json()["code"]) == (status, code)
        else:
            size = sizes[index % len(sizes)]
            response = server.post(bytes(pack(np.arange(size) % 16).packed), PACKED)
            server.assert_same(response.content, alone[size])

    with ThreadPoolExecutor(48) as pool:
        list(pool.map(send, range(240)))
    answer = np.frombuffer(alone[40], dtype="<f4").reshape(-1, 4)
    assert np.abs(answer - oracle(np.arange(40) % 16)).max() <= 1e-6
