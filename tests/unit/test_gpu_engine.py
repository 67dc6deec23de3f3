"""The engine of GPUs waits for everything that it has to, on a device that is as late as it can."""

from __future__ import annotations

import itertools
import json

import numpy as np
import numpy.typing as npt
import pytest

from diagonalflip.inference import torch_engine
from diagonalflip.inference.model import Model
from diagonalflip.inference.torch_engine import LARGEST_BATCH, Lane, TorchEngine
from diagonalflip.wire import pack, unpack
from tests.unit.fake_gpu import Cuda, FakeStream, Torch

TOLERANCE = 1e-6
Exact = npt.NDArray[np.float64]
SEEDS = itertools.count()
"""No two calls bring the same images."""

COUNTS = ([1], [17, 3], [LARGEST_BATCH + 1], [3 * LARGEST_BATCH + 7, 5], [5, 2 * LARGEST_BATCH])


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


def deviation(engine: TorchEngine, counts: list[int], reference: Exact) -> float:
    """The largest of all answers to requests of so many images; NaN for memory never written."""
    random = np.random.default_rng(next(SEEDS))
    requests = [pack(random.integers(0, 16, count)) for count in counts]
    answers = engine.predict(requests)
    wanted = np.concatenate([reference[unpack(request)] for request in requests])
    return float(np.abs(np.concatenate(answers) - wanted).max())


@pytest.mark.parametrize("captures", [True, False], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_answers_are_right_however_late(
    engine: TorchEngine,
    cuda: Cuda,
    reference: Exact,
    counts: list[int],
    captures: bool,
) -> None:
    cuda.captures = captures
    for _ in range(3):  # the first pass of a shape captures, later ones replay
        assert deviation(engine, counts, reference) <= TOLERANCE
        assert not any(stream.queue for stream in cuda.streams)


def test_warm_up_tries_every_shape_on_every_lane(engine: TorchEngine, reference: Exact) -> None:
    assert engine.warm_up(reference) <= TOLERANCE
    assert [set(lane._passes) for lane in engine._lanes] == [set(engine.batch_sizes)] * 2


@pytest.mark.parametrize(("owner", "name"), [(Lane, "wait"), (FakeStream, "synchronize")])
def test_the_device_shows_a_wait_that_is_missing(
    engine: TorchEngine,
    reference: Exact,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
) -> None:
    """Or the tests above would prove nothing."""
    assert deviation(engine, COUNTS[3], reference) <= TOLERANCE
    monkeypatch.setattr(owner, name, lambda *_: None)
    assert not deviation(engine, [4 * LARGEST_BATCH], reference) <= TOLERANCE


@pytest.mark.parametrize("turn", [0, 1, 2])
def test_a_launch_that_fails_leaves_nothing_behind(
    engine: TorchEngine,
    cuda: Cuda,
    reference: Exact,
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
    engine: TorchEngine, cuda: Cuda, reference: Exact
) -> None:
    cuda.streams[1].lost = True
    with pytest.raises(RuntimeError, match="device lost"):
        deviation(engine, COUNTS[3], reference)
