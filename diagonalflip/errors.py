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
    ├── NotAcceptable             406  no form of answer satisfies ``Accept``
    ├── ModelMismatch             412  ``If-Match`` names a model that is not served
    ├── TooManyImages             413  more images than one request may carry
    ├── UnsupportedMediaType      415  ``Content-Type`` is none of ours
    │   └── UnsupportedCoding     415  ``Content-Encoding`` is none of ours
    ├── InvalidRequest            400  not HTTP/1.1 as it should be
    │   ├── MethodNotAllowed      405  another method than GET, HEAD, POST or PUT
    │   ├── RequestTimeout        408  the request took too long to arrive
    │   ├── RequestTooLarge       413  the body is longer than any form of the largest request
    │   └── HeadersTooLarge       431  the headers are too long
    ├── InternalError             500  our fault: the request was well-formed
    ├── ArtifactError              -   a file of the model is missing, changed or wrong
    │   └── CertificateError       -   the model's answers differ from the reference
    ├── SettingError               -   the server cannot be started with these settings
    ├── StartError                 -   the server was started and did not come to answer
    └── ClientError                -   the client cannot be used so, or got no usable answer
        ├── ConnectionFailed       -   no connection, or it was lost before a whole answer
        ├── DeadlineExceeded       -   no whole answer within the deadline
        ├── InvalidAnswer          -   an answer that is not what was asked for
        ├── NotAuthorized         401  the token is missing or unknown
        │   └── TokenRevoked      403  the token was good once
        ├── ModelNotFound         404  the server knows no model of that name
        ├── RateLimited           429  more requests than the token may send
        └── ServerOverloaded      503  the queue is full, or no worker is up

``status`` is None where an error never travels over HTTP. ``retryable`` says whether
sending the same request again can help.
"""

from __future__ import annotations

from typing import ClassVar


class DiagonalFlipError(Exception):
    """Base of all errors here; says what was got, what was expected and what to do.

    Args:
        got: What was found, short, in the caller's terms.
        expected: What would have been right.
        action: What the caller can do about it.
    """

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "Error"
    status: ClassVar[int | None] = None
    retryable: ClassVar[bool] = False

    def __init__(self, got: str, expected: str, action: str = "") -> None:
        self.got = got
        self.expected = expected
        self.action = action
        super().__init__(got, expected, action)

    def __str__(self) -> str:
        sentences = [f"got {self.got}; expected {self.expected}", self.action]
        return ". ".join(filter(None, sentences))

    def problem(self) -> dict[str, str | int]:
        """The error as an RFC 9457 problem object, ready for JSON."""
        fields: dict[str, str | int] = {
            "type": f"urn:diagonalflip:problem:{self.code}",
            "title": self.title,
            "status": self.status or 500,
            "detail": str(self),
            "code": self.code,
            "got": self.got,
            "expected": self.expected,
        }
        return fields | ({"action": self.action} if self.action else {})


class InvalidPayload(DiagonalFlipError):
    """The body cannot be read as images."""

    code = "invalid_payload"
    title = "Invalid payload"
    status = 400


class EmptyPayload(InvalidPayload):
    """The body holds no image."""

    code = "empty_payload"
    title = "Empty payload"


class InvalidPadding(InvalidPayload):
    """Packed images with a wrong ``padding`` parameter or padding bits that are not zero."""

    code = "invalid_padding"
    title = "Invalid padding"


class InvalidJson(InvalidPayload):
    """The body is not JSON, or not JSON of the documented shape."""

    code = "invalid_json"
    title = "Invalid JSON"


class InvalidImage(InvalidPayload):
    """One image of the request is not four pixels of 0 or 1."""

    code = "invalid_image"
    title = "Invalid image"


class InvalidText(InvalidPayload):
    """Text images hold a character that is neither a hex digit nor white space."""

    code = "invalid_text"
    title = "Invalid text"


class InvalidPicture(InvalidPayload):
    """The body is no whole 1-bit picture of even width and height."""

    code = "invalid_picture"
    title = "Invalid picture"


class InvalidTensor(InvalidPayload):
    """An Open Inference Protocol request without exactly the documented tensor."""

    code = "invalid_tensor"
    title = "Invalid tensor"


class NotAcceptable(DiagonalFlipError):
    """No form of answer that the server has satisfies ``Accept``."""

    code = "not_acceptable"
    title = "Not acceptable"
    status = 406


class ModelMismatch(DiagonalFlipError):
    """``If-Match`` names a model other than the one that is served."""

    code = "model_mismatch"
    title = "Model mismatch"
    status = 412


class TooManyImages(DiagonalFlipError):
    """The request holds more images than one request may carry.

    Args:
        got: How many there are.
        expected: How many there may be.
        action: What the caller can do about it.
        limit: The same number of images, for programs.
    """

    code = "too_many_images"
    title = "Too many images"
    status = 413

    def __init__(self, got: str, expected: str, action: str = "", limit: int = 0) -> None:
        super().__init__(got, expected, action)
        self.limit = limit
        self.args = (got, expected, action, limit)  # what a pickle is made from

    @classmethod
    def of(cls, count: int, limit: int) -> TooManyImages:
        """The error for ``count`` images where ``limit`` are allowed."""
        return cls(f"{count} images", f"at most {limit}", "send them in several requests", limit)


class UnsupportedMediaType(DiagonalFlipError):
    """``Content-Type`` names a form of images that the server does not read."""

    code = "unsupported_media_type"
    title = "Unsupported media type"
    status = 415


class UnsupportedCoding(UnsupportedMediaType):
    """``Content-Encoding`` names a compression that the server does not undo."""

    code = "unsupported_coding"
    title = "Unsupported content coding"


class InvalidRequest(DiagonalFlipError):
    """Not HTTP/1.1, or not in a way that this server speaks it."""

    code = "invalid_request"
    title = "Invalid request"
    status = 400


class MethodNotAllowed(InvalidRequest):
    """The path is served, but not with this method."""

    code = "method_not_allowed"
    title = "Method not allowed"
    status = 405


class RequestTimeout(InvalidRequest):
    """The request did not arrive as a whole in time."""

    code = "request_timeout"
    title = "Request timeout"
    status = 408


class RequestTooLarge(InvalidRequest):
    """The body is longer than the largest request can be in any form."""

    code = "request_too_large"
    title = "Request too large"
    status = 413


class HeadersTooLarge(InvalidRequest):
    """The headers are longer than any client needs."""

    code = "headers_too_large"
    title = "Headers too large"
    status = 431


class InternalError(DiagonalFlipError):
    """The server failed at a request that was well-formed."""

    code = "internal_error"
    title = "Internal error"
    status = 500
    retryable = True


class ArtifactError(DiagonalFlipError):
    """A file of the model is missing, changed or of the wrong shape."""

    code = "artifact_error"
    title = "Artifact error"


class CertificateError(ArtifactError):
    """The model's answers differ from the reference by more than the tolerance."""

    code = "certificate_error"
    title = "Certificate error"


