"""The edge's files: tokens and certificate, checked before workers are told of them.

Workers get their content, and never see a file that cannot be used.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diagonalflip.errors import SettingError
from supervisor.settings import Settings
from worker.guard import read_tokens, tls

logger = logging.getLogger(__name__)

Stamp = tuple[int, int, int]


class AccessFiles:
    """The content of ``TOKENS_FILE``, ``TLS_CERT`` and ``TLS_KEY``.

    Args:
        settings: As ``refuse_unsafe`` let them pass.
        tokens_file: Who may ask.

    Attributes:
        content: ``tokens``, names by digest, and ``pem``, chain and key; None without TLS.

    Raises:
        SettingError: A file cannot be used.
    """

    def __init__(self, settings: Settings, tokens_file: Path) -> None:
        self._tokens = tokens_file
        self._pair = [path for path in (settings.tls_cert, settings.tls_key) if path is not None]
        self._seen = self._stamps()
        self.content = self._read()

    def changed(self) -> bool:
        """Read changed files; return whether they can be used, and differ."""
        # Taken before they are read: a file that is still being written is read again.
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        self._seen, before = stamps, self.content
        try:
            self.content = self._read()
        except SettingError as error:
            logger.error("the edge goes on with what it had: %s", error)  # noqa: TRY400
            return False
        if self.content == before:
            return False
        logger.info("The edge took over changed tokens or certificates")
        return True

    def _read(self) -> dict[str, Any]:
        pem = "".join(map(_text, self._pair)) if self._pair else None
        if pem is not None:
            tls(pem)
        return {"tokens": read_tokens(self._tokens), "pem": pem}

    def _stamps(self) -> list[Stamp]:
        return [_stamp(path) for path in (self._tokens, *self._pair)]


def _stamp(path: Path) -> Stamp:
    """Return a stamp that differs after a file was changed."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_mtime_ns, status.st_size, status.st_ino


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip() + "\n"
    except (OSError, UnicodeError) as error:
        raise SettingError(f"TLS_CERT or TLS_KEY, {path}: {error}", "a PEM file") from error
