"""Packed images in, predictions out, on one device, without any knowledge of servers.

The images of all requests are joined, unpacked on the device (a byte becomes eight float32 pixels),
and pass through the network in chunks. A CPU computes by ONNX Runtime, a GPU by TorchScript
(torch_engine.py); only there is torch imported, which takes 200 MiB and a second. Only the shapes
in ``Engine.batch_sizes`` run, and ``warm_up`` checks every image at every position of each, so it
covers everything that can happen later. A prediction must be within the tolerance; whether its bits
depend on its batch is only reported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime

from diagonalflip.errors import ArtifactError, ParityError
from diagonalflip.inference.devices import CPU
from diagonalflip.wire import PIXELS, TOLERANCE, Images, Predictions, pack

IMAGES_PER_BYTE = 2
LARGEST_BATCH = 1 << 17
"""Most images per forward pass; bounds its memory (2 MiB of pixels)."""

BATCH_SIZES = [
    *(16, 32, 48),
    *(step << bits for bits in range(4, 12) for step in (4, 5, 6, 7)),
    *(1 << 14, 1 << 15, 1 << 16, LARGEST_BATCH),
]
"""Images in each of the batch shapes that run on a CPU. Padding to powers of two would cost a fifth
of the computation's time."""

MOST_PADDING = 4096
"""Padding beyond which a smaller pass and another one take less time."""

OCTET_PIXELS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32)
"""The eight pixels of every byte, ``float32[256, 8]``."""

CYCLES = [bytes(pack((np.arange(16) + first) % 16).packed) for first in range(16)]
"""All 16 images in order, packed; each of the 16 rotations."""

Chunk = tuple[int, int]
"""Index of the chunk's first packed byte, and the batch size, in images, at which it runs."""


def open_engine(torchscript: bytes, onnx: bytes, device: str) -> Engine:
    """Open the engine for ``device``: with TorchScript for a GPU, with ONNX for a CPU.

    Raises:
        ArtifactError: The model cannot be loaded.
    """
    if device == CPU:
        return OnnxEngine(onnx)
    from diagonalflip.inference.torch_engine import TorchEngine  # noqa: PLC0415 - torch is for GPUs

    return TorchEngine(torchscript, device)


