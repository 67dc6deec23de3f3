"""A server's URL, the headers of requests, and the forms of answers."""

from __future__ import annotations

import numbers
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import certifi
import numpy as np
import numpy.typing as npt
import requests
from requests.utils import prepend_scheme_if_needed, select_proxy
from urllib3.util import parse_url

from diagonalflip._loopback import is_loopback
from diagonalflip.client._chunks import ChunkLimit
from diagonalflip.errors import ClientError
from diagonalflip.wire import JSON, OCTETS, PACKED, PIXELS, Images, to_pixels, unpack, with_padding

TRUST = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables that name trusted certificates; the first one that is set counts."""

LONGEST_PROBLEM_BYTES = 1 << 16
"""Most bytes that are read of an answer other than predictions."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response; ``headers`` ignore case, and ``body`` is bytes or a caller's memory."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """A form of answer; each form has only one object.

    Attributes:
        media_type: The value of ``Accept``.
        bits: Bits per image in the body.
        shape: Shape per image in the decoded answer.
        dtype: Of the decoded answer.
    """

    media_type: str
    bits: int = 0
    shape: tuple[int, ...] = ()
    dtype: type[Any] = object

    def content_type(self, count: int) -> str:
        """Return the media type of an answer for ``count`` images, with padding if it has some."""
        return with_padding(self.media_type, count) if self is FLIPS else self.media_type

    def length_bytes(self, count: int) -> int:
        """Return the body's length for a number of images; for a description, the maximum."""
        return (self.bits * count + 7) // 8 if count else LONGEST_PROBLEM_BYTES

    def decode(self, body: Any, count: int) -> npt.NDArray[Any]:
        """Return ``dtype[count, *shape]``, writable; predictions are a view of ``body``."""
        if self is FLIPS:
            return to_pixels(unpack(Images(body, count)))
        return np.frombuffer(body, "<f4").astype(np.float32, copy=False).reshape(-1, PIXELS)


PREDICTIONS = Form(OCTETS, 32 * PIXELS, (PIXELS,), np.float32)
FLIPS = Form(PACKED, PIXELS, (2, 2), np.uint8)

DESCRIPTION = Form(JSON)
"""The answer to a request without images: what is served."""
NO_IMAGES = Images(b"", 0)


