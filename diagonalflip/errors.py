"""Every error that a caller can meet, and the only table of codes and HTTP statuses.

    DiagonalFlipError
    ├── InvalidPayload            400  the request's body cannot be read as images
    │   ├── EmptyPayload          400  there is no image in it
    │   ├── InvalidPadding        400  packed images: bad ``padding`` or non-zero padding bits
    │   ├── InvalidJson           400  the body is not JSON of the documented shape
    │   ├── InvalidImage          400  one image is not four pixels of 0 or 1
    │   ├── InvalidText           400  a character that is no hex digit
    │   ├── InvalidPicture        400  not a 1-bit picture of even width and height
    │   └── InvalidTensor         400  Open Inference Protocol: not the documented tensor
    ├── InvalidRequest            400  not HTTP/1.1 as it should be
    │   ├── MethodNotAllowed      405  another method than GET, HEAD, POST or PUT
    │   ├── RequestTimeout        408  the request took too long to arrive
    │   ├── RequestTooLarge       413  the body is longer than any form of the largest request
    │   ├── TargetTooLong         414  the request's target is too long
    │   ├── MisdirectedRequest    421  ``Host`` names another host, as a web page's request does
    │   ├── HeadersTooLarge       431  the headers are too long
    │   └── UnsupportedTransfer   501  ``Transfer-Encoding`` is another than ``chunked``
    ├── NotAuthorized             401  the token is missing or unknown
    │   ├── TokenRevoked          403  the token was good once
    │   └── InsecureConnection    403  others can read what is sent here, and the token with it
    ├── ModelNotFound             404  the server knows no model of that name
    ├── NotAcceptable             406  no form of answer satisfies ``Accept``
    ├── ModelConflict             409  the version's state does not allow it: it is the default
    ├── ModelMismatch             412  ``If-Match`` names a model that is not served
    ├── TooManyImages             413  more images than one request may carry
    ├── UnsupportedMediaType      415  ``Content-Type`` is none of ours
    │   └── UnsupportedCoding     415  ``Content-Encoding`` is none of ours
    ├── RateLimited               429  more requests than the token may send
    ├── InternalError             500  our fault: the request was well-formed
    ├── ServerOverloaded          503  the queue is full, or no worker is up
    ├── ArtifactError             422  a file of the model is missing, changed or wrong
    │   └── ParityError           422  the model's answers differ from the reference
    ├── SettingError               -   the server cannot be started with these settings
    ├── StartError                 -   the server was started and did not come to answer
    └── ClientError                -   the client cannot be used so, or got no usable answer
        ├── ConnectionFailed       -   no connection, or it was lost before a whole answer
        ├── DeadlineExceeded       -   no whole answer within the deadline
        ├── InvalidAnswer          -   an answer that is not what was asked for
        └── ModelDoesNotFlip       -   flips were asked of a version that flips fewer than all

Those with a ``status`` are what a server rejects with; the client raises the same ones. ``code``
is stable, and the class's name. ``retryable`` says whether to send the same request again can help.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar


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

    def __init__(self, got: str, expected: str, action: str = "") -> None:
        self.got = got
        self.expected = expected
        self.action = action
        super().__init__(got, expected, action)

    def __str__(self) -> str:
        sentences = (self.got, f"Expected {self.expected}", self.action)
        return " ".join(_sentence(text) for text in sentences if text)

    def problem(self) -> dict[str, str | int]:
        """The error as an RFC 9457 problem object, ready for JSON."""
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


class HeadersTooLarge(InvalidRequest, status=431):
    """The headers are longer than any client needs."""


class UnsupportedTransfer(InvalidRequest, status=501):
    """``Transfer-Encoding`` names a coding that the server does not undo."""


class NotAuthorized(DiagonalFlipError, status=401):
    """The token is missing or unknown; a gateway's 403 is this too."""


class TokenRevoked(NotAuthorized, status=403):
    """The token was good once, and is not any more."""


class MisdirectedRequest(InvalidRequest, status=421):
    """``Host`` is a name by which this port is not reached."""


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
    """The request holds more images than one request may carry.

    Args:
        got: How many there are.
        expected: How many there may be.
        action: What the caller can do about it.
        limit: The same number of images, for programs.
    """

    def __init__(self, got: str, expected: str, action: str = "", limit: int = 0) -> None:
        super().__init__(got, expected, action)
        self.limit = limit
        self.args = (got, expected, action, limit)  # what a pickle is made from

    @classmethod
    def of(cls, count: int, limit: int) -> TooManyImages:
        """The error for ``count`` images where ``limit`` are allowed."""
        return cls(f"{count} images", f"at most {limit}", "send them in several requests", limit)


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


def _tree(kind: type[DiagonalFlipError]) -> Iterator[type[DiagonalFlipError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


KINDS = {kind.code: kind for kind in _tree(DiagonalFlipError)}
"""Every error above, by its code."""
