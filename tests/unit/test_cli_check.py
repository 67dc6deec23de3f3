"""``diagonalflip check`` judges answers and reports its findings."""

from __future__ import annotations

import io
import json
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from diagonalflip import errors
from diagonalflip.cli import vectors
from diagonalflip.cli.check import Verdict, line_of, verdicts
from diagonalflip.cli.target import Raw
from diagonalflip.client._endpoint import Reply
from tests.faults.fake_server import DESCRIPTION

PREDICTION = [0.1, -0.1, -0.05, -0.25]
JSON = "application/json"


def answer(body: bytes | dict[str, Any], status: int = 200, **headers: str) -> Reply:
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    return Reply(status, {name.replace("_", "-"): headers[name] for name in headers}, content)


def png(pixels: list[int], mode: str = "L") -> bytes:
    file = io.BytesIO()
    Image.frombytes("L", (2, 2), bytes(pixels)).convert(mode).save(file, "PNG")
    return file.getvalue()


def v2(data: list[float], **members: Any) -> dict[str, Any]:
    output = {"name": "prediction", "datatype": "FP32", "shape": [1, 4], "data": data}
    return {"model_name": "diagonal_flip", "outputs": [output]} | members


FLOATS = {"status": 200, "float32": [PREDICTION]}
V2 = FLOATS | {"output": {"shape": [1, 4]}, "binary": False}
V2_OF_2_0 = v2(PREDICTION, model_version="2.0")
TABLE = {"status": 200, "table": [["1011", *PREDICTION]]}
SHEET = {"status": 200, "width": 2, "height": 2, "pixels_hex": "19000000", "pixel_tolerance": 1}
CODE = {"status": 400, "code": "invalid_json"}
PROBLEM: dict[str, Any] = dict.fromkeys(vectors.PROBLEM_MEMBERS, "x") | CODE
EXPLAINED = {"status": 200, "explanations": [{"image": 11, "hidden": [0, 0, 0.5]}]}
CLOSE = {"explanations": [{"image": 11, "hidden": [0, 7.5e-9, 0.5]}]}
HALVES = {"status": 200, "float16": [[0.5, 1, 0, 2]]}
FITS = {"status": 200, "header_patterns": {"A": "b[0-9]"}}
V2_ERROR = {"status": 400, "error": True}
LINE = "image  a  b  c  d\n1011 0.100000 -0.100000 -0.050000 -0.250000\n"
RAW = np.array(PREDICTION, "<f4").tobytes()

