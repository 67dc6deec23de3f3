"""The engine of GPUs waits for everything that it has to, on a device that is as late as it can."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest

from diagonalflip.inference import torch_engine
from diagonalflip.inference.model import Model
from diagonalflip.inference.torch_engine import LARGEST_BATCH, Lane, TorchEngine
from diagonalflip.wire import pack, unpack
from tests.unit.fake_gpu import Cuda, FakeStream, Torch

TOLERANCE = 1e-6
SEEDS = itertools.count()
"""No two calls bring the same images."""

COUNTS = ([1], [17, 3], [LARGEST_BATCH + 1], [3 * LARGEST_BATCH + 7, 5], [5, 2 * LARGEST_BATCH])


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda()
    monkeypatch.setattr(torch_engine, "torch", Torch(cuda))
    return cuda


@pytest.fixture
def reference(model: Model) -> npt.NDArray[np.float64]:
    return np.array(json.loads(model.reference)["predictions"])


@pytest.fixture
def engine(cuda: Cuda, model: Model) -> TorchEngine:
    engine = TorchEngine(model.torchscript, "cuda:0")
    assert (engine.device_name, len(cuda.streams)) == ("a late GPU", engine.lanes)
    return engine


def deviation(engine: TorchEngine, counts: list[int], reference: npt.NDArray[np.float64]) -> float:
    """The largest of all answers to requests of so many images; NaN for memory never written."""
    random = np.random.default_rng(next(SEEDS))
    requests = [pack(random.integers(0, 16, count)) for count in counts]
    answers = engine.predict(requests)
    return float(
        max(
            np.abs(rows - reference[unpack(request)]).max()
            for request, rows in zip(requests, answers, strict=True)
        )
    )


@pytest.mark.parametrize("captures", [True, False], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_answers_are_right_however_late(
    engine: TorchEngine,
    cuda: Cuda,
    reference: npt.NDArray[np.float64],
    counts: list[int],
    captures: bool,
) -> None:
    cuda.captures = captures
    for _ in range(3):  # the first pass of a shape captures, later ones replay
        assert deviation(engine, counts, reference) <= TOLERANCE
        assert not any(stream.queue for stream in cuda.streams)


def test_warm_up_tries_every_shape_on_every_lane(
    engine: TorchEngine, reference: npt.NDArray[np.float64]
) -> None:
    assert engine.warm_up(reference) <= TOLERANCE
    assert [set(lane._passes) for lane in engine._lanes] == [set(engine.batch_sizes)] * 2


@contextmanager
def without(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> Iterator[None]:
    with monkeypatch.context() as changed:
        changed.setattr(owner, name, lambda *_: None)
        yield


@pytest.mark.parametrize(("owner", "name"), [(Lane, "wait"), (FakeStream, "synchronize")])
def test_the_device_shows_a_wait_that_is_missing(
    engine: TorchEngine,
    reference: npt.NDArray[np.float64],
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
) -> None:
    """Or the tests above would prove nothing."""
    assert deviation(engine, COUNTS[3], reference) <= TOLERANCE
    with without(monkeypatch, owner, name):
        assert not deviation(engine, [4 * LARGEST_BATCH], reference) <= TOLERANCE


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_a_launch_that_fails_leaves_nothing_behind(
    engine: TorchEngine,
    cuda: Cuda,
    reference: npt.NDArray[np.float64],
    monkeypatch: pytest.MonkeyPatch,
    turn: int,
) -> None:
    """Out of memory, say: the next batch is answered as if nothing had been."""
    honest, turns = Lane.launch, iter(range(3))

    def fail(lane: Lane, *given: object) -> None:
        if next(turns) == turn:
            raise RuntimeError("CUDA out of memory")
        honest(lane, *given)  # type: ignore[arg-type]

    with monkeypatch.context() as changed:
        changed.setattr(Lane, "launch", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            deviation(engine, [3 * LARGEST_BATCH], reference)
    assert not any(stream.queue for stream in cuda.streams)
    assert deviation(engine, COUNTS[3], reference) <= TOLERANCE


def test_a_device_that_is_lost_answers_nothing(
    engine: TorchEngine, cuda: Cuda, reference: npt.NDArray[np.float64]
) -> None:
    cuda.streams[1].lost = True
    with pytest.raises(RuntimeError, match="device lost"):
        deviation(engine, COUNTS[3], reference)
