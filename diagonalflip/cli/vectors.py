"""The golden vectors: send the request of one, and compare the answer with its response."""

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
from diagonalflip.wire import JSON, MODEL, PIXELS, TOLERANCE

Vector = Mapping[str, Any]
FILES = ("predictions", "v2", "explanations")
VERSION = "1.0"
"""Version of the model that has made the vectors' predictions."""

PROBLEM_MEMBERS = {"type", "title", "status", "detail", "code", "got", "expected"}
ROUNDED = 0.5e-6
"""Largest rounding error of six decimals in the text table."""


def vectors() -> Iterator[tuple[str, Vector]]:
    """Yield each vector with the name of its file; its request has the file's path by default."""
    for name in FILES:
        text = (resources.files("diagonalflip") / f"vectors/{name}.json").read_text("utf-8")
        file = json.loads(text)
        for vector in file["vectors"]:
            yield name, vector | {"request": {"path": file["path"]} | vector["request"]}


def ask(raw: Raw, vector: Vector, **headers: str) -> Reply:
    """Send a vector's request; ``headers`` replace some of its own."""
    request = vector["request"]
    return raw.send(_body(request), request["headers"] | headers, request["path"])


def check(raw: Raw, vector: Vector) -> None:
    """Send a vector's request; raise DiagonalFlipError unless the answer is as expected."""
    compare(ask(raw, vector), vector["response"])


def compare(answer: Reply, expected: Vector) -> None:
    """Raise InvalidAnswer, which says where, unless an answer is the expected response."""
    require("status", answer.status, expected["status"])
    if "content_type" in expected:
        got, wanted = answer.headers.get("Content-Type", ""), expected["content_type"]
        require("Content-Type", _parameters(got), _parameters(wanted))
    for name, value in expected.get("headers", {}).items():
        require(name, answer.headers.get(name), value)
    for name, pattern in expected.get("header_patterns", {}).items():
        found = answer.headers.get(name, "")
        if not re.fullmatch(pattern, found):
            raise InvalidAnswer(f"{name} {found!r:.200}", f"one like {pattern}")
    for member in BODIES.keys() & expected.keys():
        BODIES[member](answer, expected)


def require(what: str, got: object, expected: object) -> None:
    """Raise InvalidAnswer unless both are equal."""
    if got != expected:
        raise InvalidAnswer(f"{what} {got!r:.200}", f"{expected!r:.200}")


def require_close(got: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    """Raise InvalidAnswer unless numbers have the same shape and are close; NaN never is."""
    numbers, wanted = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    require("numbers of shape", numbers.shape, wanted.shape)
    wrong = np.argwhere(~(np.abs(numbers - wanted) <= tolerance))
    if wrong.size:
        at = tuple(wrong[0].tolist())
        raise InvalidAnswer(f"{numbers[at]} at {list(at)}", f"{wanted[at]} +- {tolerance:g}")


def _body(described: Vector) -> bytes:
    repeat = described.get("body_repeat", {"byte_hex": "", "count": 0})
    return bytes.fromhex(described["body_hex"] + repeat["byte_hex"] * repeat["count"])


def _parameters(content_type: str) -> list[str]:
    return [part.strip().lower() for part in content_type.split(";")]


def _exact(answer: Reply, expected: Vector) -> None:
    require("body", answer.body.hex(), _body(expected).hex())


def _float32(answer: Reply, expected: Vector) -> None:
    if "output" in expected:
        got = _v2_predictions(answer, expected)
    elif answer.headers.get("Content-Type") == JSON:
        got = _only("predictions", answer)
    else:
        got = np.frombuffer(answer.body, "<f4").reshape(-1, PIXELS)
    require_close(got, expected["float32"])


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


def _float16(answer: Reply, expected: Vector) -> None:
    require_close(np.frombuffer(answer.body, "<f2").reshape(-1, PIXELS), expected["float16"])


def _table(answer: Reply, expected: Vector) -> None:
    rows = [line.split() for line in answer.body.decode().splitlines()[1:]]
    wanted = expected["table"]
    require("bits", ["".join(row[:-PIXELS]) for row in rows], [row[0] for row in wanted])
    printed = [row[-PIXELS:] for row in rows]
    require("decimals", {len(text.partition(".")[2]) for row in printed for text in row}, {6})
    require_close(printed, [row[1:] for row in wanted], TOLERANCE + ROUNDED)


def _picture(answer: Reply, expected: Vector) -> None:
    picture = Image.open(io.BytesIO(answer.body))
    require("picture", (picture.format, picture.mode), ("PNG", "L"))
    require("size", picture.size, (expected["width"], expected["height"]))
    pixels = bytes.fromhex(expected["pixels_hex"])
    require_close(list(picture.tobytes()), list(pixels), expected["pixel_tolerance"])


def _problem(answer: Reply, expected: Vector) -> None:
    problem = json.loads(answer.body)
    require("code", problem.get("code"), expected["code"])
    require("status in the problem", problem.get("status"), expected["status"])
    require("missing members", PROBLEM_MEMBERS - problem.keys(), set())


def _v2_error(answer: Reply, _expected: Vector) -> None:
    require("type of error", type(_only("error", answer)), str)


def _explanations(answer: Reply, expected: Vector) -> None:
    explanations = _only("explanations", answer)
    require("explanations", len(explanations), len(expected["explanations"]))
    for got, wanted in zip(explanations, expected["explanations"], strict=True):
        require("members", set(got), set(wanted))
        for key in wanted:
            require_close(got[key], wanted[key])


def _only(member: str, answer: Reply) -> Any:
    """Return the only member of a JSON object."""
    document = json.loads(answer.body)
    require("members", set(document), {member})
    return document[member]


BODIES: dict[str, Callable[[Reply, Vector], None]] = {
    "body_hex": _exact,
    "float32": _float32,
    "float16": _float16,
    "table": _table,
    "pixels_hex": _picture,
    "code": _problem,
    "error": _v2_error,
    "explanations": _explanations,
}
"""Comparisons of bodies, by the member of ``response`` that describes them."""