GOOD: dict[str, tuple[Reply, dict[str, Any]]] = {
    "raw": (answer(RAW), FLOATS),
    "JSON": (answer({"predictions": [PREDICTION]}, Content_Type=JSON), FLOATS),
    "V2": (answer(v2(PREDICTION)), V2),
    "float16": (answer(np.array([0.5, 1, 0, 2], "<f2").tobytes()), HALVES),
    "table": (answer(LINE.encode()), TABLE),
    "picture": (answer(png([26, 0, 0, 0])), SHEET),
    "problem": (answer(PROBLEM, 400), CODE),
    "V2 error": (answer({"error": "no"}, 400), V2_ERROR),
    "explanations": (answer(CLOSE), EXPLAINED),
    "type": (answer(b"", Content_Type="A/b;c=d"), {"status": 200, "content_type": "a/b; c=d"}),
    "headers": (answer(b"", A="b"), {"status": 200, "headers": {"A": "b", "C": None}}),
    "header that fits": (answer(b"", A="b1"), FITS),
    "body": (
        answer(b"\xb0\xff\xff"),
        {"status": 200, "body_hex": "b0", "body_repeat": {"byte_hex": "ff", "count": 2}},
    ),
}
BAD: dict[str, tuple[Reply, dict[str, Any]]] = {
    "status": (answer(RAW, 500), FLOATS),
    "another number": (answer(np.array([0.1, -0.1, -0.05, -0.24], "<f4").tobytes()), FLOATS),
    "NaN": (answer(np.full(4, np.nan, "<f4").tobytes()), FLOATS),
    "too few": (answer(RAW[:12]), FLOATS),
    "ragged": (answer(RAW[:13]), FLOATS),
    "no JSON": (answer(b"{", Content_Type=JSON), FLOATS),
    "JSON of another shape": (answer(b"[]", Content_Type=JSON), FLOATS),
    "V2 without outputs": (answer({"model_name": "diagonal_flip"}), V2),
    "V2 with an id no one sent": (answer(v2(PREDICTION, id="1")), V2),
    "V2 of another version": (answer(V2_OF_2_0, Flip_Model_Version="1.0"), V2),
    "table of five decimals": (answer(LINE.replace("0000 ", "000 ").encode()), TABLE),
    "table of other bits": (answer(LINE.replace("1011", "1010").encode()), TABLE),
    "darker picture": (answer(png([23, 0, 0, 0])), SHEET),
    "picture in colours": (answer(png([26, 0, 0, 0], "RGB")), SHEET),
    "no picture": (answer(b"PNG"), SHEET),
    "another code": (answer(PROBLEM | {"code": "invalid_text"}, 400), CODE),
    "problem without got": (answer({"code": "invalid_json", "status": 400}, 400), CODE),
    "V2 error that is no string": (answer({"error": 1}, 400), V2_ERROR),
    "fewer explanations": (answer({"explanations": []}), EXPLAINED),
    "another header": (answer(b"", A="x"), {"status": 200, "headers": {"A": "b"}}),
    "a header too many": (answer(b"", C="x"), {"status": 200, "headers": {"C": None}}),
    "a header that does not fit": (answer(b"", A="b1x"), FITS),
    "a missing header": (answer(b""), FITS),
    "another type": (answer(b""), {"status": 200, "content_type": "a/b"}),
    "another body": (answer(b"\xb1"), {"status": 200, "body_hex": "b0"}),
}


@pytest.mark.parametrize("good", GOOD.values(), ids=GOOD)
def test_a_good_answer_passes(good: tuple[Reply, dict[str, Any]]) -> None:
    vectors.judge(*good, 1e-6)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_answer_is_told_from_a_good_one(bad: tuple[Reply, dict[str, Any]]) -> None:
    with pytest.raises(errors.InvalidAnswer):
        vectors.judge(*bad, 1e-6)


def test_every_member_of_every_vector_has_a_judge() -> None:
    members = {name for _, _, vector in vectors.vectors() for name in vector["response"]}
    assert members <= vectors._JUDGES.keys() | vectors._DETAILS


class Stalled:
    """A server that answers every request with the same words, all but what it is."""

    url = "http://stalled"

    def __init__(self, same: Reply) -> None:
        self.same = same

    def of(self, _: str | None) -> Stalled:
        return self

    def post(self, body: bytes, *_: Any, **__: Any) -> Reply:
        return self.same if body or self.same.status != 200 else answer(DESCRIPTION)


def test_a_server_that_predicts_nothing_is_no_matter_of_promises() -> None:
    with pytest.raises(errors.InvalidAnswer, match="404"):
        list(verdicts(cast("Raw", Stalled(answer(b"", 404)))))


def test_a_server_with_one_answer_keeps_few_promises() -> None:
    same = answer(RAW, Content_Type="application/octet-stream", Flip_Images="1")
    found = list(verdicts(cast("Raw", Stalled(same))))
    broken = {verdict.promise for verdict in found if not verdict.passed}
    assert len(broken) > len(found) // 2
    assert "JSON answers, read as float32, are exact" in broken
    assert all(verdict.reason for verdict in found if not verdict.passed)


def test_a_verdict_for_people() -> None:
    assert line_of(Verdict("a", "b", passed=True)) == "pass  a: b"
    assert line_of(Verdict("a", "b", passed=False, reason="c")) == "FAIL  a: b\n      c"
