"""A server's URL, the headers of requests, and the forms of answers."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import certifi
import numpy as np
import numpy.typing as npt

from diagonalflip._loopback import is_loopback
from diagonalflip.errors import ClientError
from diagonalflip.wire import JSON, OCTETS, PACKED, PIXELS, Images, to_pixels, unpack, with_padding

TRUST = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables that name certificates to trust, the first one that is set."""

LONGEST_PROBLEM_BYTES = 1 << 16
"""Bytes that are read of an answer that is not a prediction."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response; ``headers`` ignores case, and ``body`` is bytes or a caller's memory."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """A form of answer; there is one object of each.

    Attributes:
        media_type: What to accept.
        shape: Of one image's answer.
        dtype: Of the decoded answer.
        length_bytes: Body's length for a number of images.
        decode: Body and number of images to ``dtype[n, *shape]``, writable.
        is_plain: Whether a decoded answer has the same bytes as the body.
    """

    media_type: str
    shape: tuple[int, ...]
    dtype: type[Any]
    length_bytes: Callable[[int], int]
    decode: Callable[[Any, int], npt.NDArray[Any]]
    is_plain: bool = False

    def content_type(self, count: int) -> str:
        """Return the media type, with the padding of ``count`` images if this form is packed."""
        return with_padding(self.media_type, count) if self is FLIPS else self.media_type


def _floats(body: bytearray | memoryview, _count: int) -> npt.NDArray[np.float32]:
    """Return the numbers where they lie; whoever gets them may change them."""
    return np.frombuffer(body, dtype="<f4").astype(np.float32, copy=False).reshape(-1, PIXELS)


def _flips(body: bytes, count: int) -> npt.NDArray[np.uint8]:
    return to_pixels(unpack(Images(body, count)))


def _octets(body: bytes, _count: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(body, np.uint8)


PREDICTIONS = Form(
    *(OCTETS, (PIXELS,), np.float32, lambda count: 4 * PIXELS * count, _floats),
    is_plain=sys.byteorder == "little",
)
FLIPS = Form(PACKED, (2, 2), np.uint8, lambda count: (count + 1) // 2, _flips)

DESCRIPTION = Form(JSON, (), object, lambda _: LONGEST_PROBLEM_BYTES, _octets)
"""The answer to a request without images: what is served."""
NO_IMAGES = Images(b"", 0)


class Endpoint:
    """URL and headers of requests for predictions.

    Args:
        url: Of the server, without a path of ours: ``http://host:port``.
        model: Its name.
        token: For ``Authorization: Bearer``.
        model_digest: The only model whose answers are wanted.
        version: Of the model; None asks the server's default.

    Attributes:
        base: URL of the server.
        url: Where to ask for predictions.
        authorization: The header with the token, if there is one.
        is_loopback: Whether that is this machine, which no proxy and no ``~/.netrc`` knows.
        shown: ``base`` for messages, without a password.

    Raises:
        ClientError: ``url`` is no http or https URL, or ``token`` fits into no header.
    """

    def __init__(
        self,
        url: str,
        model: str,
        token: str | None,
        model_digest: str | None = None,
        version: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClientError(f"url={url!r}", "a URL such as http://127.0.0.1:8080")
        self._has_tls = parts.scheme == "https"
        self.base = url.rstrip("/")
        self.shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
        self.url = f"{self.base}/predictions/{quote(model, safe='')}"
        if version is not None:
            self.url += f"/{quote(version, safe='')}"
        self.is_loopback = is_loopback(parts.hostname)
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise ClientError(
                "the token has characters that no header takes",
                "visible characters of ASCII",
                "strip it: a file's last line ends with a line feed",
            )
        self.authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
        # The lengths that are checked are those of bodies that no one has compressed.
        self._headers = {"Accept-Encoding": "identity"}
        if model_digest is not None:
            self._headers["If-Match"] = f'"{model_digest}"'

    def trusted(self, verify: bool | str) -> bool | str:
        """Return which certificates to trust: ``verify``, but for True a file's or folder's path.

        The variables count that ``requests`` and Python's ``ssl`` know, so that both clients trust
        the same; without them it is certifi's file. Without TLS nothing is looked up.

        Raises:
            ClientError: There is no such path.
        """
        if not self._has_tls:
            return verify
        source, path = "verify", verify
        if verify is True:
            set_ones = [(name, os.environ[name]) for name in TRUST if os.environ.get(name)]
            source, path = set_ones[0] if set_ones else ("certifi", certifi.where())
        if isinstance(path, str) and not Path(path).exists():
            raise ClientError(f"{source}={path!r}", "a file or folder of certificates, PEM")
        return path

    def headers(self, images: Images, form: Form) -> dict[str, str]:
        """Return the headers of a request, all but the token."""
        headers = self._headers | {"Accept": form.media_type}
        if images.count:
            headers["Content-Type"] = with_padding(OCTETS, images.count)
        return headers


class Copied:
    """What is pickled and copied by the arguments that it was made with, the token among them.

    A copy has connections of its own.
    """

    _made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the arguments."""
        made = super().__new__(cls)
        made._made_with = args, kwargs
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what makes a copy."""
        args, kwargs = self._made_with
        return partial(type(self), *args, **kwargs), ()


def check_positive(**settings: float) -> None:
    """Raise ClientError for the first setting that is not above 0."""
    for name, value in settings.items():
        if not value > 0:
            raise ClientError(f"{name}={value}", "more than 0")
