"""Explanations are the steps that one would compute by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from diagonalflip.errors import TooManyImages
from diagonalflip.inference import reading
from diagonalflip.inference.engine import OnnxEngine
from diagonalflip.inference.model import Model
from diagonalflip.message import Operation, Request
from diagonalflip.wire import MAX_EXPLAINED_IMAGES, OCTETS, pack, to_pixels, with_padding
from tests.conftest import ROOT

WEIGHTS = json.loads((ROOT / "export/weights-1.0.json").read_text())


def explain(model: Model, numbers: list[int]) -> list[dict[str, Any]]:
    headers = {"content-type": with_padding(OCTETS, len(numbers))}
    job = reading.read(Request(Operation.EXPLAIN, headers, pack(numbers).packed), "1.0", "digest")
    assert job is not None
    weights = {name: np.array(values, np.float32) for name, values in WEIGHTS.items()}
    body, content_type, _ = job.write(*OnnxEngine(model.onnx).predict([job.images]), weights)
    assert content_type == "application/json"
    steps: list[dict[str, Any]] = json.loads(body)["explanations"]
    return steps


@pytest.mark.parametrize("numbers", [list(range(16)), [3, 9, 14]])
def test_every_step_of_every_image_agrees_with_float64(model: Model, numbers: list[int]) -> None:
    steps = explain(model, numbers)
    assert [step["image"] for step in steps] == numbers
    for number, step in zip(numbers, steps, strict=True):
        pixels = to_pixels([number])[0].astype(np.float64)
        before = WEIGHTS["layer1.weight"] @ pixels.reshape(4) + WEIGHTS["layer1.bias"]
        hidden = np.maximum(before, 0)
        prediction = WEIGHTS["layer2.weight"] @ hidden + WEIGHTS["layer2.bias"]
        target = pixels.T.reshape(4)
        assert step["pixels"] == pixels.reshape(4).tolist()
        assert step["target"] == target.tolist()
        assert step["pre_activation"] == pytest.approx(before, abs=1e-6)
        assert step["hidden"] == pytest.approx(hidden, abs=1e-6)
        assert step["prediction"] == pytest.approx(prediction, abs=1e-6)
        assert step["squared_error"] == pytest.approx(np.mean((prediction - target) ** 2), abs=1e-6)


def test_more_than_the_limit_is_rejected_with_it(model: Model) -> None:
    most = MAX_EXPLAINED_IMAGES
    assert len(explain(model, [1] * most)) == most
    with pytest.raises(TooManyImages) as caught:
        explain(model, [1] * (most + 2))
    assert caught.value.limit == most
