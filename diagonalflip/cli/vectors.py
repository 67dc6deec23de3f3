"""The golden vectors: how a request is made from one, and how its answer is judged."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from diagonalflip.cli.target import Raw
from diagonalflip.client._endpoint import Reply
from diagonalflip.errors import InvalidAnswer
from diagonalflip.wire import JSON, MODEL

Vector = Mapping[str, Any]
FILES = ("predictions", "v2", "explanations")
VERSION = "1.0"
"""Of the model whose predictions the vectors have."""

PROBLEM_MEMBERS = {"type", "title", "status", "detail", "code", "got", "expected"}
ROUNDED = 0.5e-6
"""Largest rounding error of six decimals in the text table."""


def vectors() -> Iterator[tuple[str, Mapping[str, Any], Vector]]:
    """Name of the file, its content and one vector of it, for all vectors."""
    for name in FILES:
        text = (resources.files("diagonalflip") / f"vectors/{name}.json").read_text("utf-8")
        file = json.loads(text)
        for vector in file["vectors"]:
            yield name, file, vector


def has_predictions(vector: Vector) -> bool:
    """Return whether a vector's response depends on the model's version."""
    return bool(vector["response"]["status"] == 200)


def ask(raw: Raw, file: Mapping[str, Any], vector: Vector, **headers: str) -> Reply:
    """Send a vector's request, with other headers where that is said."""
    request = vector["request"]
    path = request.get("path", file["path"])
    return raw.post(_bytes(request), request["headers"] | headers, path)


def check(raw: Raw, file: Mapping[str, Any], vector: Vector) -> None:
    """Send a vector's request, and judge the answer.

    Raises:
        DiagonalFlipError: It is another, or there is none.
    """
    judge(ask(raw, file, vector), vector["response"], file["tolerance"])


def judge(answer: Reply, expected: Vector, tolerance: float) -> None:
    """Compare an answer with a vector's ``response``.

    Raises:
        InvalidAnswer: It is another; says where.
    """
    require("status", answer.status, expected["status"])
    for member in expected.keys() - _DETAILS:
        try:
            _JUDGES[member](answer, expected, tolerance)
        except InvalidAnswer:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OSError, SyntaxError) as error:
            found = f"an answer that cannot be read as {member} ({error!r})"
            raise InvalidAnswer(found, f"{expected[member]!r:.60}") from error


def require(what: str, got: object, expected: object) -> None:
    """Raises InvalidAnswer unless both are equal."""
    if got != expected:
        raise InvalidAnswer(f"{what} {got!r:.200}", f"{expected!r:.200}")


def require_close(got: Any, expected: Any, tolerance: float) -> None:
    """Raises InvalidAnswer unless numbers of one shape are close; NaN is close to nothing."""
    numbers, wanted = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    require("numbers of shape", numbers.shape, wanted.shape)
    wrong = np.argwhere(~(np.abs(numbers - wanted) <= tolerance))
    if wrong.size:
        at = tuple(int(index) for index in wrong[0])
        raise InvalidAnswer(f"{numbers[at]} at {list(at)}", f"{wanted[at]} +- {tolerance:g}")


def _bytes(described: Mapping[str, Any]) -> bytes:
    body = bytes.fromhex(described["body_hex"])
    if repeat := described.get("body_repeat"):
        body += bytes.fromhex(repeat["byte_hex"]) * repeat["count"]
    return body


def _content_type(answer: Reply, expected: Vector, _tolerance: float) -> None:
    def parts(header: str) -> list[str]:
        return [part.strip().lower() for part in header.split(";")]

    got = answer.headers.get("Content-Type", "")
    require("Content-Type", parts(got), parts(expected["content_type"]))


def _headers(answer: Reply, expected: Vector, _tolerance: float) -> None:
    for name, value in expected["headers"].items():
        require(name, answer.headers.get(name), value)


def _header_patterns(answer: Reply, expected: Vector, _tolerance: float) -> None:
    for name, pattern in expected["header_patterns"].items():
        value = answer.headers.get(name)
        if not re.fullmatch(pattern, value or ""):
            raise InvalidAnswer(f"{name} {value!r:.200}", f"one like {pattern}")


