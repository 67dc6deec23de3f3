"""The parity report passes for the real engines, and for nothing that is a little wrong."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from diagonalflip.errors import ParityError
from export import verify
from export.net import load_net
from export.verify import IMAGES, Forward, all_pixels, parity_report, reference

Array = npt.NDArray[Any]
Spoil = Callable[[Array, Array], Array]
SMALL = np.float32(1e-8)


@pytest.fixture(scope="session")
def forwards(artifacts: Path) -> dict[str, Forward]:
    return verify.engines(
        load_net(), *(artifacts / f"diagonal_flip.{kind}" for kind in ("pt", "onnx", "x4.onnx"))
    )


def spoiled(honest: Forward, spoil: Spoil) -> Forward:
    return lambda pixels: spoil(pixels, np.array(honest(pixels)))


def numbers_of(pixels: Array) -> Array:
    return np.asarray(pixels @ np.array([8, 4, 2, 1], np.float32)).astype(int)


def test_the_real_engines_pass(forwards: dict[str, Forward], artifacts: Path) -> None:
    found = parity_report(forwards, reference(load_net()))
    engines = ["eager", "torchscript", "onnxruntime", "onnxruntime-x4"]
    pairs = itertools.combinations([*engines, "exact"], 2)
    assert set(found["pairs"]) == {"/".join(pair) for pair in pairs}
    for key in ("deviation", "ulp"):
        largest = max(pair[key] for pair in found["pairs"].values())
        assert found[f"largest_{key}"] == largest > 0
    assert found["largest_deviation"] <= found["tolerance"] == 1e-6
    assert set(found["batch_invariant"]) == set(engines)
    assert numbers_of(all_pixels()).tolist() == list(range(IMAGES))
    manifest = json.loads((artifacts / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["parity_report"]["reference"] == reference(load_net()).tolist()


def moved(by: float, number: int, column: int) -> Spoil:
    def spoil(pixels: Array, answer: Array) -> Array:
        answer[numbers_of(pixels) == number, column] += np.float32(by)
        return answer

    return spoil


def depends_on_size(pixels: Array, answer: Array) -> Array:
    return np.nextafter(answer, np.float32(9)) if len(pixels) == 7 else answer


def depends_on_position(_: Array, answer: Array) -> Array:
    answer[40:41] = np.nextafter(answer[40:41], np.float32(9))
    return answer


@pytest.mark.parametrize(
    ("engine", "spoil", "message"),
    [
        ("eager", moved(2e-6, number=0, column=0), "A deviation of 2"),
        ("torchscript", moved(-2e-6, number=11, column=3), "A deviation of 2"),
        ("onnxruntime", moved(float("nan"), number=9, column=2), "NaN or infinity from {}"),
        ("eager", moved(float("inf"), number=9, column=2), "NaN or infinity from {}"),
        ("torchscript", lambda _, answer: answer.astype(np.float64), "float64.* from {}"),
        ("onnxruntime", lambda _, answer: answer[:, :3], r"float32\[1, 3\] from {}"),
        ("eager", lambda _, answer: answer[:-1], r"float32\[0, 4\] from {}"),
        ("torchscript", lambda _, answer: answer.reshape(-1), r"float32\[4\] from {}"),
        ("onnxruntime", lambda pixels, answer: answer + SMALL * pixels.sum(), "A deviation of"),
    ],
)
def test_one_spoiled_engine_is_caught(
    forwards: dict[str, Forward], engine: str, spoil: Spoil, message: str
) -> None:
    engines = {**forwards, engine: spoiled(forwards[engine], spoil)}
    with pytest.raises(ParityError, match=message.format(engine)):
        parity_report(engines, reference(load_net()))


@pytest.mark.parametrize("spoil", [depends_on_size, depends_on_position, moved(5e-7, 5, 1)])
def test_what_varies_within_the_tolerance_is_reported_and_no_reason_to_reject(
    forwards: dict[str, Forward], spoil: Spoil
) -> None:
    honest = forwards["onnxruntime"]
    engines = {"onnxruntime": honest, "varying": spoiled(honest, spoil)}
    found = parity_report(engines, reference(load_net()))
    deviation = found["pairs"]["onnxruntime/varying"]["deviation"]
    if spoil in (depends_on_size, depends_on_position):
        assert found["batch_invariant"]["varying"] is False
        assert 0 < deviation < 1e-7
    else:
        assert 4e-7 < deviation < 6e-7


def test_the_reference_is_exact() -> None:
    """Within half a unit in the last place of what rational arithmetic says of image 11."""
    net = load_net()
    weight1, bias1, weight2, bias2 = (tensor.tolist() for tensor in net.state_dict().values())
    hidden = [
        max(Fraction(0), Fraction(row[0]) + Fraction(row[2]) + Fraction(row[3]) + Fraction(bias))
        for row, bias in zip(weight1, bias1, strict=True)
    ]
    for row, bias, found in zip(weight2, bias2, reference(net)[11], strict=True):
        exact = Fraction(bias) + sum(Fraction(w) * h for w, h in zip(row, hidden, strict=True))
        assert found == float(exact)


def test_engines_that_agree_on_a_wrong_answer_are_caught(forwards: dict[str, Forward]) -> None:
    with pytest.raises(ParityError, match="and exact"):
        parity_report(forwards, reference(load_net()) + 2e-6)


@pytest.mark.parametrize(
    ("left", "right", "ulps"),
    [(1.0, 1.0, 0), (1.0, np.nextafter(np.float32(1), np.float32(2)), 1), (1e-7, -1e-7, 0)],
)
def test_ulps_count_float32_values_away_from_zero(left: float, right: float, ulps: int) -> None:
    pair = np.array([left], np.float32), np.array([right], np.float32)
    assert verify._ulps(*pair).tolist() == [ulps]
    assert verify._ulps(*(-value for value in pair)).tolist() == [ulps]
