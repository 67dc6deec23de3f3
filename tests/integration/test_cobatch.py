"""Co-batch fuzzing: valid, malformed and hostile requests at once; nobody suffers.

Seeded and bounded: 32 clients send 20 requests each, or 640, which are 20,480 in all, over
connections of their own. What a request should get is known before it is sent.
"""

from __future__ import annotations

import io
import json
import urllib.parse
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from PIL import Image

from diagonalflip.wire import JSON, MAX_IMAGES, OCTETS, PBM, PNG, TEXT, to_pixels
from tests.integration.conftest import PATH, Oracle, Server
from tests.integration.test_predictions import assert_close, packed_request

pytestmark = pytest.mark.both_ports

CLIENTS = 32

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Case(NamedTuple):
    """A request, and what it must get: ``images`` answered, or a rejection's status and code."""

    body: bytes
    content_type: str
    images: Numbers | None = None
    rejection: tuple[int, str] | None = None
    path: str = PATH
    headers: dict[str, str] = {}  # noqa: RUF012 - nobody writes to it


def packed_case(numbers: Numbers) -> Case:
    return Case(*packed_request(numbers), numbers)


def json_case(numbers: Numbers) -> Case:
    images = [number if number % 2 else f"{number:04b}" for number in numbers.tolist()]
    return Case(json.dumps({"images": images}).encode(), JSON, numbers)


def text_case(numbers: Numbers) -> Case:
    return Case(" ".join(f"{number:x}" for number in numbers).encode(), TEXT, numbers)


def picture_case(numbers: Numbers) -> Case:
    sheet = to_pixels(numbers).reshape(-1, 2).astype(bool)
    written = io.BytesIO()
    Image.fromarray(sheet).save(written, format="PNG", bits=1)
    return Case(written.getvalue(), PNG, numbers)


def v2_case(numbers: Numbers) -> Case:
    data = to_pixels(numbers).reshape(-1, 4)
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": data.shape, "data": data.tolist()}
    document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    return Case(json.dumps(document).encode(), JSON, numbers, path="/v2/models/diagonal_flip/infer")


VALID = (packed_case, packed_case, packed_case, json_case, text_case, picture_case, v2_case)


def bomb() -> bytes:
    """A PNG that says it has 32,768 x 32,768 pixels."""
    content = bytearray(picture_case(np.arange(1)).body)
    content[16:24] = (32768).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def bad(body: bytes, content_type: str, status: int, code: str, **headers: str) -> Case:
    return Case(body, content_type, rejection=(status, code), headers=headers)


HOSTILE = (
    bad(b"", OCTETS, 400, "empty_payload"),
    bad(b"\xb6", f"{OCTETS}; padding=4", 400, "invalid_padding"),
    bad(b"\xb6", f"{OCTETS}; padding=99999", 400, "invalid_padding"),
    bad(bytes(MAX_IMAGES // 2 + 1), OCTETS, 413, "too_many_images"),
    bad(b'{"images": [16]}', JSON, 400, "invalid_image"),
    bad(b'{"images": [1e400]}', JSON, 400, "invalid_json"),
    bad(b'{"images": [' + b"9" * 5000 + b"]}", JSON, 400, "invalid_json"),
    bad(b'{"images": [' + b"9" * 25 + b"]}", JSON, 400, "invalid_image"),
    bad(b'{"images": [' + b"[" * 900 + b"]" * 900 + b"]}", JSON, 400, "invalid_image"),
    bad(b"[" * 100_000, JSON, 400, "invalid_json"),
    bad(b"\xff\xfe{}", JSON, 400, "invalid_json"),
    bad(b"b6g", TEXT, 400, "invalid_text"),
    bad(b"\x89PNG\r\n\x1a\n" + bytes(50), PNG, 400, "invalid_picture"),
    bad(bomb(), PNG, 400, "invalid_picture"),
    bad(b"P4\n4000000 4000000\n", PBM, 400, "invalid_picture"),
    bad(b"b6", "text/html; charset=" + "x" * 500, 415, "unsupported_media_type"),
    bad(b"\xb6", OCTETS, 406, "not_acceptable", Accept="image/gif"),
    bad(b"\xb6", OCTETS, 412, "model_mismatch", **{"If-Match": '"0"'}),
)
JUNK_HEADERS: tuple[dict[str, str], ...] = (
    {},
    *({name: "True"} for name in ("describe", "Describe", "explain", "Explain", "EXPLAIN")),
    {"body": "text/html"},
    {"X-Request-Id": "é" * 40},
    {"traceparent": "x" * 4000},
    {"ts_stream_next": "true"},
)
"""What changes no answer; of the first ones TorchServe makes marks of its own for the handler."""


def make_case(random: np.random.Generator) -> Case:
    if random.integers(4) == 0:
        case = HOSTILE[random.integers(len(HOSTILE))]
    elif random.integers(400) == 0:
        case = packed_case(random.integers(0, 16, random.integers(1, 200_001)))
    else:
        valid = VALID[random.integers(len(VALID))]
        case = valid(random.integers(0, 16, random.integers(1, 200)))
    accept = {"Accept": OCTETS} if case.images is not None and case.path == PATH else {}
    junk = JUNK_HEADERS[random.integers(len(JUNK_HEADERS))]
    return case._replace(headers=accept | case.headers | junk)


def check(server: Server, case: Case, response: HTTPResponse, expected: Floats) -> None:
    status, headers, body = response.status, response.headers, response.read()
    rejection = case.rejection
    if case.images is not None and not server.delivers(16 * len(case.images)):
        rejection = (413, "too_many_images")
    if rejection is not None:
        assert (status, json.loads(body)["code"]) == rejection
        return
    assert case.images is not None
    assert status == 200, body[:300]
    start = int(headers.get("Inference-Header-Content-Length", "0"))
    server.assert_same(body[start:], expected[case.images].tobytes())
    assert headers["Flip-Images"] == str(len(case.images))


@pytest.mark.parametrize("requests", [20, pytest.param(640, marks=pytest.mark.slow)])
def test_no_request_suffers_from_its_batch(server: Server, oracle: Oracle, requests: int) -> None:
    single = server.post(*packed_request(range(16))).content
    expected = np.frombuffer(single, dtype="<f4").reshape(16, 4)
    assert_close(expected, oracle(range(16)))
    address = urllib.parse.urlsplit(server.url).netloc
    workers = psutil.Process(server.process.pid).children(recursive=True)

    def client(seed: int) -> None:
        random = np.random.default_rng(seed)
        connection = HTTPConnection(address, timeout=120)
        for _ in range(requests):
            case = make_case(random)
            headers = {name: value.encode("latin-1") for name, value in case.headers.items()}
            headers["Content-Type"] = case.content_type.encode()
            connection.request("POST", case.path, case.body, headers)
            response = connection.getresponse()
            check(server, case, response, expected)
            if response.status != 200:
                connection.close()  # as TorchServe does after an error
        connection.close()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    after = psutil.Process(server.process.pid).children(recursive=True)
    assert set(after) == set(workers), "a worker died"
