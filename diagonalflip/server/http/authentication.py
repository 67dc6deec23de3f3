"""Access to the public listener: tokens, their rate, and TLS."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import ssl
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from diagonalflip.errors import (
    DiagonalFlipError,
    NotAuthorized,
    RateLimited,
    SettingError,
    TokenRevoked,
)
from diagonalflip.message import Request
from diagonalflip.server.http import limits

LINE = re.compile(r"([0-9a-f]{64}) ([A-Za-z0-9._-]{1,64})")
"""A line of a tokens' file: SHA-256 and name."""

REVOKED = "revoked"
"""Stands in place of a name."""

REMEDY = "run `make token NAME=someone TOKENS_FILE=tokens`"
SCHEME = "bearer "
HEALTH = {"/ping", "/v2/health/live", "/v2/health/ready"}
"""Paths that need no token."""

UNKNOWN = NotAuthorized(
    "the token is missing or unknown", "a header Authorization: Bearer TOKEN", "add it"
)
WITHDRAWN = TokenRevoked("the token was revoked", "a valid one", "ask for a new token")
TOO_FAST = RateLimited("too many requests with this token", "fewer", "wait a second")

logger = logging.getLogger(__name__)


class RejectionLog:
    """Logs rejections as lines of JSON, at most ``REJECTIONS_LOGGED`` per second."""

    def __init__(self) -> None:
        self._lines = 0

    def put(self, method: str, path: str, name: str, error: DiagonalFlipError) -> None:
        """Log a rejected request; ``name`` is its token's, or empty."""
        self._lines += 1
        if self._lines <= limits.REJECTIONS_LOGGED:
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "token": name,
                "method": method,
                "path": path[:200],
                "status": int(error.status or 0),
            }
            logger.warning("rejected: %s", json.dumps(line))

    def tick(self) -> None:
        """Begin another second."""
        if self._lines > limits.REJECTIONS_LOGGED:
            logger.warning("%d rejections were not logged", self._lines - limits.REJECTIONS_LOGGED)
        self._lines = 0


class Authenticator:
    """Admits or rejects the requests of one worker's public listener.

    Args:
        rate: Most requests per second and token.

    Attributes:
        context: TLS for new connections; None for plain HTTP.
    """

    def __init__(self, rate: int) -> None:
        self.context: ssl.SSLContext | None = None
        self._names: Mapping[str, str] = {}
        self._rate = rate
        self._requests: defaultdict[str, int] = defaultdict(int)
        self._log = RejectionLog()

    def renew(self, names: Mapping[str, str], pem: str | None) -> None:
        """Replace the tokens, names by digest, and the certificate with its key."""
        self.context = tls(pem) if pem is not None else None
        self._names = names

    def admits(self, request: Request) -> bool:
        """Set the name of a request's token; return whether it may pass, else set its response."""
        if request.path in HEALTH:
            return True
        error: DiagonalFlipError | None
        name, error = who(request.headers.get("authorization", ""), self._names)
        request.token = name
        if error is None:
            self._requests[name] += 1
            if self._requests[name] <= self._rate:
                return True
            error = TOO_FAST
        self._log.put(request.method, request.path, name, error)
        request.response = request.rejection(error)
        return False

    def tick(self) -> None:
        """Begin another second."""
        self._requests.clear()
        self._log.tick()


def who(header: str, names: Mapping[str, str]) -> tuple[str, NotAuthorized | None]:
    """Return the name of the token in a header ``Authorization``, or an error.

    Args:
        header: Its value.
        names: By the tokens' digests.
    """
    token = header[len(SCHEME) :].lstrip(" ") if header[: len(SCHEME)].lower() == SCHEME else ""
    # By its digest: the time that the look-up takes reveals nothing about the token.
    name = names.get(hashlib.sha256(token.encode("latin-1")).hexdigest(), "")
    if not name or name == REVOKED:
        return name, WITHDRAWN if name else UNKNOWN
    return name, None


def read_tokens(path: Path) -> dict[str, str]:
    """Return names by digest.

    Raises:
        SettingError: The file cannot be read, has a malformed line, or has no token.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise SettingError(f"{path}: {error.strerror}", "a file", REMEDY) from error
    tokens: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        found = LINE.fullmatch(text)
        if found is None:
            raise SettingError(f"line {number} of {path}", "a SHA-256 in hex and a name", REMEDY)
        if tokens.get(found[1]) != REVOKED:  # the order of the lines does not matter
            tokens[found[1]] = found[2]
    if not tokens:
        raise SettingError(f"there is no token in {path}", "at least one", REMEDY)
    return tokens


def tls(pem: str) -> ssl.SSLContext:
    """Return TLS 1.3 and nothing older, with the certificate chain and private key in ``pem``.

    Raises:
        SettingError: They do not belong together, or need a password; or there is no room for a
            temporary file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    try:
        with _file_of(pem) as path:
            context.load_cert_chain(path, password="")
    except (ssl.SSLError, ValueError) as error:
        raise SettingError(
            f"FLIP_TLS_CERT and FLIP_TLS_KEY: {error}",
            "a certificate and its private key, PEM, without a password",
        ) from error
    except OSError as error:
        raise SettingError(
            f"OpenSSL reads certificates from files, and none can be written: {error.strerror}",
            f"room for {len(pem)} bytes",
            "see `ulimit -f` and `df`",
        ) from error
    return context


@contextlib.contextmanager
def _file_of(content: str) -> Iterator[str]:
    """Yield the path of a file with that content: ``ssl`` loads certificates only from files.

    On Linux the file is in memory, so no key is written to a disk, and a full disk does not matter;
    unless the kernel forbids that (``vm.memfd_noexec=2``).
    """
    try:
        descriptor = os.memfd_create("pem")
    except (AttributeError, OSError):
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            yield file.name
    else:
        with os.fdopen(descriptor, "w", encoding="utf-8") as memory:
            memory.write(content)
            memory.flush()
            yield f"/proc/self/fd/{descriptor}"