class SettingError(DiagonalFlipError):
    """A setting cannot be used, or the machine lacks what it asks for."""

    code = "setting_error"
    title = "Setting error"


class StartError(DiagonalFlipError):
    """The server was started, and did not come to answer."""

    code = "start_error"
    title = "Start error"


class ClientError(DiagonalFlipError):
    """The client was set up wrongly, or got no answer that it could use."""

    code = "client_error"
    title = "Client error"


class ConnectionFailed(ClientError):
    """There was no connection, or it was lost before a whole answer."""

    code = "connection_failed"
    title = "Connection failed"
    retryable = True


class DeadlineExceeded(ClientError):
    """No whole answer came within the deadline, retries included."""

    code = "deadline_exceeded"
    title = "Deadline exceeded"


class InvalidAnswer(ClientError):
    """The answer has another status, form, length or meaning than was asked for."""

    code = "invalid_answer"
    title = "Invalid answer"


class NotAuthorized(ClientError):
    """The token is missing or unknown; a gateway's 403 is this too."""

    code = "not_authorized"
    title = "Not authorized"
    status = 401


class TokenRevoked(NotAuthorized):
    """The token was good once, and is not any more."""

    code = "token_revoked"
    title = "Token revoked"
    status = 403


class ModelNotFound(ClientError):
    """The server knows no model of that name."""

    code = "model_not_found"
    title = "Model not found"
    status = 404


class RateLimited(ClientError):
    """The token has sent too much; ``retry_after_s`` is what the server asked for."""

    code = "rate_limited"
    title = "Rate limited"
    status = 429
    retryable = True
    retry_after_s: float = 0.0


class ServerOverloaded(ClientError):
    """The queue is full, or no worker is up; ``retry_after_s`` is what the server asked for."""

    code = "server_overloaded"
    title = "Server overloaded"
    status = 503
    retryable = True
    retry_after_s: float = 0.0
