"""``diagonalflip check`` judges answers and reports its findings."""

from __future__ import annotations

import io
import json
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from diagonalflip import errors
from diagonalflip.cli import vectors
from diagonalflip.cli.check import judge, verdicts
from diagonalflip.cli.promises import Kit
from diagonalflip.cli.target import Raw
from diagonalflip.client._endpoint import Reply
from diagonalflip.wire import OCTETS, TOLERANCE
from tests.conftest import ROOT
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
FITS = {"status": 200, "header_patterns": {"A": "b[0-9]"}}
V2_ERROR = {"status": 400, "error": True}
LINE = "image  a  b  c  d\n1011 0.100000 -0.100000 -0.050000 -0.250000\n"
RAW = np.array(PREDICTION, "<f4").tobytes()

ANSWERS: dict[str, tuple[Reply, dict[str, Any]]] = {
    "good picture": (answer(png([26, 0, 0, 0])), SHEET),
    "good explanations": (answer(CLOSE), EXPLAINED),
    "good type": (answer(b"", Content_Type="A/b;c=d"), {"status": 200, "content_type": "a/b; c=d"}),
    "good table": (answer(LINE.encode()), TABLE),
    "status": (answer(RAW, 500), FLOATS),
    "another number": (answer(np.array([0.1, -0.1, -0.05, -0.24], "<f4").tobytes()), FLOATS),
    "NaN": (answer(np.full(4, np.nan, "<f4").tobytes()), FLOATS),
    "too few": (answer(RAW[:12]), FLOATS),
    "ragged": (answer(RAW[:13]), FLOATS),
    "no JSON": (answer(b"{", Content_Type=JSON), FLOATS),
    "JSON that is too deep": (answer(b"[" * 100_000, Content_Type=JSON), FLOATS),
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


@pytest.mark.parametrize("name", ANSWERS)
def test_a_bad_answer_is_told_from_a_good_one_which_need_not_be_the_same(name: str) -> None:
    verdict = judge("a", "b", partial(vectors.compare, *ANSWERS[name]))
    told = "pass  a: b" if name.startswith("good ") else f"FAIL  a: b\n      {verdict.reason}"
    assert (verdict.passed, str(verdict)) == (name.startswith("good "), told)


def test_the_vectors_have_all_errors_and_headers_and_nothing_that_is_not_judged() -> None:
    """Some members are read with others: those of pictures and of V2."""
    for name in vectors.FILES:
        text = (ROOT / f"diagonalflip/vectors/{name}.json").read_text()
        assert json.loads(text)["tolerance"] == TOLERANCE
    responses = [vector["response"] for _, vector in vectors.vectors()]
    with_others = {"body_repeat", "width", "height", "pixel_tolerance", "id", "binary", "output"}
    heads = {"status", "content_type", "headers", "header_patterns"}
    members = {name for response in responses for name in response}
    assert members == vectors.BODIES.keys() | heads | with_others
    of_predictions = [each["response"] for file, each in vectors.vectors() if file == "predictions"]
    assert {response.get("code") for response in of_predictions} == {
        *("empty_payload", "invalid_padding", "invalid_json", "invalid_image", "invalid_text"),
        *("invalid_picture", "not_acceptable", "model_mismatch", "too_many_images"),
        *("unsupported_media_type", "unsupported_coding", None),
    }
    told = ("Images", "Model-Version", "Model-Digest", "Flips", "Wire-Version", "Device")
    patterns = [name for response in responses for name in response.get("header_patterns", ())]
    assert set(patterns) == {"Server-Timing"} | {f"Flip-{name}" for name in told}


def server(same: Reply, **told: Any) -> Raw:
    """A server that answers every request with the same words, all but what it is."""

    def send(body: bytes, *_: Any, **__: Any) -> Reply:
        return same if body or same.status != 200 else answer(DESCRIPTION | told)

    return cast("Raw", SimpleNamespace(send=send))


@pytest.mark.parametrize(
    ("batch_invariant", "difference", "is_kept"),
    [(True, 0, True), (True, 1e-8, False), (False, 1.9e-6, True), (False, 2.2e-6, False)],
)
def test_one_wrong_number_is_seen(batch_invariant: bool, difference: float, is_kept: bool) -> None:
    """To the bit where the server promises that."""
    kit = Kit(server(answer(RAW, Content_Type=OCTETS), batch_invariant=batch_invariant))
    got = np.tile(np.array(PREDICTION, np.float32), (1000, 1))
    got[-1, 0] += difference
    verdict = judge("a", "b", lambda: kit.compare(got, np.arange(1000) % 16))
    assert verdict.passed == is_kept
    assert ("in row 999" in verdict.reason) != is_kept


def test_a_server_that_predicts_nothing_is_no_matter_of_promises() -> None:
    with pytest.raises(errors.ModelNotFound, match="404"):
        list(verdicts(server(answer(b"", 404))))


def test_a_server_with_one_answer_keeps_few_promises() -> None:
    found = list(verdicts(server(answer(RAW, Content_Type=OCTETS, Flip_Images="1"))))
    broken = {verdict.promise for verdict in found if not verdict.passed}
    assert len(broken) > len(found) // 2
    assert "JSON answers, read as float32, are exact" in broken
    assert all(verdict.reason for verdict in found if not verdict.passed)
    assert "pass  contract: predictions are finite" in map(str, found)
