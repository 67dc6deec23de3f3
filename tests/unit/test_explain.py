"""Explanations are the steps that one would compute by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from diagonalflip.errors import TooManyImages
from diagonalflip.inference import reading
from diagonalflip.inference.engine import Engine, OnnxEngine
from diagonalflip.inference.model import Model
from diagonalflip.message import Operation, Request
from diagonalflip.wire import MAX_EXPLAINED_IMAGES, pack, to_pixels
from tests.conftest import ROOT

PACKED = "application/octet-stream"


WEIGHTS = {
    name: np.array(values, dtype=np.float32)
    for name, values in json.loads((ROOT / "export/weights-1.0.json").read_text()).items()
}


@pytest.fixture(scope="module")
def engine(model: Model) -> Engine:
    return OnnxEngine(model.onnx)


def explain(engine: Engine, numbers: list[int], content_type: str = PACKED) -> list[dict[str, Any]]:
    headers = {"content-type": content_type}
    job = reading.read(Request(Operation.EXPLAIN, headers, pack(numbers).packed), "1.0", "digest")
    assert job is not None
    body, content_type, _ = job.write(*engine.predict([job.images]), WEIGHTS)
    assert content_type == "application/json"
    steps: list[dict[str, Any]] = json.loads(body)["explanations"]
    return steps


def test_every_step_of_every_image_agrees_with_float64(engine: Engine) -> None:
    weights = {name: each.astype(np.float64) for name, each in WEIGHTS.items()}
    steps = explain(engine, list(range(16)))
    assert [step["image"] for step in steps] == list(range(16))
    for number, step in enumerate(steps):
        pixels = to_pixels([number])[0].astype(np.float64)
        before = weights["layer1.weight"] @ pixels.reshape(4) + weights["layer1.bias"]
        hidden = np.maximum(before, 0)
        prediction = weights["layer2.weight"] @ hidden + weights["layer2.bias"]
        target = pixels.T.reshape(4)
        assert step["pixels"] == pixels.reshape(4).tolist()
        assert step["target"] == target.tolist()
        assert step["pre_activation"] == pytest.approx(before, abs=1e-6)
        assert step["hidden"] == pytest.approx(hidden, abs=1e-6)
        assert step["prediction"] == pytest.approx(prediction, abs=1e-6)
        assert step["squared_error"] == pytest.approx(np.mean((prediction - target) ** 2), abs=1e-6)


def test_the_last_of_an_odd_number_is_explained_and_its_padding_is_not(engine: Engine) -> None:
    numbers = [3, 9, 14]
    steps = explain(engine, numbers, f"{PACKED}; padding=4")
    assert [step["image"] for step in steps] == numbers


def test_more_than_the_limit_is_rejected_with_it(engine: Engine) -> None:
    most = MAX_EXPLAINED_IMAGES
    assert len(explain(engine, [1] * most)) == most
    with pytest.raises(TooManyImages) as caught:
        explain(engine, [1] * (most + 2))
    assert caught.value.limit == most
