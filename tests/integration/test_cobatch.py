"""Co-batch fuzzing: valid, malformed and hostile requests at once; nobody suffers.

Seeded and bounded: 32 clients send 20 requests each, or 640, which are 20,480 in all, over
connections of their own. What a request should get is known before it is sent.
"""

from __future__ import annotations

import http.client
import io
import json
import urllib.parse
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from PIL import Image

from diagonalflip.wire import MAX_IMAGES, pack, to_pixels
from tests.integration.conftest import Oracle, Server

pytestmark = pytest.mark.both_ports

CLIENTS = 32
FLOAT32 = "application/octet-stream"
JSON = "application/json"
TOLERANCE = 1e-6

Numbers = npt.NDArray[np.int64]


@dataclass
class Case:
    """A request, and what it must get: ``images`` answered, or a rejection's status and code."""

    body: bytes
    headers: dict[str, str]
    images: Numbers | None = None
    rejection: tuple[int, str] | None = None
    path: str = "predictions/diagonal_flip"
    extra: dict[str, str] = field(default_factory=dict)


def packed_case(numbers: Numbers) -> Case:
    images = pack(numbers)
    padding = "; padding=4" if images.count % 2 else ""
    return Case(bytes(images.packed), {"Content-Type": FLOAT32 + padding}, numbers)


def json_case(numbers: Numbers) -> Case:
    forms: list[Callable[[int], Any]] = [
        int,
        lambda n: f"{n:04b}",
        lambda n: [*map(int, f"{n:04b}")],
    ]
    images = [forms[index % 3](int(number)) for index, number in enumerate(numbers)]
    return Case(json.dumps({"images": images}).encode(), {"Content-Type": JSON}, numbers)


def text_case(numbers: Numbers) -> Case:
    text = " ".join(f"{number:x}" for number in numbers)
    return Case(text.encode(), {"Content-Type": "text/plain"}, numbers)


def picture_case(numbers: Numbers) -> Case:
    sheet = to_pixels(numbers).reshape(-1, 2).astype(bool)
    written = io.BytesIO()
    Image.fromarray(sheet).save(written, format="PNG", bits=1)
    return Case(written.getvalue(), {"Content-Type": "image/png"}, numbers)


def v2_case(numbers: Numbers) -> Case:
    data = to_pixels(numbers).reshape(-1, 4)
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": list(data.shape)}
    document = {
        "inputs": [tensor | {"data": data.tolist()}],
        "outputs": [{"name": "prediction", "parameters": {"binary_data": True}}],
    }
    body = json.dumps(document).encode()
    return Case(body, {"Content-Type": JSON}, numbers, path="v2/models/diagonal_flip/infer")


VALID = (packed_case, packed_case, packed_case, json_case, text_case, picture_case, v2_case)


def bad(body: bytes, content_type: str, status: int, code: str, **headers: str) -> Case:
    return Case(body, {"Content-Type": content_type} | headers, rejection=(status, code))


def bomb() -> bytes:
    """A PNG that says it has 32,768 x 32,768 pixels."""
    written = io.BytesIO()
    Image.new("1", (2, 2)).save(written, format="PNG")
    content = bytearray(written.getvalue())
    content[16:24] = (32768).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


