"""Workloads for every server, and judges of their answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from diagonalflip.wire import FLOAT16, OCTETS, PACKED, TOLERANCE

PAYLOADS = 5
"""Different payloads a workload sends in turn, so that no server can answer from memory."""


Predictions = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Workload:
    """One kind of load."""

    name: str  # as on the command line
    images: int  # images per request, even
    connections: int  # kept-alive connections, each with one request under way
    accept: str = OCTETS  # media type of the answer
    # Whether only this product has such answers, or the load says little of others.
    ours_only: bool = False
    # Whether each request has another ``traceparent``, so that no two heads are alike.
    traced: bool = False

    @property
    def answer_bytes(self) -> int:
        """Bytes of one answer's body."""
        return {OCTETS: 16, FLOAT16: 8}.get(self.accept, 0) * self.images or self.images // 2


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W1", 2, 1),
        Workload("W2", 2, 64),
        Workload("W2-traced", 2, 64, ours_only=True, traced=True),
        Workload("W3", 1_024, 16),
        Workload("W4", 131_072, 4),
        Workload("W4-float16", 131_072, 4, FLOAT16, ours_only=True),
        Workload("W4-packed", 131_072, 4, PACKED, ours_only=True),
    )
}
QUARTER = Workload("W4/4", 32_768, 4)
"""A quarter of W4's images: answers of 512 KiB, which TorchServe's port takes."""

SWEEP = [Workload(f"W2@{count}", 2, count, ours_only=True) for count in (1, 8, 64, 256, 1_000)]


@dataclass
class Exchange:
    """A request's body, and the judge of its answers."""

    workload: Workload
    payload: bytes
    # ONNX Runtime's, of which answers are within 1e-6. None for a server that computes nothing:
    # of its answers the length is judged.
    reference: Predictions | None
    seen: bytes = b""  # the first answer that was right

    def judge(self, body: bytes) -> bool:
        """Return whether ``body`` is right."""
        if self.seen == body:
            return True
        if len(body) != self.workload.answer_bytes:
            return False
        right = self.reference is None or self._agrees(body, self.reference)
        self.seen = self.seen or (body if right else b"")
        return right

    def _agrees(self, body: bytes, reference: Predictions) -> bool:
        if self.workload.accept == PACKED:
            # A prediction within the tolerance of 0.5 may fall on either side.
            bits = np.unpackbits(np.frombuffer(body, np.uint8)).reshape(-1, 4)
            sure = np.abs(reference - 0.5) > TOLERANCE
            return bool(((bits == (reference >= 0.5)) | ~sure).all())
        halved = self.workload.accept == FLOAT16
        got = np.frombuffer(body, "<f2" if halved else "<f4").reshape(-1, 4).astype(np.float64)
        # float16 keeps 11 bits, so rounding to nearest is off by 2**-11 of the value at most.
        limit = TOLERANCE + (np.abs(reference) * 2.0**-11 if halved else 0.0)
        return bool((np.abs(got - reference) <= limit).all())


def load_reference(onnx: Path) -> Callable[[bytes], Predictions]:
    """Return ONNX Runtime on the CPU: ``float32[n, 4]`` of packed images."""
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])

    def predict(packed: bytes) -> Predictions:
        bits = np.unpackbits(np.frombuffer(packed, np.uint8))
        return np.asarray(
            session.run(["prediction"], {"pixels": bits.reshape(-1, 4).astype(np.float32)})[0]
        )

    return predict


def exchanges(workload: Workload, predict: Callable[[bytes], Predictions] | None) -> list[Exchange]:
    """Return the payloads of a workload, the same in every run, each with a judge of its own."""
    payloads = [
        np.random.default_rng([workload.images, turn]).bytes(workload.images // 2)
        for turn in range(PAYLOADS)
    ]
    return [Exchange(workload, each, predict and predict(each)) for each in payloads]
