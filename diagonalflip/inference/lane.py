"""One lane to a device: packed images in, TorchScript's predictions out, without waiting.

On a GPU everything of a lane is queued on a stream of its own: the copy of packed bytes from
pinned memory, the pass through the network, and the copy of its answers into pinned memory.
Two lanes in turn keep the copy of one chunk's answers (128 times as long as its packed bytes)
under the computation of the next. A pass is half a dozen small kernels; as a CUDA graph, one for
each batch size, the host launches them at once:
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from diagonalflip.inference.engine import IMAGES_PER_BYTE
from diagonalflip.wire import PIXELS

WARM_UP_PASSES = 3
"""Before a capture: TorchScript settles on its code in its first runs, cuBLAS on a workspace."""

Network = Callable[[torch.Tensor], torch.Tensor]

logger = logging.getLogger(__name__)


class Lane:
    """Buffers on one device for one chunk of images at a time.

    Args:
        network: ``float32[n, 4]`` -> ``float32[n, 4]``, on ``device``.
        device: Where to unpack and compute; on a CPU nothing is queued.
        largest_batch: Images of the largest chunk.
    """

    def __init__(self, network: Network, device: torch.device, largest_batch: int) -> None:
        self._network = network
        self._packed = torch.zeros(
            largest_batch // IMAGES_PER_BYTE, dtype=torch.uint8, device=device
        )
        self._shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=device)
        self._passes: dict[int, Callable[[], torch.Tensor]] = {}
        self._stream = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            # Weights and buffers come by the default stream, which this one ignores otherwise.
            self._stream.wait_stream(torch.cuda.default_stream(device))

    @torch.inference_mode()
    def launch(self, packed: torch.Tensor, rows: torch.Tensor) -> None:
        """Queues one chunk, behind what was queued before.

        Args:
            packed: ``uint8[n / 2]`` on the host, pinned if the device is a GPU.
            rows: ``float32[n, 4]`` likewise, for the answers. Neither may be touched
                before ``wait`` has returned.
        """
        size = len(rows)
        with torch.cuda.stream(self._stream):  # None changes nothing
            self._packed[: len(packed)].copy_(packed, non_blocking=True)
            if size not in self._passes:
                self._passes[size] = self._record(size)
            rows.copy_(self._passes[size](), non_blocking=True)

    def wait(self) -> None:
        """Blocks until all answers are there."""
        if self._stream is not None:
            self._stream.synchronize()

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """``uint8[n]`` to pixels ``float32[2 * n, 4]``, on the lane's device."""
        bits = (packed.unsqueeze(1) >> self._shifts) & 1
        return bits.to(torch.float32).view(-1, PIXELS)

    def _record(self, size: int) -> Callable[[], torch.Tensor]:
        """A pass over the lane's first ``size`` images; on a GPU, as a CUDA graph."""

        def run() -> torch.Tensor:
            return self._network(self.unpack(self._packed[: size // IMAGES_PER_BYTE]))

        if self._stream is None:
            return run
        for _ in range(WARM_UP_PASSES):
            run()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                predictions = run()
        except RuntimeError as error:  # as right, and slower
            logger.warning("no CUDA graph for %d images: %s", size, str(error).splitlines()[0])
            return run

        def replay() -> torch.Tensor:
            graph.replay()
            return predictions

        return replay
