"""The engine of GPUs waits for everything that it has to, on a device that is as late as it can."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from diagonalflip.inference import torch_engine
from diagonalflip.inference.model import Model
from diagonalflip.inference.torch_engine import LARGEST_BATCH, Lane, TorchEngine
from diagonalflip.wire import pack, unpack
from tests.unit.fake_gpu import Cuda, FakeStream, Torch

TOLERANCE = 1e-6
COUNTS = ([1], [17, 3], [LARGEST_BATCH + 1], [3 * LARGEST_BATCH + 7, 5], [5, 2 * LARGEST_BATCH])

Exact = npt.NDArray[np.float64]
Deviation = Callable[[list[int]], float]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda()
    monkeypatch.setattr(torch_engine, "torch", Torch(cuda))
    return cuda


@pytest.fixture
def reference(model: Model) -> Exact:
    return np.array(json.loads(model.reference)["predictions"])


@pytest.fixture
def engine(cuda: Cuda, model: Model) -> TorchEngine:
    engine = TorchEngine(model.torchscript, "cuda:0")
    assert (engine.device_name, len(cuda.streams)) == ("a late GPU", engine.lanes)
    return engine


@pytest.fixture
def deviation(engine: TorchEngine, reference: Exact) -> Deviation:
    """The largest of all answers to requests of so many images; NaN for memory never written."""
    random = np.random.default_rng(1)  # no two calls bring the same images

    def largest(counts: list[int]) -> float:
        requests = [pack(random.integers(0, 16, count)) for count in counts]
        answers = np.concatenate(engine.predict(requests))
        wanted = np.concatenate([reference[unpack(request)] for request in requests])
        return float(np.abs(answers - wanted).max())

    return largest


@pytest.mark.parametrize("captures", [True, False], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_answers_are_right_however_late(
    deviation: Deviation, cuda: Cuda, counts: list[int], captures: bool
) -> None:
    cuda.captures = captures
    for _ in range(3):  # the first pass of a shape captures, later ones replay
        assert deviation(counts) <= TOLERANCE
        assert not any(stream.queue for stream in cuda.streams)


def test_warm_up_tries_every_shape_on_every_lane(engine: TorchEngine, reference: Exact) -> None:
    assert engine.warm_up(reference) <= TOLERANCE
    assert [set(lane._passes) for lane in engine._lanes] == [set(engine.batch_sizes)] * 2


@pytest.mark.parametrize(("owner", "name"), [(Lane, "wait"), (FakeStream, "synchronize")])
def test_the_device_shows_a_wait_that_is_missing(
    deviation: Deviation, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    """Or the tests above would prove nothing."""
    assert deviation(COUNTS[3]) <= TOLERANCE
    monkeypatch.setattr(owner, name, lambda *_: None)
    assert not deviation([4 * LARGEST_BATCH]) <= TOLERANCE


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_a_launch_that_fails_leaves_nothing_behind(
    deviation: Deviation, cuda: Cuda, monkeypatch: pytest.MonkeyPatch, turn: int
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
            deviation([3 * LARGEST_BATCH])
    assert not any(stream.queue for stream in cuda.streams)
    assert deviation(COUNTS[3]) <= TOLERANCE


def test_a_device_that_is_lost_answers_nothing(deviation: Deviation, cuda: Cuda) -> None:
    cuda.streams[1].lost = True
    with pytest.raises(RuntimeError, match="device lost"):
        deviation(COUNTS[3])