HOSTILE = (
    bad(b"", FLOAT32, 400, "empty_payload"),
    bad(b"\xb6", f"{FLOAT32}; padding=4", 400, "invalid_padding"),
    bad(b"\xb6", f"{FLOAT32}; padding=99999", 400, "invalid_padding"),
    bad(bytes(MAX_IMAGES // 2 + 1), FLOAT32, 413, "too_many_images"),
    bad(b'{"images": [16]}', JSON, 400, "invalid_image"),
    bad(b'{"images": [1e400]}', JSON, 400, "invalid_json"),
    bad(b'{"images": [' + b"9" * 5000 + b"]}", JSON, 400, "invalid_json"),
    bad(b'{"images": [' + b"9" * 25 + b"]}", JSON, 400, "invalid_image"),
    bad(b'{"images": [' + b"[" * 900 + b"]" * 900 + b"]}", JSON, 400, "invalid_image"),
    bad(b"[" * 100_000, JSON, 400, "invalid_json"),
    bad(b"\xff\xfe{}", JSON, 400, "invalid_json"),
    bad(b"b6g", "text/plain", 400, "invalid_text"),
    bad(b"\x89PNG\r\n\x1a\n" + bytes(50), "image/png", 400, "invalid_picture"),
    bad(bomb(), "image/png", 400, "invalid_picture"),
    bad(b"P4\n4000000 4000000\n", "image/x-portable-bitmap", 400, "invalid_picture"),
    bad(b"b6", "text/html; charset=" + "x" * 500, 415, "unsupported_media_type"),
    bad(b"\xb6", FLOAT32, 406, "not_acceptable", Accept="image/gif"),
    bad(b"\xb6", FLOAT32, 412, "model_mismatch", **{"If-Match": '"0"'}),
)
JUNK_HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"describe": "True"},
    {"body": "text/html"},
    {"X-Request-Id": "é" * 40},
    {"traceparent": "x" * 4000},
    {"ts_stream_next": "true"},
)


def make_case(random: np.random.Generator) -> Case:
    if random.integers(4) == 0:
        case = HOSTILE[random.integers(len(HOSTILE))]
    else:
        size = 200_000 if random.integers(400) == 0 else random.integers(1, 200)
        numbers = random.integers(0, 16, random.integers(1, size + 1))
        case = VALID[0 if size > 200 else random.integers(len(VALID))](numbers)
        if case.path.startswith("predictions"):
            case.headers["Accept"] = FLOAT32
    case.extra = JUNK_HEADERS[random.integers(len(JUNK_HEADERS))]
    return case


def check(
    server: Server,
    case: Case,
    response: http.client.HTTPResponse,
    expected: npt.NDArray[np.float32],
) -> None:
    status, headers, body = response.status, response.headers, response.read()
    if case.rejection is not None:
        assert (status, json.loads(body)["code"]) == case.rejection
        return
    assert case.images is not None
    if not server.delivers(16 * len(case.images)):
        assert (status, json.loads(body)["code"]) == (413, "too_many_images")
        return
    assert status == 200, body[:300]
    start = int(headers.get("Inference-Header-Content-Length", "0"))
    server.assert_same(body[start:], expected[case.images].tobytes())
    assert headers["Flip-Images"] == str(len(case.images))


@pytest.mark.parametrize("requests", [20, pytest.param(640, marks=pytest.mark.slow)])
def test_no_request_suffers_from_those_it_is_answered_with(
    server: Server, oracle: Oracle, requests: int
) -> None:
    single = server.post(bytes(pack(range(16)).packed), FLOAT32).content
    expected = np.frombuffer(single, dtype="<f4").reshape(16, 4)
    assert np.abs(expected - oracle(range(16))).max() <= TOLERANCE
    address = urllib.parse.urlsplit(server.url).netloc
    workers = {p.pid for p in psutil.Process(server.process.pid).children(recursive=True)}

    def client(seed: int) -> int:
        random = np.random.default_rng(seed)
        connection = http.client.HTTPConnection(address, timeout=120)
        answered = 0
        for _ in range(requests):
            case = make_case(random)
            extra = {name: value.encode("latin-1") for name, value in case.extra.items()}
            headers: dict[str, Any] = {**case.headers, **extra}
            connection.request("POST", f"/{case.path}", case.body, headers)
            response = connection.getresponse()
            check(server, case, response, expected)
            answered += 1
            if response.status != 200:
                connection.close()  # as TorchServe does after an error
        connection.close()
        return answered

    with ThreadPoolExecutor(CLIENTS) as pool:
        assert sum(pool.map(client, range(CLIENTS))) == CLIENTS * requests
    after = {p.pid for p in psutil.Process(server.process.pid).children(recursive=True)}
    assert after == workers, "a worker died"
