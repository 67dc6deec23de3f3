"""Every error that a caller can meet, and the only table of codes and HTTP statuses.

    DiagonalFlipError
    ├── InvalidPayload
    │   └── EmptyPayload, InvalidPadding, InvalidJson, InvalidImage, InvalidText, InvalidPicture,
    │       InvalidTensor
    ├── InvalidRequest
    │   └── MethodNotAllowed, RequestTimeout, RequestTooLarge, TargetTooLong, MisdirectedRequest,
    │       HeadersTooLarge, UnsupportedTransfer
    ├── NotAuthorized
    │   └── TokenRevoked, InsecureConnection
    ├── UnsupportedMediaType
    │   └── UnsupportedCoding
    ├── ModelNotFound, NotAcceptable, ModelConflict, ModelMismatch, TooManyImages, RateLimited,
    │   InternalError, ServerOverloaded, SettingError, StartError
    ├── ArtifactError
    │   └── ParityError
    └── ClientError
        └── ConnectionFailed, DeadlineExceeded, InvalidAnswer, ModelDoesNotFlip

Those with a ``status`` are what a server rejects with; the client raises the same ones. ``code``
is stable, and the class's name. ``retryable`` says whether to send the same request again can help.
"""

from __future__ import annotations

import re
from typing import ClassVar

KINDS: dict[str, type[DiagonalFlipError]] = {}
"""Every kind of error, by its code."""


class DiagonalFlipError(Exception):
    """Base of all errors here; says what was wrong, what is expected and what to do.

    Args:
        got: What was wrong, as the start of a sentence: "pixel 2 in image 5".
        expected: What is allowed, as its object: "pixels 0 or 1".
        action: What the caller can do about it, as a command: "put it into a list".
    """

    code: ClassVar[str] = "diagonal_flip_error"
    status: ClassVar[int | None] = None
    retryable: ClassVar[bool] = False

    def __init_subclass__(cls, status: int | None = None, *, retryable: bool = False) -> None:
        cls.status, cls.retryable = status or cls.status, retryable
        cls.code = re.sub(r"\B(?=[A-Z])", "_", cls.__name__).lower()
        KINDS[cls.code] = cls

    def __init__(self, got: str, expected: str, action: str = "") -> None:
        self.got = got
        self.expected = expected
        self.action = action
        super().__init__(got, expected, action)

    def __str__(self) -> str:
        sentences = (self.got, f"Expected {self.expected}", self.action)
        return " ".join(_sentence(text) for text in sentences if text)

    def problem(self) -> dict[str, str | int]:
        """Return the error as an RFC 9457 problem object, ready for JSON."""
        fields: dict[str, str | int] = {
            "type": f"urn:diagonalflip:problem:{self.code}",
            "title": self.code.replace("_", " ").capitalize(),
            "status": self.status or 500,
            "detail": str(self),
            "code": self.code,
            "got": self.got,
            "expected": self.expected,
        }
        return fields | ({"action": self.action} if self.action else {})


class InvalidPayload(DiagonalFlipError, status=400):
    """The body cannot be read as images."""


class EmptyPayload(InvalidPayload):
    """The body holds no image."""


class InvalidPadding(InvalidPayload):
    """Packed images with a wrong ``padding`` parameter or padding bits that are not zero."""


class InvalidJson(InvalidPayload):
    """The body is not JSON, or not JSON of the documented shape."""


class InvalidImage(InvalidPayload):
    """One image of the request is not four pixels of 0 or 1."""


class InvalidText(InvalidPayload):
    """Text images hold a character that is neither a hex digit nor white space."""


class InvalidPicture(InvalidPayload):
    """The body is no whole 1-bit picture of even width and height."""


class InvalidTensor(InvalidPayload):
    """An Open Inference Protocol request without exactly the documented tensor."""


class InvalidRequest(DiagonalFlipError, status=400):
    """Not HTTP/1.1, or not in a way that this server speaks it."""