class Endpoint:
    """URL, headers, certificates, proxies and size of requests for predictions.

    ``requests`` reads the environment's settings once, for both clients. The arguments are those
    of ``Client``.

    Attributes:
        base: URL of the server, without a password.
        place: The same for error messages, with the proxy if there is one.
        url: URL of the predictions.
        request: A request to ``base``, prepared by ``requests``.
        authorization: The header with the token, or with the password from URL or ``~/.netrc``.
        proxies: As in ``requests``. For this machine, neither these nor ``~/.netrc`` are used.
        proxy: The proxy for the URL, or None.
        tls: Checks certificates, also a proxy's; read once. None without TLS.
        version: The version that must answer, or None.
        limit: Images per request.

    Raises:
        ClientError: ``url`` is no http or https URL, ``token`` does not fit into a header, or a
            file of certificates cannot be used.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - settings, in the order of their use
        self,
        url: str,
        model: str,
        token: str | None,
        model_digest: str | None = None,
        version: str | None = None,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        images_per_request: int = 1,
    ) -> None:
        self.version, self.limit = version, ChunkLimit(images_per_request)
        if version is not None and not (isinstance(version, str) and version):
            raise ClientError(f"version={version!r}", "a name such as '2.0'")
        session = requests.Session()
        try:
            parts = urlsplit(url)
            session.trust_env = not is_loopback(parts.hostname or "")
            self.request = session.prepare_request(requests.Request("POST", url))
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts[3:] != ("", ""):
            raise ClientError(f"url={shown(url)!r}", "a URL such as http://127.0.0.1:8080")
        netloc = parts.netloc.rpartition("@")[2].replace("%25", "%")  # before a zone of IPv6
        self.base = parts._replace(netloc=netloc).geturl().rstrip("/")
        names = [model] if version is None else [model, version]
        self.url = "/".join([self.base, "predictions", *map(quoted, names)])
        settings = session.merge_environment_settings(self.base, {}, None, None, None)
        self.proxy = _proxy(select_proxy(self.base, settings["proxies"]))
        self.proxies = {"all": self.proxy} if self.proxy else {}
        self.place = f"{self.base} by proxy {shown(self.proxy)}" if self.proxy else self.base
        has_tls = any(url.startswith("https:") for url in (self.base, self.proxy or ""))
        self.tls = _trusted(verify, cert) if has_tls else None
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise ClientError(
                "the token has characters that no header takes",
                "visible characters of ASCII",
                "strip it: a file's last line ends with a line feed",
            )
        found = self.request.headers.get("Authorization") if token is None else f"Bearer {token}"
        self.authorization = {"Authorization": found} if found else {}
        # The length of an answer can be checked only if nothing compresses it.
        self._headers = {"Accept-Encoding": "identity"}
        if model_digest is not None:
            self._headers["If-Match"] = f'"{model_digest}"'

    def headers(self, images: Images, form: Form) -> dict[str, str]:
        """Return the headers of a request, without the token."""
        headers = self._headers | {"Accept": form.media_type}
        if images.count:
            headers["Content-Type"] = with_padding(OCTETS, images.count)
        return headers


def quoted(name: str) -> str:
    """Return a name as a segment of a path; for an invalid name, the server will answer 404."""
    return quote(name, safe="", errors="surrogatepass")


def shown(url: object) -> str:
    """Return a URL, with or without a scheme, without name and password, even malformed ones."""
    return re.sub(r"^([\w+.-]+://)?.*@", r"\1", str(url))


def _proxy(url: str | None) -> str | None:
    """Return a proxy's URL; without a scheme, it gets http.

    Raises:
        ClientError: It names no host.
    """
    if not url:
        return None
    url = url if "://" in url else f"http://{url}"
    try:
        host = parse_url(url).host
    except ValueError:
        host = None
    if not host:
        raise ClientError(f"the proxy {shown(url)}", "a URL such as http://host:3128") from None
    spelled: str = prepend_scheme_if_needed(url, "http")  # type: ignore[no-untyped-call]
    return spelled


def _trusted(verify: bool | str, cert: str | tuple[str, str] | None) -> ssl.SSLContext:
    """Return the context that checks certificates.

    With ``verify=True``, trusted certificates come from the variables of ``requests`` and Python's
    ``ssl``, else from certifi.

    Raises:
        ClientError: A file or folder of certificates cannot be used.
    """
    source, path = "verify", verify
    if verify is True:
        set_ones = [(name, os.environ[name]) for name in TRUST if os.environ.get(name)]
        source, path = set_ones[0] if set_ones else ("certifi", certifi.where())
    located = str(path or os.devnull)  # an empty name must not turn the check off
    folder = located if Path(located).is_dir() else None
    try:
        context = ssl.create_default_context(
            cafile=None if folder or verify is False else located, capath=folder
        )
        context.hostname_checks_common_name = False  # as in requests
        if verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if cert is not None:
            source, path = "cert", str(cert)
            chain, key = cert if isinstance(cert, tuple) else (cert, None)
            context.load_cert_chain(chain, key, password="")  # or OpenSSL asks at the terminal
    except OSError as error:
        got = f"{source}={path!r}: {error}"
        raise ClientError(got, "a file or folder of certificates, PEM") from error
    return context


class Copied:
    """Pickles and copies an object by the arguments of its constructor, including the token.

    A copy has connections of its own.
    """

    _made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the arguments."""
        made = super().__new__(cls)
        made._made_with = args, kwargs
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Return a function that makes a copy."""
        args, kwargs = self._made_with
        return partial(type(self), *args, **kwargs), ()


def check_positive(**settings: float) -> None:
    """Raise ClientError for the first setting that is no number above 0, whole but for seconds."""
    for name, value in settings.items():
        whole = "" if name == "deadline_s" else "whole "
        kind = numbers.Integral if whole else numbers.Real
        if not (isinstance(value, kind) and value > 0):
            raise ClientError(f"{name}={value!r}", f"a {whole}number above 0")
