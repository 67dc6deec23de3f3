"""Every error that a caller can get, and the only table of codes and HTTP statuses.

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

A server rejects requests with the errors that have a ``status``; the client raises the same ones.
``code`` is the class's name, and stable. ``retryable`` says whether sending the request again can
help.
"""

from __future__ import annotations

import re
from typing import ClassVar

KINDS: dict[str, type[DiagonalFlipError]] = {}
"""Every kind of error, by its code."""


class DiagonalFlipError(Exception):
    """Base class of all errors; says what was wrong, what is expected and what to do.

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
    """The body has no images."""


class InvalidPadding(InvalidPayload):
    """Packed images with a wrong ``padding`` parameter or padding bits that are not zero."""


class InvalidJson(InvalidPayload):
    """The body is not JSON, or not JSON of the documented shape."""


class InvalidImage(InvalidPayload):
    """An image in the request is not four pixels of 0 or 1."""


class InvalidText(InvalidPayload):
    """A text has a character that is neither a hex digit nor white space."""


class InvalidPicture(InvalidPayload):
    """The body is not a complete black and white picture of even width and height."""


class InvalidTensor(InvalidPayload):
    """An Open Inference Protocol request without exactly the documented tensor."""


class InvalidRequest(DiagonalFlipError, status=400):
    """The request is not HTTP/1.1, or uses it in a way that this server does not support."""


class MethodNotAllowed(InvalidRequest, status=405):
    """The path is served, but not with this method."""


class RequestTimeout(InvalidRequest, status=408, retryable=True):
    """The complete request did not arrive in time."""


class RequestTooLarge(InvalidRequest, status=413):
    """The body is longer than any valid request."""


class TargetTooLong(InvalidRequest, status=414):
    """The request's target is longer than any valid one."""


class MisdirectedRequest(InvalidRequest, status=421):
    """``Host`` is not a name of this server; a web page may have sent the request."""


class HeadersTooLarge(InvalidRequest, status=431):
    """The headers are longer than any client needs."""


class UnsupportedTransfer(InvalidRequest, status=501):
    """``Transfer-Encoding`` names a coding that the server does not support."""


class NotAuthorized(DiagonalFlipError, status=401):
    """The token is missing or unknown; a gateway's 403 is this too."""


class TokenRevoked(NotAuthorized, status=403):
    """The token was revoked."""


class InsecureConnection(NotAuthorized, status=403):
    """The connection is not encrypted, so tokens are not accepted on it."""


class ModelNotFound(DiagonalFlipError, status=404):
    """There is no such model, version or path."""


class NotAcceptable(DiagonalFlipError, status=406):
    """``Accept`` allows no media type that the server can send."""


class ModelConflict(DiagonalFlipError, status=409):
    """The version's state does not allow the change: the default cannot be unloaded."""


class ModelMismatch(DiagonalFlipError, status=412):
    """``If-Match`` names another model than the one that is served."""


class TooManyImages(DiagonalFlipError, status=413):
    """The request has more images than ``limit``."""

    limit: int = 0

    @classmethod
    def of(cls, count: int, limit: int) -> TooManyImages:
        """Return the error for ``count`` images if ``limit`` are allowed."""
        error = cls(f"{count} images", f"at most {limit}", "send them in several requests")
        error.limit = limit
        return error


class UnsupportedMediaType(DiagonalFlipError, status=415):
    """``Content-Type`` names a form that the server does not support."""


class UnsupportedCoding(UnsupportedMediaType):
    """``Content-Encoding`` names a compression that the server does not support."""


class RateLimited(DiagonalFlipError, status=429, retryable=True):
    """The token was used too often; ``retry_after_s`` is what the server asked for."""

    retry_after_s: float = 0.0


class InternalError(DiagonalFlipError, status=500, retryable=True):
    """The server failed to answer a valid request."""


class ServerOverloaded(DiagonalFlipError, status=503, retryable=True):
    """The server has no room for the request; ``retry_after_s`` is what it asked for."""

    retry_after_s: float = 0.0


class ArtifactError(DiagonalFlipError, status=422):
    """A file of the model is missing, damaged or of the wrong shape."""


class ParityError(ArtifactError):
    """The model's predictions differ from the reference by more than the tolerance."""


class SettingError(DiagonalFlipError):
    """A setting cannot be used, or this machine lacks what it needs."""


class StartError(DiagonalFlipError):
    """The server could not start serving."""


class ClientError(DiagonalFlipError):
    """The client was set up wrongly, or got no usable answer."""


class ConnectionFailed(ClientError, retryable=True):
    """There was no connection, or it was lost before the answer was complete."""


class DeadlineExceeded(ClientError):
    """No complete answer came within the deadline, retries included."""


class InvalidAnswer(ClientError):
    """The answer has another status, form, length or meaning than was asked for."""


class ModelDoesNotFlip(ClientError):
    """Flips were asked for, but the version that answered does not flip all 16 images."""


def _sentence(text: str) -> str:
    """Capitalize the first word, unless it is a name such as ``padding=4``, and add a full stop."""
    word = text.partition(" ")[0]
    start = text[0].upper() if word.isalpha() and word.islower() else text[0]
    return f"{start}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")