class MethodNotAllowed(InvalidRequest, status=405):
    """The path is served, but not with this method."""


class RequestTimeout(InvalidRequest, status=408, retryable=True):
    """The request did not arrive as a whole in time."""


class RequestTooLarge(InvalidRequest, status=413):
    """The body is longer than the largest request can be in any form."""


class TargetTooLong(InvalidRequest, status=414):
    """The request's target is longer than any of ours."""


class MisdirectedRequest(InvalidRequest, status=421):
    """``Host`` is a name by which this port is not reached, as a web page's request has it."""


class HeadersTooLarge(InvalidRequest, status=431):
    """The headers are longer than any client needs."""


class UnsupportedTransfer(InvalidRequest, status=501):
    """``Transfer-Encoding`` names a coding that the server does not undo."""


class NotAuthorized(DiagonalFlipError, status=401):
    """The token is missing or unknown; a gateway's 403 is this too."""


class TokenRevoked(NotAuthorized, status=403):
    """The token was good once, and is not any more."""


class InsecureConnection(NotAuthorized, status=403):
    """Others can read what is sent on this connection, so a token on it counts for nothing."""


class ModelNotFound(DiagonalFlipError, status=404):
    """The server knows no model of that name."""


class NotAcceptable(DiagonalFlipError, status=406):
    """No form of answer that the server has satisfies ``Accept``."""


class ModelConflict(DiagonalFlipError, status=409):
    """The version's state does not allow what was asked: the default cannot be unloaded."""


class ModelMismatch(DiagonalFlipError, status=412):
    """``If-Match`` names a model other than the one that is served."""


class TooManyImages(DiagonalFlipError, status=413):
    """The request holds more images than one request may carry: ``limit``."""

    limit: int = 0

    @classmethod
    def of(cls, count: int, limit: int) -> TooManyImages:
        """Make the error for ``count`` images where ``limit`` are allowed."""
        error = cls(f"{count} images", f"at most {limit}", "send them in several requests")
        error.limit = limit
        return error


class UnsupportedMediaType(DiagonalFlipError, status=415):
    """``Content-Type`` names a form of images that the server does not read."""


class UnsupportedCoding(UnsupportedMediaType):
    """``Content-Encoding`` names a compression that the server does not undo."""


class RateLimited(DiagonalFlipError, status=429, retryable=True):
    """The token has sent too much; ``retry_after_s`` is what the server asked for."""

    retry_after_s: float = 0.0


class InternalError(DiagonalFlipError, status=500, retryable=True):
    """The server failed at a request that was well-formed."""


class ServerOverloaded(DiagonalFlipError, status=503, retryable=True):
    """The queue is full, or no worker is up; ``retry_after_s`` is what the server asked for."""

    retry_after_s: float = 0.0


class ArtifactError(DiagonalFlipError, status=422):
    """A file of the model is missing, changed or of the wrong shape."""


class ParityError(ArtifactError):
    """The model's answers differ from the reference by more than the tolerance."""


class SettingError(DiagonalFlipError):
    """A setting cannot be used, or the machine lacks what it asks for."""


class StartError(DiagonalFlipError):
    """The server was started, and did not come to answer."""


class ClientError(DiagonalFlipError):
    """The client was set up wrongly, or got no answer that it could use."""


class ConnectionFailed(ClientError, retryable=True):
    """There was no connection, or it was lost before a whole answer."""


class DeadlineExceeded(ClientError):
    """No whole answer came within the deadline, retries included."""


class InvalidAnswer(ClientError):
    """The answer has another status, form, length or meaning than was asked for."""


class ModelDoesNotFlip(ClientError):
    """Flips were asked for, and the version that answered flips fewer than all 16 images."""


def _sentence(text: str) -> str:
    """Capitalize the first word, unless it is a name such as ``padding=4``, and add a full stop."""
    word = text.partition(" ")[0]
    start = text[0].upper() if word.isalpha() and word.islower() else text[0]
    return f"{start}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")
