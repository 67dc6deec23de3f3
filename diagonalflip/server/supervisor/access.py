"""The public listener's files: tokens and certificate.

They are checked here, and workers get the content of valid files only.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from diagonalflip.errors import SettingError
from diagonalflip.server.http.authentication import read_tokens, tls
from diagonalflip.server.settings import Settings

logger = logging.getLogger(__name__)

SOON = timedelta(days=14)
"""As in the alert, deploy/kubernetes/base/monitoring.yaml."""


class AccessFiles:
    """The content of ``FLIP_TOKENS_FILE``, ``FLIP_TLS_CERT`` and ``FLIP_TLS_KEY``.

    Args:
        settings: Checked by ``reject_unsafe``.
        tokens_file: ``settings.tokens_file``, which is set.

    Attributes:
        content: ``tokens``, names by digest; and ``pem``, chain and key, None without TLS.
        expires_at: When the first certificate of the chain expires, in seconds since 1970; None
            without TLS.

    Raises:
        SettingError: A file cannot be used.
    """

    def __init__(self, settings: Settings, tokens_file: Path) -> None:
        self._tokens = tokens_file
        self._pair = [path for path in (settings.tls_cert, settings.tls_key) if path is not None]
        self._seen = self._stamps()
        self.expires_at: float | None = None
        self.content: dict[str, Any] = {"tokens": {}, "pem": None}
        self._read_tokens()
        self._read_pair()

    def changed(self) -> bool:
        """Read changed files; return whether the content is valid and differs."""
        # Before the files are read: one that is being written is read again.
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        self._seen, before = stamps, self.content
        for read in (self._read_tokens, self._read_pair):
            try:
                read()
            except SettingError as error:
                logger.error("the public listener goes on with what it had: %s", error)  # noqa: TRY400
        if self.content == before:
            return False
        logger.info("The public listener took over changed tokens or certificates")
        return True

    def _read_tokens(self) -> None:
        """Read the tokens; a pipe, such as a shell's ``<(command)``, can be read only once."""
        if not (self.content["tokens"] and is_pipe(self._tokens)):
            with readable(self._tokens):
                self.content = self.content | {"tokens": read_tokens(self._tokens)}

    def _read_pair(self) -> None:
        if self._pair and not (self.content["pem"] and any(map(is_pipe, self._pair))):
            pem = "".join(map(_pem, self._pair))
            tls(pem)
            if pem != self.content["pem"]:
                self.content = self.content | {"pem": pem}
                self._note_expiry(pem)

    def _note_expiry(self, pem: str) -> None:
        """Note and log when the first certificate of a chain expires."""
        from cryptography import x509  # noqa: PLC0415 - 8 MiB that few need

        try:
            chain = x509.load_pem_x509_certificates(pem.encode())
            begins = max(each.not_valid_before_utc for each in chain)
            expires = min(each.not_valid_after_utc for each in chain)
        except ValueError as error:  # OpenSSL accepts more than cryptography does
            logger.warning("When the certificate expires is not known: %s", error)
            self.expires_at = None
            return
        self.expires_at, day = expires.timestamp(), expires.isoformat()
        now = datetime.now(UTC)
        left = expires - now
        if begins > now:
            logger.error("The certificate is valid from %s on, not yet", begins.isoformat())
        if left < timedelta():
            logger.error("The certificate has expired at %s: put a new one into FLIP_TLS_CERT", day)
        elif left < SOON:
            logger.warning("The certificate expires at %s, in %d days: renew it", day, left.days)
        else:
            logger.info("The certificate expires at %s, in %d days", day, left.days)

    def _stamps(self) -> list[tuple[int, ...]]:
        """Return values that differ after a file was changed, replaced or made readable.

        Links are followed, so a folder on the way may be exchanged as well.
        """
        stamps: list[tuple[int, ...]] = []
        for path in (self._tokens, *self._pair):
            stamps.append(())
            with contextlib.suppress(OSError):
                now = path.stat()
                stamps[-1] = now.st_mtime_ns, now.st_ctime_ns, now.st_size, now.st_dev, now.st_ino
        return stamps


def _pem(path: Path) -> str:
    """Return the text of a PEM file, whose comments may be in any encoding."""
    try:
        with readable(path):
            return path.read_text(encoding="utf-8-sig", errors="replace").strip() + "\n"
    except OSError as error:
        got = f"FLIP_TLS_CERT or FLIP_TLS_KEY, {path}: {error.strerror}"
        raise SettingError(got, "a PEM file") from error


def is_pipe(path: Path) -> bool:
    """Return whether a file is a pipe; if that is unknown, reading it will raise the error."""
    try:
        return path.is_fifo()
    except OSError:
        return False


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn a PermissionError into a SettingError that says which user must be able to read."""
    try:
        yield
    except (PermissionError, SettingError) as error:
        if not isinstance(error.__cause__ or error, PermissionError):
            raise
        raise SettingError(
            f"user {os.geteuid()}, as which the service runs, may not read {path}",
            "a file that a group of that user can read, in a folder that it can enter",
            f"run `chgrp GROUP {path} && chmod 0640 {path}`",
        ) from error
