"""The edge's files: tokens and certificate, checked, and kept where workers read them.

Workers follow the copies and never see a file that cannot be used, also when they start again.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from diagonalflip.errors import SettingError
from supervisor.settings import Settings
from worker.guard import PEM, TOKENS, read_tokens, stamps, tls

logger = logging.getLogger(__name__)


class EdgeFiles:
    """Copies of what ``TOKENS_FILE``, ``TLS_CERT`` and ``TLS_KEY`` hold.

    Args:
        settings: As ``refuse_unsafe`` let them pass.
        tokens_file: Who may ask.
        folder: Of the sockets, which nobody else can read.

    Raises:
        SettingError: A file cannot be used.
    """

    def __init__(self, settings: Settings, tokens_file: Path, folder: Path) -> None:
        self._tokens, self._folder = tokens_file, folder
        self._pair = [path for path in (settings.tls_cert, settings.tls_key) if path is not None]
        self._waits = False
        sources = self._sources()
        self._copy()
        self._seen = sources, self._copies()

    def follow(self) -> None:
        """Takes over changed files, if they can be used; copies that are gone are made anew."""
        # Taken before they are read: a file that is still being written is read again.
        sources = self._sources()
        if (sources, self._copies()) == self._seen:
            return
        try:
            self._copy()
        except SettingError as error:
            logger.error("the edge goes on with what it had: %s", error)  # noqa: TRY400
        except OSError as error:  # of the copies, a full disk say: tried again, and told once
            if not self._waits:
                logger.error("the edge waits for room for its files: %s", error)  # noqa: TRY400
            self._waits = True
            return
        else:
            logger.info("The edge took over changed tokens or certificates")
        self._waits = False
        self._seen = sources, self._copies()

    def _sources(self) -> list[tuple[int, int, int]]:
        return stamps(self._tokens, *self._pair)

    def _copies(self) -> list[tuple[int, int, int]]:
        return stamps(*(self._folder / name for name in (TOKENS, PEM)))

    def _copy(self) -> None:
        new = {TOKENS: self._folder / f"{TOKENS}.new"}
        names = read_tokens(self._tokens)
        lines = [f"{digest} {name}\n" for digest, name in names.items()]
        _write_privately(new[TOKENS], "".join(lines))
        if self._pair:
            new[PEM] = self._folder / f"{PEM}.new"
            _write_privately(new[PEM], "".join(map(_read, self._pair)))
            tls(new[PEM])
        for name, path in new.items():
            path.replace(self._folder / name)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip() + "\n"
    except (OSError, UnicodeError) as error:
        raise SettingError(f"TLS_CERT or TLS_KEY, {path}: {error}", "a PEM file") from error


def _write_privately(path: Path, content: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)
