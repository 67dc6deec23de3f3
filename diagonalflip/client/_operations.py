"""Operations that predict, with a server or without one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Self

import numpy as np
import numpy.typing as npt

from diagonalflip.client import _files
from diagonalflip.client._files import Destination, Source
from diagonalflip.client._images import ImagesLike, Packed, packed_images, to_images
from diagonalflip.wire import Images


class Operations(ABC):
    """Operations that ``Client`` and ``Predictor`` share."""

    def __enter__(self) -> Self:
        return self

    def predict(
        self, images: ImagesLike, *, out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return predictions, ``float32[n, 4]``, one row per image in the same order.

        Args:
            images: ``int[n]`` numbers 0-15; pixels ``uint8[n, 2, 2]``; an iterable of
                numbers, bit strings ``"1011"`` and 2x2 nested lists or arrays, also mixed;
                packed bytes (two images per byte); or ``Images``.
            out: An array ``float32[n, 4]`` for the predictions, which is returned. Using memory
                again makes large jobs faster. After an error its content is undefined.

        Raises:
            ClientError: ``out`` is no such array.
            EmptyPayload: There is no image.
            InvalidImage: An image is malformed; the first one is named.
        """
        return self._predict(to_images(images), out)

    def predict_packed(
        self,
        packed: Packed,
        count: int | None = None,
        *,
        out: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return predictions, ``float32[count, 4]``, of packed images.

        Args:
            packed: ``uint8[ceil(count / 2)]``, the first image of a byte in its high nibble.
            count: Images; None means two per byte.
            out: As in ``predict``.

        Raises:
            ClientError: ``out`` is no such array.
            EmptyPayload: There is no image.
            InvalidPadding: ``count`` does not fit, or an unused last nibble is not 0.
        """
        return self._predict(packed_images(packed, count), out)

    def flip(self, images: ImagesLike) -> npt.NDArray[np.uint8]:
        """Return the images flipped at the diagonal, ``uint8[n, 2, 2]``.

        Args:
            images: As in ``predict``, and the same errors.

        Raises:
            ModelDoesNotFlip: The version that answers does not flip all 16 images.
        """
        return self._flip(to_images(images))

    @abstractmethod
    def predict_chunks(
        self, pieces: Iterable[Packed], *, count: int | None = None
    ) -> Generator[npt.NDArray[np.float32], None, None]:
        """Yield predictions of any number of images, in order, with bounded memory.

        Args:
            pieces: Packed images in pieces of any sizes, which are read as answers are taken. Only
                the last nibble of all may be padding.
            count: Images in all; None means two per byte.

        Yields:
            ``float32[m, 4]``; m varies. ``close()`` ends requests that are still in flight.

        Raises:
            EmptyPayload: There is no image.
            InvalidPadding: As ``predict_packed``; raised after the last piece.
        """

    def predict_file(
        self,
        source: Source,
        destination: Destination,
        *,
        count: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Predict a file of packed images into a file of little-endian float32.

        Args:
            source: Path, or binary file, which is read from its current position.
            destination: Path, where the file appears only when it is complete; or binary file.
            count: Images in all; None means two per byte.
            progress: Called after every chunk with the number of images done so far.

        Returns:
            Number of images.

        Raises:
            EmptyPayload, InvalidPadding: As ``predict_chunks``.
            OSError: A file cannot be read or written.
        """
        done = 0
        with (
            _files.reading(source) as images,
            _files.writing(destination) as output,
            closing(self.predict_chunks(_files.pieces(images), count=count)) as answers,
        ):
            for predictions in answers:
                _files.write(output, predictions)
                done += len(predictions)
                if progress is not None:
                    progress(done)
        return done

    @abstractmethod
    def _predict(
        self, images: Images, out: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[np.float32]:
        """Return predictions, in ``out`` if given."""

    @abstractmethod
    def _flip(self, images: Images) -> npt.NDArray[np.uint8]:
        """Return the images flipped."""