class Engine(ABC):
    """A loaded network on one device. Not thread-safe: one engine per worker.

    Attributes:
        device, device_name, runtime: The device, its model name, and the library that computes.
        batch_sizes: Images in each of the batch shapes that run, ascending.
        batch_invariant: Whether the bits of a prediction are the same in every batch and at every
            position; set by ``warm_up``.
        lanes: Number of chunks that are computed at the same time.

    Args:
        batch_sizes: Ascending multiples of 16.
        most_padding: Most images of padding, if there is a smaller shape.
    """

    device: str = CPU
    device_name: str = "CPU"
    runtime: str
    lanes = 1

    def __init__(self, batch_sizes: Sequence[int], most_padding: int) -> None:
        self.batch_invariant = False
        self.batch_sizes, self._most_padding = list(batch_sizes), most_padding

    @property
    def device_bytes(self) -> int | None:
        """Bytes used on a GPU; None without a GPU."""
        return None

    def predict(self, requests: Sequence[Images]) -> list[Predictions]:
        """Predict all requests in one pass.

        Returns:
            For each request, in order, ``float32[count, 4]``: a view of memory that the next call
            overwrites.
        """
        if not requests:
            return []
        packed = bytearray().join([request.packed for request in requests])
        rows = self._forward(packed, self._chunks(len(packed)))
        answers = []
        start = 0
        for request in requests:
            answers.append(rows[start : start + request.count])
            start += IMAGES_PER_BYTE * len(request.packed)
        return answers

    def warm_up(self, reference: npt.NDArray[np.float64]) -> float:
        """Run every batch shape on every lane, and check every image at every position in it.

        Args:
            reference: ``float64[16, 4]``, the parity report's predictions by image number.

        Returns:
            The largest absolute deviation from ``reference``.

        Raises:
            ParityError: A prediction deviates by more than ``TOLERANCE``, or is NaN.
        """
        seen = self._predict_all(self.batch_sizes[0], first=0)[0].copy()
        deviation = np.abs(seen - reference).max()
        self.batch_invariant = True
        for first in range(16):
            bits = np.roll(seen, -first, axis=0).view(np.uint64)
            for size in self.batch_sizes:
                rows = self._predict_all(size, first)
                if not (rows.view(np.uint64) == bits).all():
                    self.batch_invariant = False
                    wanted = np.roll(reference, -first, axis=0)
                    deviation = np.maximum(deviation, np.abs(rows - wanted).max())  # keeps a NaN
        if not deviation <= TOLERANCE:
            raise ParityError(
                f"a deviation of {deviation:.3g} on {self.device}",
                f"at most {TOLERANCE:g} from the parity report",
                "export again; if it stays, this device computes wrongly",
            )
        return float(deviation)

    def _predict_all(self, size: int, first: int) -> Predictions:
        """Predict images ``first``, ``first + 1``, ... modulo 16, in a batch of ``size`` per lane.

        Returns:
            ``float32[size * lanes / 16, 16, 4]``.
        """
        packed = bytearray(CYCLES[first] * (size * self.lanes // 16))
        step = size // IMAGES_PER_BYTE
        chunks = [(start, size) for start in range(0, len(packed), step)]
        return self._forward(packed, chunks).reshape(-1, 16, PIXELS)

    def _chunks(self, total_bytes: int) -> list[Chunk]:
        """Cut packed bytes into chunks; the last one runs in the smallest shape that holds it."""
        sizes, chunks, start = self.batch_sizes, list[Chunk](), 0
        while start < total_bytes:
            images = IMAGES_PER_BYTE * (total_bytes - start)
            place = bisect_left(sizes, images)
            if place == len(sizes) or sizes[place] - images > self._most_padding:
                place -= 1
            chunks.append((start, sizes[place]))
            start += sizes[place] // IMAGES_PER_BYTE
        return chunks

    @abstractmethod
    def _forward(self, packed: bytearray, chunks: Sequence[Chunk]) -> Predictions:
        """Run packed bytes chunk by chunk; return ``float32[2 * bytes, 4]`` on the host."""


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    """Open an ONNX model on the CPU, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxEngine(Engine):
    """The network on the CPU, by ONNX Runtime on one thread.

    Args:
        model: ONNX with input ``pixels`` ``float32[n, 4 * k]`` and output ``prediction`` of the
            same shape: k images side by side, a power of two.
    """

    runtime = "ONNX Runtime"

    def __init__(self, model: bytes) -> None:
        super().__init__(BATCH_SIZES, MOST_PADDING)
        try:
            self._session = open_session(model)
        except Exception as error:  # ONNX Runtime's errors have no other common base
            got = f"the ONNX file: {str(error).splitlines()[0]}"
            raise ArtifactError(got, "ONNX", "run the export") from error
        self._images_per_row = self._session.get_inputs()[0].shape[1] // PIXELS
        self._pixels = np.zeros((LARGEST_BATCH // IMAGES_PER_BYTE, 2 * PIXELS), np.float32)
        self._answers = np.empty((LARGEST_BATCH, PIXELS), np.float32)
        self._bindings: dict[Chunk, onnxruntime.IOBinding] = {}

    def _forward(self, packed: bytearray, chunks: Sequence[Chunk]) -> Predictions:
        if room_for(chunks) > len(self._answers):
            self._answers = np.empty((room_for(chunks), PIXELS), np.float32)
            self._bindings.clear()
        octets = np.frombuffer(packed, np.uint8)
        for chunk in chunks:
            start, images = chunk
            part = octets[start : start + images // IMAGES_PER_BYTE]
            # Old pixels may follow in the last rows; they do no harm. Mode "clip" saves a copy.
            OCTET_PIXELS.take(part, axis=0, out=self._pixels[: len(part)], mode="clip")
            if chunk not in self._bindings:
                self._bindings[chunk] = self._bind(chunk)
            self._session.run_with_iobinding(self._bindings[chunk])
        return self._answers[: IMAGES_PER_BYTE * len(packed)]

    def _bind(self, chunk: Chunk) -> onnxruntime.IOBinding:
        """Bind a pass to the memory of pixels and predictions, which halves a small pass's time."""
        start, images = chunk
        shape = images // self._images_per_row, self._images_per_row * PIXELS
        answers = self._answers[IMAGES_PER_BYTE * start :]
        binding = self._session.io_binding()
        binding.bind_input("pixels", "cpu", 0, np.float32, shape, self._pixels.ctypes.data)
        binding.bind_output("prediction", "cpu", 0, np.float32, shape, answers.ctypes.data)
        return binding


def room_for(chunks: Sequence[Chunk]) -> int:
    """Return the number of predictions that the chunks give, including those of padding."""
    start, images = chunks[-1]
    return IMAGES_PER_BYTE * start + images
