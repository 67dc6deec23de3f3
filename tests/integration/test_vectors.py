"""Every golden vector that the package ships, against the running server."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any
from urllib.parse import urljoin

import numpy as np
import pytest
import requests
from PIL import Image

from tests.integration.conftest import Server

pytestmark = pytest.mark.both_ports

Vector = dict[str, Any]
FILES = {
    name: json.loads((resources.files("diagonalflip") / f"vectors/{name}.json").read_text("utf-8"))
    for name in ("predictions", "v2", "explanations")
}
PROBLEM_MEMBERS = {"type", "title", "status", "detail", "code", "got", "expected"}
# Six decimals of a table are this far from the number itself.
ROUNDED = 0.5e-6


def bytes_of(described: Mapping[str, Any]) -> bytes:
    """``body_hex``, then ``body_repeat``."""
    body = bytes.fromhex(described["body_hex"])
    if repeat := described.get("body_repeat"):
        body += bytes.fromhex(repeat["byte_hex"]) * repeat["count"]
    return body


def media_type(header: str) -> list[str]:
    return [part.strip().lower() for part in header.split(";")]


def assert_close(got: Any, expected: Any, tolerance: float) -> None:
    """Compares numbers of one shape; NaN is close to nothing."""
    numbers, wanted = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert numbers.shape == wanted.shape
    assert np.all(np.abs(numbers - wanted) <= tolerance), f"got {got}, expected {expected}"


def v2_document(response: requests.Response) -> tuple[dict[str, Any], bytes]:
    """The JSON of a V2 answer, and the binary tensors after it."""
    head = response.headers.get("Inference-Header-Content-Length")
    end = len(response.content) if head is None else int(head)
    return json.loads(response.content[:end]), response.content[end:]


def check_float32(response: requests.Response, expected: Vector, tolerance: float) -> None:
    content_type = response.headers["Content-Type"]
    if "output" in expected:
        document, tail = v2_document(response)
        (output,) = document["outputs"]
        assert expected["output"].items() <= output.items()
        assert document.get("id") == expected.get("id")
        assert document["model_name"] == "diagonal_flip"
        assert document["model_version"] == response.headers["Flip-Model-Version"]
        assert ("data" in output) != expected["binary"]
        if expected["binary"]:
            assert output["parameters"]["binary_data_size"] == len(tail)
            data: Any = np.frombuffer(tail, "<f4")
        else:
            assert not tail
            data = output["data"]
        got: Any = np.reshape(data, output["shape"])
    elif content_type == "application/json":
        assert response.json().keys() == {"predictions"}
        got = response.json()["predictions"]
    else:
        got = np.frombuffer(response.content, "<f4").reshape(-1, 4)
    assert_close(got, expected["float32"], tolerance)


def check_float16(response: requests.Response, expected: Vector, tolerance: float) -> None:
    got = np.frombuffer(response.content, "<f2").reshape(-1, 4)
    assert_close(got, expected["float16"], tolerance)


def check_table(response: requests.Response, expected: Vector, tolerance: float) -> None:
    rows = [line.split() for line in response.content.decode().splitlines()[1:]]
    assert ["".join(row[:-4]) for row in rows] == [row[0] for row in expected["table"]]
    printed = [number for row in rows for number in row[-4:]]
    assert all(len(number.partition(".")[2]) == 6 for number in printed)
    wanted = [number for row in expected["table"] for number in row[1:]]
    assert_close(printed, wanted, tolerance + ROUNDED)


def check_pixels_hex(response: requests.Response, expected: Vector, _tolerance: float) -> None:
    picture = Image.open(io.BytesIO(response.content))
    assert (picture.format, picture.mode) == ("PNG", "L")
    assert picture.size == (expected["width"], expected["height"])
    pixels = bytes.fromhex(expected["pixels_hex"])
    assert_close(list(picture.tobytes()), list(pixels), expected["pixel_tolerance"])


def check_code(response: requests.Response, expected: Vector, _tolerance: float) -> None:
    problem = response.json()
    assert problem["code"] == expected["code"]
    assert problem["status"] == expected["status"]
    assert problem.keys() >= PROBLEM_MEMBERS


def check_error(response: requests.Response, _expected: Vector, _tolerance: float) -> None:
    document = response.json()
    assert document.keys() == {"error"}
    assert isinstance(document["error"], str)


def check_explanations(response: requests.Response, expected: Vector, tolerance: float) -> None:
    document = response.json()
    assert document.keys() == {"explanations"}
    for got, wanted in zip(document["explanations"], expected["explanations"], strict=True):
        assert got.keys() == wanted.keys()
        for key in wanted:
            assert_close(got[key], wanted[key], tolerance)


def check_body_hex(response: requests.Response, expected: Vector, _tolerance: float) -> None:
    assert response.content == bytes_of(expected)


def check_headers(response: requests.Response, expected: Vector, _tolerance: float) -> None:
    for name, value in expected["headers"].items():
        assert response.headers.get(name) == value, name


def check_content_type(response: requests.Response, expected: Vector, _tolerance: float) -> None:
    got = media_type(response.headers["Content-Type"])
    assert got == media_type(expected["content_type"])


CHECKS: dict[str, Callable[[requests.Response, Vector, float], None]] = {
    "content_type": check_content_type,
    "headers": check_headers,
    "body_hex": check_body_hex,
    "float32": check_float32,
    "float16": check_float16,
    "table": check_table,
    "pixels_hex": check_pixels_hex,
    "code": check_code,
    "error": check_error,
    "explanations": check_explanations,
}
# Read by the checks above, and nothing by themselves.
DETAILS = {
    "status",
    "body_repeat",
    "width",
    "height",
    "pixel_tolerance",
    "id",
    "binary",
    "output",
}


@pytest.mark.parametrize(
    ("file", "vector"),
    [
        pytest.param(file, vector, id=f"{name}: {vector['name']}")
        for name, file in FILES.items()
        for vector in file["vectors"]
    ],
)
def test_vector(server: Server, file: dict[str, Any], vector: Vector) -> None:
    asked, expected = vector["request"], vector["response"]
    response = requests.post(
        urljoin(server.url, asked.get("path", file["path"])),
        data=bytes_of(asked),
        headers={"Content-Type": None, "Accept": None} | asked["headers"],
        timeout=60,
    )
    assert response.status_code == expected["status"], response.text[:500]
    for kind in expected.keys() - DETAILS:
        CHECKS[kind](response, expected, file["tolerance"])


@pytest.mark.parametrize("name", FILES)
def test_vectors_promise_each_thing_once(name: str) -> None:
    names = [vector["name"] for vector in FILES[name]["vectors"]]
    assert len(set(names)) == len(names)


def test_every_error_that_a_client_can_provoke_has_a_vector() -> None:
    seen = {vector["response"].get("code") for vector in FILES["predictions"]["vectors"]} - {None}
    assert seen == {
        "empty_payload",
        "invalid_padding",
        "invalid_json",
        "invalid_image",
        "invalid_text",
        "invalid_picture",
        "not_acceptable",
        "model_mismatch",
        "too_many_images",
        "unsupported_media_type",
        "unsupported_coding",
    }
