"""``python -m supervisor``: serves in the foreground until Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator

from diagonalflip.errors import DiagonalFlipError
from diagonalflip.wire import MODEL
from supervisor import host, logs
from supervisor.settings import Settings
from supervisor.stop import Stop, StopRequested
from supervisor.supervisor import GaveUpError, Supervisor

STOPPING = (signal.SIGINT, signal.SIGTERM)

STOPPED, NOT_STARTED, GAVE_UP = 0, 1, 3
"""Exit statuses: as asked; it could not start; what died did not come back."""

logger = logging.getLogger("supervisor")


def main() -> int:
    """Serves; returns an exit status."""
    output, errors = logs.Output(1), logs.Output(2)
    try:
        settings = Settings.from_environment()
        logs.configure(settings.log_format, output)
        with _foreground() as has_terminal:
            return _serve(settings, output, has_terminal=has_terminal)
    except DiagonalFlipError as error:
        errors.put(f"{type(error).__name__}: {error}")
        return NOT_STARTED
    except GaveUpError as error:
        errors.put(f"Giving up: {error}; see {settings.log_dir}")
        return GAVE_UP
    finally:
        output.flush()
        errors.flush()


def _serve(settings: Settings, output: logs.Output, *, has_terminal: bool) -> int:
    started = time.monotonic()
    try:
        stop = Stop()
        stop.on((*STOPPING, signal.SIGHUP) if has_terminal else STOPPING)
        logger.info("Checking %s against its manifests", settings.model_store)
        supervisor = Supervisor(settings, stop)
        if not has_terminal:
            signal.signal(signal.SIGHUP, lambda *_: None)  # files are followed anyway
        if ignored := host.ignored_variables():
            logger.warning("Ignored in the environment: %s", ", ".join(ignored))
        logger.info("Starting TorchServe on Java from %s", host.find_java())
        logger.info("Waiting for correct predictions (logs: %s)", settings.log_dir)

        def ready() -> None:
            seconds = time.monotonic() - started
            logger.info("Ready after %.1f s", seconds)
            if settings.log_format == logs.TEXT:
                output.put(_invitation(supervisor.settings, f"/predictions/{MODEL}"))

        supervisor.run(ready)
    except StopRequested:
        logger.info("Stopped.")
        return STOPPED
    return STOPPED


def _invitation(settings: Settings, path: str) -> str:
    urls = [settings.url, *([settings.edge_url] if settings.tokens_file is not None else [])]
    data = '{"images": [11, "0110", [[1, 1], [0, 0]]]}'
    curl = f"curl {settings.url}{path} -H 'Content-Type: application/json' -d '{data}'"
    told = f"Health and metrics: {settings.operations_url}. Ctrl-C stops it."
    return "\n".join(["", *urls, "", f"  {curl}", "", told, ""])


def _owned_terminal() -> int | None:
    """The controlling terminal, if there is one and this process group has it."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
        return terminal if os.tcgetpgrp(terminal) == os.getpgrp() else None
    except OSError:
        return None


@contextlib.contextmanager
def _foreground() -> Iterator[bool]:
    """Takes the terminal, if there is one, so that Ctrl-C reaches this process alone.

    Otherwise make, in the same process group, would be interrupted too and report a
    failure for what is a clean stop. Gives whether there is a terminal.
    """
    terminal = _owned_terminal()
    if terminal is None:
        yield False
        return
    owner = os.getpgrp()
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # or taking it would stop us
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # the shell could not resume this group
    if owner != os.getpid():
        os.setpgid(0, 0)
    os.tcsetpgrp(terminal, os.getpgrp())
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(terminal, owner)


if __name__ == "__main__":
    sys.exit(main())
