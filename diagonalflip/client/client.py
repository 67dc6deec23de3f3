"""The client: many images in, checked predictions out, in as many requests as it takes."""

from __future__ import annotations

from collections.abc import Generator, Iterable

import numpy as np
import numpy.typing as npt

from diagonalflip.client import _answers
from diagonalflip.client._answers import ServerInfo
from diagonalflip.client._chunks import chunks
from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import FLIPS, PREDICTIONS, Copied, Endpoint, Form, check_positive
from diagonalflip.client._images import Packed
from diagonalflip.client._jobs import Window, collect
from diagonalflip.client._join import MOST_IMAGES, ThreadJoiner
from diagonalflip.client._operations import Operations
from diagonalflip.client._sender import Answer, run
from diagonalflip.client._transport import Transport
from diagonalflip.wire import MODEL, Images

__all__ = ["Client", "ServerInfo"]


class Client(Copied, Operations):
    """Predicts over HTTP. Thread-safe; connections are kept open, so keep the client.

    Jobs of any size are cut into requests that the server accepts, and several are sent at once.
    Lost requests are sent again, because predictions have no side effects. Every answer is checked.

    Args:
        url: The server's URL: ``http://host:port``, with a path if a proxy adds one.
        model: Name of the model.
        version: The model's version; None asks for the server's default.
        deadline_s: Seconds that a call may take in all, including queueing and retries; ``inf`` for
            no limit. In ``predict_chunks`` and ``predict_file`` it is the time for each chunk.
        connections: Requests in flight at once: chunks of one call, or small calls of threads.
        token: Sent as ``Authorization: Bearer``.
        verify: Whether to check the server's certificate, or the path of a CA bundle.
        cert: Path of the client's certificate; a pair if the key is in another file.
        model_digest: SHA-256 (hex) of the only model that may answer.
        images_per_request: Images per chunk; lowered automatically to what the server accepts.
        join_calls: Whether small calls of several threads may be joined to one request, while
            ``connections`` requests are in flight. A token's rate counts requests.

    A client can be pickled and copied, for example for another process. The pickle contains the
    token.

    Raises:
        ClientError: A setting cannot be used.

    Besides their own errors, all methods that predict raise:
        ConnectionFailed: There is no connection, or it was lost repeatedly.
        DeadlineExceeded: No complete answer came within the deadline.
        ServerOverloaded: The server answered 503 until no time was left.
        NotAuthorized, ModelNotFound, ModelMismatch: The server rejected the request.
        InvalidAnswer: An answer has another form or length than was asked for.
        InternalError: The server failed repeatedly.
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
        endpoint = Endpoint(
            url, model, token, model_digest, version, verify, cert, images_per_request
        )
        self._limit = endpoint.limit
        self._transport = Transport(endpoint, connections)
        self._joiner = ThreadJoiner(self._transport.answer, self._limit, connections)
        self._most_joined = MOST_IMAGES if join_calls else 0
        self._deadline_s = deadline_s

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        self._transport.close()
        self._joiner.close()

    def predict_chunks(
        self, pieces: Iterable[Packed], *, count: int | None = None
    ) -> Generator[npt.NDArray[np.float32], None, None]:
        """Yield predictions of any number of images; see ``Operations``."""
        with Window(self._transport, PREDICTIONS, Deadline(self._deadline_s)) as window:
            for images in chunks(pieces, self._limit, count):
                for answer in window.add(images):
                    yield answer.result()
            for answer in window.rest():
                yield answer.result()

    def info(self) -> ServerInfo:
        """Return the server's model, device, workers and limits."""
        return run(self._transport.info(Deadline(self._deadline_s)))

    def wait_until_ready(self, timeout_s: float) -> None:
        """Block until the server predicts all 16 images, the same alone and together.

        Args:
            timeout_s: Seconds to wait at most.

        Raises:
            DeadlineExceeded: It did not in time; the error says how the last check failed.
            InvalidAnswer: It answers, but wrongly.
        """
        run(self._transport.wait_until_ready(timeout_s))

    def _predict(
        self, images: Images, out: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[np.float32]:
        if out is not None:
            _answers.check_out(out, images.count)
        return self._collect(images, PREDICTIONS, out)

    def _flip(self, images: Images) -> npt.NDArray[np.uint8]:
        return self._collect(images, FLIPS)

    def _collect(self, images: Images, form: Form, out: Answer | None = None) -> Answer:
        if images.count > min(self._limit.images, self._most_joined):
            return collect(self._transport, images, form, Deadline(self._deadline_s), out)
        answer = self._joiner.ask(images, form, Deadline(self._deadline_s))
        if out is None:
            return answer
        out[...] = answer
        return out