def _body(answer: Reply, expected: Vector, _tolerance: float) -> None:
    require("body", answer.body.hex(), _bytes(expected).hex())


def _float32(answer: Reply, expected: Vector, tolerance: float) -> None:
    if "output" in expected:
        got = _v2_predictions(answer, expected)
    elif answer.headers.get("Content-Type") == JSON:
        document = json.loads(answer.body)
        require("members", set(document), {"predictions"})
        got = document["predictions"]
    else:
        got = np.frombuffer(answer.body, "<f4").reshape(-1, 4)
    require_close(got, expected["float32"], tolerance)


def _v2_predictions(answer: Reply, expected: Vector) -> Any:
    end = int(answer.headers.get("Inference-Header-Content-Length", len(answer.body)))
    document, tail = json.loads(answer.body[:end]), answer.body[end:]
    require("id", document.get("id"), expected.get("id"))
    require("model_name", document["model_name"], MODEL)
    version = answer.headers.get("Flip-Model-Version")
    require("model_version", document.get("model_version"), version)
    (output,) = document["outputs"]
    for name, value in expected["output"].items():
        require(name, output.get(name), value)
    require("binary output", "data" not in output, expected["binary"])
    if expected["binary"]:
        require("binary_data_size", output["parameters"]["binary_data_size"], len(tail))
        return np.frombuffer(tail, "<f4").reshape(output["shape"])
    require("bytes after the JSON", len(tail), 0)
    return np.reshape(output["data"], output["shape"])


def _float16(answer: Reply, expected: Vector, tolerance: float) -> None:
    got = np.frombuffer(answer.body, "<f2").reshape(-1, 4)
    require_close(got, expected["float16"], tolerance)


def _table(answer: Reply, expected: Vector, tolerance: float) -> None:
    rows = [line.split() for line in answer.body.decode().splitlines()[1:]]
    wanted = expected["table"]
    require("bits", ["".join(row[:-4]) for row in rows], [row[0] for row in wanted])
    printed = [number for row in rows for number in row[-4:]]
    require("decimals", {len(number.partition(".")[2]) for number in printed}, {6})
    numbers = [number for row in wanted for number in row[1:]]
    require_close([float(number) for number in printed], numbers, tolerance + ROUNDED)


def _picture(answer: Reply, expected: Vector, _tolerance: float) -> None:
    picture = Image.open(io.BytesIO(answer.body))
    require("picture", (picture.format, picture.mode), ("PNG", "L"))
    require("size", picture.size, (expected["width"], expected["height"]))
    pixels = bytes.fromhex(expected["pixels_hex"])
    require_close(list(picture.tobytes()), list(pixels), expected["pixel_tolerance"])


def _code(answer: Reply, expected: Vector, _tolerance: float) -> None:
    problem = json.loads(answer.body)
    require("code", problem.get("code"), expected["code"])
    require("status in the problem", problem.get("status"), expected["status"])
    require("missing members", PROBLEM_MEMBERS - problem.keys(), set())


def _error(answer: Reply, _expected: Vector, _tolerance: float) -> None:
    document = json.loads(answer.body)
    require("members", set(document), {"error"})
    require("type of error", type(document["error"]), str)


def _explanations(answer: Reply, expected: Vector, tolerance: float) -> None:
    document = json.loads(answer.body)
    require("members", set(document), {"explanations"})
    require("explanations", len(document["explanations"]), len(expected["explanations"]))
    for got, wanted in zip(document["explanations"], expected["explanations"], strict=True):
        require("members", set(got), set(wanted))
        for key in wanted:
            require_close(got[key], wanted[key], tolerance)


_JUDGES: dict[str, Callable[[Reply, Vector, float], None]] = {
    "content_type": _content_type,
    "headers": _headers,
    "header_patterns": _header_patterns,
    "body_hex": _body,
    "float32": _float32,
    "float16": _float16,
    "table": _table,
    "pixels_hex": _picture,
    "code": _code,
    "error": _error,
    "explanations": _explanations,
}
# Read by the judges above, and nothing by themselves.
_DETAILS = {"status", "body_repeat", "width", "height", "pixel_tolerance", "id", "binary", "output"}
