"""The engine gives ONNX Runtime's answers wherever an image lies; the same bits if it says so."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diagonalflip.client._answers import agree
from diagonalflip.errors import ArtifactError, ParityError
from diagonalflip.inference import devices
from diagonalflip.inference.devices import CPU, pick_device
from diagonalflip.inference.engine import (
    LARGEST_BATCH,
    MOST_PADDING,
    Chunk,
    Engine,
    OnnxEngine,
    open_engine,
)
from diagonalflip.inference.model import Model
from diagonalflip.inference.torch_engine import TorchEngine
from diagonalflip.wire import Images, pack

Rows = npt.NDArray[np.float32]
Exact = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def reference(model: Model) -> Exact:
    return np.array(json.loads(model.reference)["predictions"])


@pytest.fixture(scope="module", params=[CPU, "GPU"], ids="for the {}".format)
def engine(model: Model, reference: Exact, request: pytest.FixtureRequest) -> Engine:
    """Both engines, on the CPU."""
    engine: Engine = TorchEngine(model.torchscript, CPU)
    if request.param == CPU:
        engine = open_engine(model.torchscript, model.onnx, CPU)
    assert engine.warm_up(reference) <= 1e-6
    return engine


@pytest.fixture(scope="module")
def onnx_engine(model: Model) -> OnnxEngine:
    return OnnxEngine(model.onnx)


@pytest.fixture
def cold_engine(model: Model) -> TorchEngine:
    return TorchEngine(model.torchscript, CPU)


@pytest.fixture(scope="module")
def table(engine: Engine) -> Rows:
    """Each image's prediction when it is alone, ``float32[16, 4]``."""
    return np.concatenate([engine.predict([pack([number])])[0].copy() for number in range(16)])


@given(st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=40), min_size=1, max_size=8))
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_any_batch_of_odd_and_even_requests_gives_each_its_own(
    engine: Engine, table: Rows, kind: type[bytes], batch: list[list[int]]
) -> None:
    requests = [Images(kind(pack(numbers).packed), len(numbers)) for numbers in batch]
    answers = engine.predict(requests)
    assert requests == [pack(numbers) for numbers in batch]
    for numbers, answer in zip(batch, answers, strict=True):
        assert answer.shape == (len(numbers), 4)
        assert agree(answer, table[numbers])
        # Whether bits are the same depends on the processor, and the engine says so.
        assert answer.tobytes() == table[numbers].tobytes() or not engine.batch_invariant


def test_no_shape_but_the_proven_ones_is_ever_run(
    engine: Engine, reference: Exact, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: set[int] = set()
    honest = engine._forward

    def recording(packed: bytearray, chunks: Sequence[Chunk]) -> Rows:
        sizes.update(images for _, images in chunks)
        return honest(packed, chunks)

    monkeypatch.setattr(engine, "_forward", recording)
    engine.warm_up(reference)
    assert sizes == set(engine.batch_sizes)
    for count in (1, 15, 17, 1000, LARGEST_BATCH - 1, LARGEST_BATCH + 1, 3 * LARGEST_BATCH):
        engine.predict([pack(np.zeros(count, np.uint8))])
    assert sizes == set(engine.batch_sizes)


@given(st.integers(1, 3 * LARGEST_BATCH))
def test_a_cpu_computes_few_images_besides_those_asked_for(onnx_engine: Engine, count: int) -> None:
    chunks, end = onnx_engine._chunks((count + 1) // 2), 0
    for start, images in chunks:
        assert start == end
        end = start + images // 2
    assert 0 <= 2 * end - count <= max(15, min(count // 4, MOST_PADDING))


ALL, FOURTH, LAST = slice(None), slice(3, 4), slice(-1, None)


@pytest.mark.parametrize(("number", "by"), [(0, 2e-6), (15, -2e-6), (7, float("nan"))])
def test_warm_up_rejects_a_wrong_reference(
    cold_engine: TorchEngine, reference: Exact, number: int, by: float
) -> None:
    wrong = reference.copy()
    wrong[number, 3] += by
    with pytest.raises(ParityError) as caught:
        cold_engine.warm_up(wrong)
    assert "deviation" in caught.value.got
    assert "1e-06" in caught.value.expected


@pytest.mark.parametrize(
    ("place", "by"),
    [
        *(((0, 16, ALL), 5e-7), ((1, 16, LAST), 5e-7), ((0, 64, FOURTH), 5e-7)),
        *(((1, 64, ALL), 5e-7), ((0, LARGEST_BATCH, LAST), 5e-7)),
        *(((1, LARGEST_BATCH, FOURTH), 5e-7), ((1, LARGEST_BATCH, LAST), 2e-6)),
        ((0, 16, LAST), 2e-6),
        *(((1, 64, LAST), np.nan), ((0, LARGEST_BATCH, LAST), np.nan)),
    ],
)
def test_other_bits_are_reported_within_the_tolerance_and_rejected_beyond(
    cold_engine: TorchEngine, reference: Exact, place: tuple[int, int, slice], by: float
) -> None:
    number, size, rows = place
    before, lane = list(cold_engine.batch_sizes), cold_engine._lanes[number]
    honest = lane._network

    def spoiled(pixels: torch.Tensor) -> torch.Tensor:
        answer = honest(pixels).clone()
        if len(pixels) == size:
            answer[rows] += by
        return answer

    lane._network = spoiled
    if not by < 1e-6:
        with pytest.raises(ParityError, match="deviation"):
            cold_engine.warm_up(reference)
        return
    assert 4e-7 < cold_engine.warm_up(reference) <= 1e-6
    assert cold_engine.batch_sizes == before
    assert cold_engine.batch_invariant is False


@pytest.mark.parametrize("keep", [0, 1, 100, -100])
def test_a_damaged_model_or_one_of_another_kind_is_an_error(model: Model, keep: int) -> None:
    for content in (model.onnx[:keep], model.torchscript):
        with pytest.raises(ArtifactError, match="file: "):
            OnnxEngine(content)
    for content in (model.torchscript[:keep], model.onnx):
        with pytest.raises(ArtifactError, match="file: "):
            TorchEngine(content, CPU)


@pytest.mark.parametrize(
    ("gpus", "gpu_id", "device"),
    [
        *((0, gpu_id, CPU) for gpu_id in (0, "0", 3, None)),
        *((2, 1, "cuda:1"), (2, "0", "cuda:0"), (2, 5, "cuda:1"), (2, None, CPU)),
    ],
)
def test_the_device_is_the_assigned_gpu_or_the_cpu(
    gpus: int, gpu_id: int | str | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(devices, "GPU_NODES", ())
    assert pick_device(gpu_id) == CPU
    monkeypatch.setattr(devices, "GPU_NODES", ("/dev/null",))  # a driver, and maybe no device
    assert pick_device(gpu_id) == device
