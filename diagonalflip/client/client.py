"""The client: many images in, checked predictions out, in as many requests as it takes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Self

import numpy as np
import numpy.typing as npt

from diagonalflip.client import _answers, _files
from diagonalflip.client._answers import ServerInfo
from diagonalflip.client._chunks import ChunkLimit, chunks
from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import FLIPS, PREDICTIONS, Copied, Endpoint, Form, check_positive
from diagonalflip.client._files import Destination, Source
from diagonalflip.client._images import ImagesLike, Packed, packed_images, to_images
from diagonalflip.client._join_threads import MOST_IMAGES, ThreadJoiner
from diagonalflip.client._retry import until_ready
from diagonalflip.client._sender import Answer, Sender
from diagonalflip.client._transport import Transport
from diagonalflip.wire import MODEL, Images, pack

__all__ = ["Client", "ServerInfo"]


class Client(Copied):
    """Predicts over HTTP. Thread-safe; connections are kept, so keep the client too.

    Jobs of any size are cut into requests that the server takes; several travel at once;
    what was lost is sent again, for predictions have no effects; every answer is checked.

    Args:
        url: Of the server: ``http://host:port``, and a path if it is behind one.
        model: Name of the model.
        version: Of the model; None asks the server's default.
        deadline_s: Seconds that a call may take in all, queueing and retries included; ``inf`` has
            no end. In ``predict_chunks`` and ``predict_file``, whose work has no bound, each chunk
            has as many.
        connections: Requests in flight at once: chunks of one call, or small calls of threads.
        token: Sent as ``Authorization: Bearer``.
        verify: Whether to check the server's certificate, or the path of a CA bundle.
        cert: Path of the client's certificate; a pair if the key is in another file.
        model_digest: SHA-256 (hex) of the only model whose answers are wanted.
        images_per_request: Images per chunk; falls by itself to what the server takes.
        join_calls: Whether small calls of several threads may travel in one request, while as many
            requests as ``connections`` are in flight. A token's rate counts requests.

    A client can be pickled and copied, as for another process; what is pickled holds the token.

    Raises:
        ClientError: A setting cannot be used.

    All that predicts raises, besides what is said there:
        ConnectionFailed: No connection, or it was lost again and again.
        DeadlineExceeded: No whole answer within the deadline.
        ServerOverloaded: 503, until no time was left to send again.
        NotAuthorized, ModelNotFound, ModelMismatch: The server rejected the request.
        InvalidAnswer: An answer of another form or length than was asked for.
        InternalError: The server failed, again and again.
    """

    def __init__(  # noqa: PLR0913 - settings, by keyword
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        model: str = MODEL,
        version: str | None = None,
        deadline_s: float = 60.0,
        connections: int = 4,
        token: str | None = None,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        model_digest: str | None = None,
        images_per_request: int = 131_072,
        join_calls: bool = True,
    ) -> None:
        check_positive(
            deadline_s=deadline_s, connections=connections, images_per_request=images_per_request
        )
        endpoint = Endpoint(url, model, token, model_digest, version)
        self._transport = Transport(endpoint, verify, cert, connections)
        self._limit = ChunkLimit(images_per_request)
        self._sender = Sender(self._transport, self._limit, connections)
        self._joiner = ThreadJoiner(self._sender.answer, self._limit, connections)
        self._most_joined = MOST_IMAGES if join_calls else 0
        self._deadline_s = deadline_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; the client is of no use afterwards."""
        self._transport.close()
        self._joiner.close()

    def predict(
        self, images: ImagesLike, *, out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """Predictions, ``float32[n, 4]``, one row per image and in their order.

        Args:
            images: ``int[n]`` numbers 0-15; pixels ``uint8[n, 2, 2]``; an iterable of
                numbers, bit strings ``"1011"`` and 2x2 nested lists or arrays, in any
                mixture; packed bytes (two images each); or ``Images``.
            out: An array ``float32[n, 4]`` for the predictions, which is then returned. Memory that
                is used again makes large jobs faster. After an error its content is undefined.

        Raises:
            ClientError: ``out`` is no such array.
            EmptyPayload: There is no image.
            InvalidImage: An image is malformed; the first one is named.
        """
        return self._collect(to_images(images), PREDICTIONS, out)

    def predict_packed(
        self,
        packed: Packed,
        count: int | None = None,
        *,
        out: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Predictions, ``float32[count, 4]``, of packed images.

        Args:
            packed: ``uint8[ceil(count / 2)]``, the first image of a byte in its high nibble.
            count: Images; None means two per byte.
            out: As in ``predict``.

        Raises:
            ClientError: ``out`` is no such array.
            EmptyPayload: There is no image.
            InvalidPadding: ``count`` does not fit, or an unused last nibble is not 0.
        """
        return self._collect(packed_images(packed, count), PREDICTIONS, out)

    def flip(self, images: ImagesLike) -> npt.NDArray[np.uint8]:
        """The images flipped at the diagonal, ``uint8[n, 2, 2]``, by a version that can.

        Args:
            images: As in ``predict``, and the same errors.

        Raises:
            ModelDoesNotFlip: The version that answers flips fewer than all 16 images.
        """
        return self._collect(to_images(images), FLIPS)

    def predict_chunks(
        self, pieces: Iterable[Packed], *, count: int | None = None
    ) -> Generator[npt.NDArray[np.float32], None, None]:
        """Predictions of any number of images, in order, in memory that does not grow.

        Args:
            pieces: Packed images in pieces of any sizes; only the very last nibble of all
                may be padding. Read as answers are taken.
            count: Images in all; None means two per byte.

        Yields:
            ``float32[m, 4]``; m varies. ``close()`` ends what is still in flight.

        Raises:
            EmptyPayload: There is no image.
            InvalidPadding: As ``predict_packed``; known only after the last piece.
        """
        deadline = self._deadline()
        cut = chunks(iter(pieces), self._limit, count)
        return self._sender.stream(cut, PREDICTIONS, deadline, deadline.restarted)

    def predict_file(
        self,
        source: Source,
        destination: Destination,
        *,
        count: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Predicts a file of packed images into a file of little-endian float32.

        Args:
            source: Path, or binary file that is read from where it stands.
            destination: Binary file, or path: it appears there whole or not at all.
            count: Images in all; None means two per byte.
            progress: Called with the number of images done so far, after every chunk.

        Returns:
            Number of images.

        Raises:
            EmptyPayload, InvalidPadding: As ``predict_chunks``.
            OSError: A file cannot be read or written.
        """
        return _files.predict_file(self.predict_chunks, source, destination, count, progress)

    def info(self) -> ServerInfo:
        """Return the server's model, device, workers and limits."""
        return self._sender.info(self._deadline())

    def wait_until_ready(self, timeout_s: float) -> None:
        """Blocks until the server predicts all 16 images, the same alone and together.

        Args:
            timeout_s: Seconds to wait at most.

        Raises:
            DeadlineExceeded: It did not by then; says what came instead.
            InvalidAnswer: It answers, but wrongly.
        """

        def check(deadline: Deadline) -> None:
            def one(images: Images) -> npt.NDArray[np.float32]:
                return self._sender.once(images, PREDICTIONS, deadline)[1]

            _answers.check_all_16(one(pack(range(16))), [one(pack([n])) for n in range(16)])

        until_ready(check, timeout_s)

    def _collect(self, images: Images, form: Form, out: Answer | None = None) -> Answer:
        if out is not None:
            _answers.check_out(out, images.count)
        if images.count > min(self._limit.images, self._most_joined):
            return self._sender.collect(images, form, self._deadline(), out)
        answer = self._joiner.ask(images, form, self._deadline())
        if out is None:
            return answer
        out[...] = answer
        return out

    def _deadline(self) -> Deadline:
        return Deadline(self._deadline_s)
