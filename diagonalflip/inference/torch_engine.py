"""The engine of a GPU: TorchScript, unpacking and copies on streams of its own."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from diagonalflip.errors import ArtifactError
from diagonalflip.inference.engine import IMAGES_PER_BYTE, Chunk, Engine, room_for
from diagonalflip.inference.lane import Lane
from diagonalflip.wire import PIXELS

LARGEST_BATCH = 1 << 18
"""4 MiB of answers, whose copy outlasts the next launch."""


def count_gpus() -> int:
    """GPUs that torch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


class TorchEngine(Engine):
    """The network on a GPU, by TorchScript.

    Args:
        model: TorchScript of ``float32[n, 4]`` -> ``float32[n, 4]``.
        device: Where to unpack and compute; the CPU works too.

    Raises:
        ArtifactError: ``model`` cannot be loaded.
    """

    runtime = "TorchScript"
    lanes = 2

    def __init__(self, model: bytes, device: str) -> None:
        super().__init__(LARGEST_BATCH)
        # cuBLAS reads this when it is first used; without it, it may not be deterministic:
        # https://docs.pytorch.org/docs/stable/notes/randomness.html
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_deterministic_debug_mode("error")
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        # Every worker would start a thread a core, and together they only disturb each other.
        torch.set_num_threads(1)
        self.device, place = device, torch.device(device)
        self._on_gpu = place.type == "cuda"
        if self._on_gpu:
            self.device_name = torch.cuda.get_device_name(place)
        try:
            self._network = torch.jit.load(io.BytesIO(model), map_location=place)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(
                f"the TorchScript file: {str(error).splitlines()[0]}",
                "TorchScript",
                "run the export",
            ) from error
        self._rows = torch.empty((0, PIXELS), dtype=torch.float32, pin_memory=False)
        self._lanes = [Lane(self._run_network, place, LARGEST_BATCH) for _ in range(self.lanes)]

    @property
    def device_bytes(self) -> int | None:
        """Memory of the GPU that is taken."""
        return int(torch.cuda.memory_reserved(self.device)) if self._on_gpu else None

    def _forward(self, packed: bytearray, chunks: Sequence[Chunk]) -> npt.NDArray[np.float32]:
        room = room_for(chunks)
        if room > len(self._rows):
            shape = room, PIXELS
            self._rows = torch.empty(shape, dtype=torch.float32, pin_memory=self._on_gpu)
        octets = torch.frombuffer(packed, dtype=torch.uint8)
        if self._on_gpu:
            octets = octets.pin_memory()
        try:
            for turn, (start, images) in enumerate(chunks):
                first = IMAGES_PER_BYTE * start
                part = octets[start : start + images // IMAGES_PER_BYTE]
                self._lanes[turn % self.lanes].launch(part, self._rows[first : first + images])
        finally:  # also of a failure: what is queued would write into the next call's rows
            for lane in self._lanes[: len(chunks)]:
                lane.wait()
        return self._rows[: IMAGES_PER_BYTE * len(packed)].numpy()

    def _run_network(self, pixels: torch.Tensor) -> torch.Tensor:
        predictions: torch.Tensor = self._network(pixels)
        return predictions
