"""Predictions without a server: a worker's engine in this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diagonalflip.client import _answers
from diagonalflip.client._chunks import ChunkLimit, chunks
from diagonalflip.client._images import Packed, packed_images
from diagonalflip.client._operations import Operations
from diagonalflip.errors import ArtifactError
from diagonalflip.inference.devices import pick_device
from diagonalflip.inference.encoders import encode_flips
from diagonalflip.inference.engine import LARGEST_BATCH, open_engine
from diagonalflip.server.models import store
from diagonalflip.server.settings import PACKAGED
from diagonalflip.wire import PIXELS, Images, to_pixels, unpack

CHUNK_IMAGES = 4 * LARGEST_BATCH
"""Images per pass through the engine, whose predictions take 8 MiB."""


class Predictor(Operations):
    """Predicts in this process, on one core or one GPU. Thread-safe: one call computes at a time.

    It loads one version and checks its predictions of all 16 images, as a worker does before it
    serves.

    Args:
        version: The model's version; None takes the first one.
        model_store: Folder that ``make export`` filled; None takes the versions in the package.
        device: ``cpu``, or ``cuda:N``, which needs torch; None takes a GPU if there is one.

    Attributes:
        version: The model's version.
        flips: How many of the 16 images that version flips.
        device: The device that computes.
        largest_deviation: Of the 16 images' predictions on that device, from the exact ones.

    Raises:
        ModelNotFound: There is no such version.
        ArtifactError: It is damaged, or the device cannot load it.
        ParityError: The device predicts wrongly.
    """

    def __init__(
        self,
        version: str | None = None,
        *,
        model_store: str | os.PathLike[str] | None = None,
        device: str | None = None,
    ) -> None:
        artifacts = store.load(Path(model_store or PACKAGED), version)
        self.version = artifacts.version
        self.flips = artifacts.flips
        self.device = pick_device(0) if device is None else device
        files = artifacts.files
        try:
            self._engine = open_engine(files["torchscript"], files["onnx"], self.device)
            self.largest_deviation = self._engine.warm_up(np.array(artifacts.reference))
        except (ImportError, RuntimeError, AssertionError) as error:  # torch's
            got = f"device {self.device!r} cannot load it: {error}"
            raise ArtifactError(got, "cpu, or cuda:N of a GPU that torch finds") from error
        self._locks: dict[int, threading.Lock] = {}  # by process: a fork may copy a locked one

    def __exit__(self, *_: object) -> None:
        """Do nothing: there is nothing open."""

    def flip_packed(self, packed: Packed, count: int | None = None) -> bytes:
        """Return the flipped images, packed like ``packed``.

        Raises:
            EmptyPayload, InvalidPadding: As ``Client.predict_packed``.
            ModelDoesNotFlip: The version flips fewer than all 16 images.
        """
        return self._flip_packed(packed_images(packed, count))

    def predict_chunks(
        self, pieces: Iterable[Packed], *, count: int | None = None
    ) -> Generator[npt.NDArray[np.float32], None, None]:
        """Yield predictions of any number of images; see ``Operations``."""
        for images in chunks(pieces, ChunkLimit(CHUNK_IMAGES), count):
            yield self._predict(images)

    def _predict(
        self, images: Images, out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        if out is None:
            out = np.empty((images.count, PIXELS), np.float32)
        _answers.check_out(out, images.count)
        first = 0
        with closing(self._parts(images)) as parts:
            for part, rows in parts:
                out[first : first + part.count] = rows
                first += part.count
        return out

    def _flip(self, images: Images) -> npt.NDArray[np.uint8]:
        return to_pixels(unpack(Images(self._flip_packed(images), images.count)))

    def _flip_packed(self, images: Images) -> bytes:
        if self.flips != 16:
            raise _answers.does_not_flip(self.version, self.flips)
        with closing(self._parts(images)) as parts:
            return b"".join(encode_flips(part, rows)[0] for part, rows in parts)

    def _parts(
        self, images: Images
    ) -> Generator[tuple[Images, npt.NDArray[np.float32]], None, None]:
        """Yield ``CHUNK_IMAGES`` at a time, with predictions that the next part overwrites.

        Close it: while it waits, which the traceback of Ctrl-C may make it do, it has the lock.
        """
        with self._locks.setdefault(os.getpid(), threading.Lock()):
            for first in range(0, images.count, CHUNK_IMAGES):
                packed = images.packed[first // 2 : (first + CHUNK_IMAGES) // 2]
                part = Images(packed, min(CHUNK_IMAGES, images.count - first))
                yield part, self._engine.predict([part])[0]
