"""The engine for a GPU: TorchScript, with unpacking and copies on streams of its own.

Each lane queues its work on its own stream: the copy of packed bytes from pinned memory, the pass
through the network, and the copy of the predictions into pinned memory. Two lanes take turns, so
that the copy of one chunk's predictions (128 times the size of its packed bytes) overlaps with the
computation of the next chunk. A pass is half a dozen small kernels; as a CUDA graph, one per batch
size, they are launched together: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Sequence

import torch

from diagonalflip.errors import ArtifactError
from diagonalflip.inference.engine import IMAGES_PER_BYTE, Chunk, Engine, room_for
from diagonalflip.wire import PIXELS, Predictions

LARGEST_BATCH = 1 << 18
"""4 MiB of predictions, whose copy takes longer than the next launch."""

BATCH_SIZES = [1 << bits for bits in range(4, LARGEST_BATCH.bit_length())]

WARM_UP_PASSES = 3
"""Before a capture: TorchScript optimizes its code in the first runs, cuBLAS takes a workspace."""

Network = Callable[[torch.Tensor], torch.Tensor]
"""``float32[n, 4]`` pixels to predictions of that shape."""

logger = logging.getLogger(__name__)


def count_gpus() -> int:
    """Return the number of GPUs that torch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


class TorchEngine(Engine):
    """The network on a GPU, by TorchScript that maps ``float32[n, 4]`` to ``float32[n, 4]``.

    The device may be the CPU as well.

    Raises:
        ArtifactError: ``model`` cannot be loaded.
    """

    runtime = "TorchScript"
    lanes = 2

    def __init__(self, model: bytes, device: str) -> None:
        super().__init__(BATCH_SIZES, most_padding=LARGEST_BATCH)
        # cuBLAS reads this when it is first used; without it, it may not be deterministic:
        # https://docs.pytorch.org/docs/stable/notes/randomness.html
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_deterministic_debug_mode("error")
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        # Otherwise every worker starts a thread per core, and they slow each other down.
        torch.set_num_threads(1)
        self.device, place = device, torch.device(device)
        self._on_gpu = place.type == "cuda"
        if self._on_gpu:
            self.device_name = torch.cuda.get_device_name(place)
        try:
            network = torch.jit.load(io.BytesIO(model), map_location=place)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            got = f"the TorchScript file: {str(error).splitlines()[0]}"
            raise ArtifactError(got, "TorchScript", "run the export") from error
        self._rows = torch.empty((0, PIXELS), dtype=torch.float32, pin_memory=False)
        self._lanes = [Lane(network, place) for _ in range(self.lanes)]

    @property
    def device_bytes(self) -> int | None:
        """Bytes used on the GPU; None on the CPU."""
        return int(torch.cuda.memory_reserved(self.device)) if self._on_gpu else None

    def _forward(self, packed: bytearray, chunks: Sequence[Chunk]) -> Predictions:
        if room_for(chunks) > len(self._rows):
            shape = room_for(chunks), PIXELS
            self._rows = torch.empty(shape, dtype=torch.float32, pin_memory=self._on_gpu)
        octets = torch.frombuffer(packed, dtype=torch.uint8)
        if self._on_gpu:
            octets = octets.pin_memory()
        try:
            for turn, (start, images) in enumerate(chunks):
                first = IMAGES_PER_BYTE * start
                part = octets[start : start + images // IMAGES_PER_BYTE]
                self._lanes[turn % self.lanes].launch(part, self._rows[first : first + images])
        finally:  # also after a failure: queued work would write into the next call's rows
            for lane in self._lanes[: len(chunks)]:
                lane.wait()
        return self._rows[: IMAGES_PER_BYTE * len(packed)].numpy()


class Lane:
    """Buffers on one device for one chunk of images at a time; a CPU computes at once."""

    def __init__(self, network: Network, device: torch.device) -> None:
        self._network = network
        half = LARGEST_BATCH // IMAGES_PER_BYTE
        self._packed = torch.zeros(half, dtype=torch.uint8, device=device)
        self._shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=device)
        self._passes: dict[int, Callable[[], torch.Tensor]] = {}
        self._stream = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # The default stream copies weights and buffers to the device.
            self._stream.wait_stream(torch.cuda.default_stream(device))

    @torch.inference_mode()
    def launch(self, packed: torch.Tensor, rows: torch.Tensor) -> None:
        """Queue one chunk.

        Args:
            packed: ``uint8[n / 2]`` on the host, pinned if the device is a GPU.
            rows: ``float32[n, 4]`` likewise, for the predictions. Neither may be used
                before ``wait`` has returned.
        """
        size = len(rows)
        with torch.cuda.stream(self._stream):  # None keeps the current stream
            self._packed[: len(packed)].copy_(packed, non_blocking=True)
            if size not in self._passes:
                self._passes[size] = self._record(size)
            rows.copy_(self._passes[size](), non_blocking=True)

    def wait(self) -> None:
        """Wait for the predictions of all queued chunks."""
        if self._stream is not None:
            self._stream.synchronize()

    def _record(self, size: int) -> Callable[[], torch.Tensor]:
        """Make a pass over the lane's first ``size`` images; on a GPU, as a CUDA graph."""

        def run() -> torch.Tensor:
            packed = self._packed[: size // IMAGES_PER_BYTE]
            bits = (packed.unsqueeze(1) >> self._shifts) & 1
            return self._network(bits.to(torch.float32).view(-1, PIXELS))

        if self._stream is None:
            return run
        for _ in range(WARM_UP_PASSES):
            run()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                predictions = run()
        except RuntimeError as error:  # correct without a graph too, but slower
            logger.warning("no CUDA graph for %d images: %s", size, str(error).splitlines()[0])
            return run

        def replay() -> torch.Tensor:
            graph.replay()
            return predictions

        return replay
