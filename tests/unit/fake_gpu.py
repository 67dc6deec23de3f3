"""A GPU whose work is done as late as it may be: not before somebody waits for it.

What is queued on a stream runs in order when the stream is waited for, and reads its inputs only
then. Whoever does not wait, waits for another stream, or writes into what is still to be read,
gets wrong answers. A captured graph runs the recorded operations again, into the same memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, BinaryIO

import torch
from torch.utils._python_dispatch import TorchDispatchMode

COPY = torch.ops.aten.copy_.default


class FakeStream:
    """Work in order, done when it is waited for."""

    def __init__(self) -> None:
        self.queue: list[Callable[[], object]] = []
        self.lost = False

    def wait_stream(self, other: FakeStream) -> None:
        """The default stream has nothing to wait for."""

    def synchronize(self) -> None:
        if self.lost:
            raise RuntimeError("CUDA error: device lost")
        with torch.inference_mode():
            while self.queue:
                self.queue.pop(0)()


class FakeGraph:
    """Operations on the memory that they were captured with."""

    def __init__(self) -> None:
        self.stream = FakeStream()
        self.recorded: list[tuple[Any, Any, Any, torch.Tensor]] = []

    def replay(self) -> None:
        self.stream.queue.extend(lambda step=step: _again(*step) for step in self.recorded)  # type: ignore[misc]


def _again(operation: Any, given: Any, named: Any, made: torch.Tensor) -> None:
    made.copy_(operation(*given, **named))


class _Queueing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Copies that nobody waits for are queued; what else runs has to see them done."""

    def __init__(self, stream: FakeStream) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._stream = stream

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is COPY and args[2:] == (True,):
            target, source = args[:2]
            self._stream.queue.append(lambda: target.copy_(source))
            return target
        if func not in VIEWS:
            self._stream.synchronize()
        return func(*args, **(kwargs or {}))


VIEWS = {torch.ops.aten.slice.Tensor, torch.ops.aten.view.default, torch.ops.aten.unsqueeze.default}


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, graph: FakeGraph) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func not in VIEWS:
            self._graph.recorded.append((func, args, kwargs or {}, made))
        return made


class Cuda:
    """The part of ``torch.cuda`` that an engine uses.

    Attributes:
        streams: All that were made.
        captures: Whether graphs can be captured.
    """

    CUDAGraph = FakeGraph

    def __init__(self) -> None:
        self.streams: list[FakeStream] = []
        self.captures = True

    def Stream(self, _device: object) -> FakeStream:  # noqa: N802 - its name
        self.streams.append(FakeStream())
        return self.streams[-1]

    def default_stream(self, _device: object) -> FakeStream:
        return FakeStream()

    def get_device_name(self, _device: object) -> str:
        return "a late GPU"

    @contextlib.contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        with _Queueing(stream):
            yield

    @contextlib.contextmanager
    def graph(self, graph: FakeGraph, stream: FakeStream) -> Iterator[None]:
        if not self.captures:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        graph.stream = stream
        with _Recording(graph):
            yield


class Torch(ModuleType):
    """``torch``, with all memory on the host and ``cuda`` as above."""

    def __init__(self, cuda: Cuda) -> None:
        super().__init__("torch")
        self.cuda = cuda
        self.jit = self

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def zeros(self, *shape: int, **_: object) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.uint8)

    def arange(self, *ends: int, **_: object) -> torch.Tensor:
        return torch.arange(*ends, dtype=torch.uint8)

    def empty(self, shape: tuple[int, ...], **_: object) -> torch.Tensor:
        """Make floats on the host, all wrong values, so that reading too early shows."""
        return torch.full(shape, torch.nan, dtype=torch.float32)

    def frombuffer(self, buffer: Any, dtype: torch.dtype) -> torch.Tensor:
        """Which can be pinned here."""
        made = torch.frombuffer(buffer, dtype=dtype)
        made.pin_memory = made.clone  # type: ignore[assignment, method-assign]
        return made

    def load(self, file: BinaryIO, **_: object) -> Any:
        return torch.jit.load(file)  # type: ignore[no-untyped-call]
