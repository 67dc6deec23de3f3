"""Serve in the foreground until Ctrl-C or SIGTERM: ``python -m diagonalflip.server``."""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from diagonalflip import _processor
from diagonalflip.errors import DiagonalFlipError, SettingError, StartError
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import host, logs
from diagonalflip.server.supervisor.ports import open_ports, reject_unsafe, require_addresses
from diagonalflip.server.supervisor.workers import GaveUpError, Workers

PATH = "/predictions/diagonal_flip"
STOPPING = (signal.SIGINT, signal.SIGTERM)

STOPPED, UNUSABLE, GAVE_UP, NOT_STARTED = 0, 2, 3, 4
"""Exit statuses: stopped as asked; settings or a model that cannot be used, so a restart would not
help; no worker can be started any more; could not start."""

logger = logging.getLogger("supervisor")


def main() -> int:
    """Serve; return an exit status."""
    # Otherwise NumPy has an idle thread per core, here and in the workers. If these threads cannot
    # be started, OpenBLAS ends the process by SIGINT, which looks like a stop that was asked for.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # Sockets would get the numbers of standard streams that are closed, and logs would go there.
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(spare)
    atexit.unregister(logging.shutdown)  # it would wait for a log on a disk that hangs
    output, errors = logs.Output(1), logs.Output(2)
    complain: Callable[[str], None] = partial(print, file=errors)
    try:
        _processor.require()
        settings = Settings.from_environment()
        logs.configure(settings.log_format, output)
        if settings.log_format == logs.JSON:
            complain = logger.critical
        with _foreground() as has_terminal:
            asyncio.run(_serve(settings, output, has_terminal=has_terminal))
    except GaveUpError as error:
        complain(f"Giving up: {error}; see {settings.log_dir}")
        return GAVE_UP
    except DiagonalFlipError as error:
        complain(f"{type(error).__name__}: {error}")
        return NOT_STARTED if isinstance(error, StartError) else UNUSABLE
    else:
        logger.info("Stopped.")
        return STOPPED
    finally:
        output.finish()
        errors.finish()


async def _serve(settings: Settings, output: logs.Output, *, has_terminal: bool) -> None:
    started = time.monotonic()
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    # The parent process may block signals, or ignore the one by which children's ends are known.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in STOPPING:
        loop.add_signal_handler(number, stop.set)
    # Changed files are reloaded without it. A closed terminal is a reason to stop, unless nohup is
    # used.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, stop.set if has_terminal else lambda: None)
    if ignored := host.ignored_variables():
        logger.warning("Ignored in the environment: %s", ", ".join(ignored))
    require_addresses(settings)
    reject_unsafe(settings)
    host.allow_many_files()
    try:
        log_dir = settings.log_dir.absolute()  # the working directory may be removed later
    except FileNotFoundError as error:
        got = f"FLIP_LOG_DIR={settings.log_dir}, and the working directory is gone"
        raise SettingError(got, "an absolute path") from error
    found = replace(settings, workers=host.count_workers(settings), log_dir=log_dir)
    if settings.log_format == logs.TEXT:
        logs.make_folder(log_dir)
    settings, listeners = open_ports(found)
    logger.info("Starting %d workers (logs: %s)", settings.workers, settings.log_dir)
    admin = listeners.pop("admin_port")
    workers = Workers(settings, listeners)
    try:
        await workers.start()
        # The workers import their modules while this process imports the rest of its own.
        from diagonalflip.server.supervisor.supervisor import Supervisor  # noqa: PLC0415

        def ready() -> None:
            logger.info("Ready after %.1f s", time.monotonic() - started)
            if settings.log_format == logs.TEXT:
                output.write(_invitation(settings))

        await Supervisor(settings, listeners, workers).run(admin, stop, ready)
    finally:
        await workers.end()
        for number in STOPPING:  # nothing is left to stop: a second one must not end this by force
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


def _invitation(settings: Settings) -> str:
    urls = [settings.url, *([settings.public_url] if settings.tokens_file is not None else [])]
    data = '{"images": [11, "0110", [[1, 1], [0, 0]]]}'
    curl = f"curl {settings.url}{PATH} -H 'Content-Type: application/json' -d '{data}'"
    admin = f"Health and metrics: {settings.admin_url}. Ctrl-C stops it."
    return "\n".join(["", *urls, "", f"  {curl}", "", admin, "", ""])


@contextlib.contextmanager
def _foreground() -> Iterator[bool]:
    """Take the terminal from make, if there is one, so that Ctrl-C reaches this process only.

    Otherwise make, in the same process group, would be interrupted too, and report a clean stop as
    a failure. Yields whether there is a terminal.
    """
    owner = os.getpgrp()
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
        has_terminal = os.tcgetpgrp(terminal) == owner
    except OSError:
        has_terminal = False
    # Other programs, such as a script or an interactive Python, may want to read from it.
    if not has_terminal or owner == os.getpid() or "MAKELEVEL" not in os.environ:
        yield has_terminal
        return
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # or taking it would stop us
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # the shell could not resume this group
    os.setpgid(0, 0)
    os.tcsetpgrp(terminal, os.getpgrp())
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(terminal, owner)


if __name__ == "__main__":
    argparse.ArgumentParser(
        "python -m diagonalflip.server",
        description="Serve until Ctrl-C, with the settings FLIP_NAME of the environment.",
        epilog="`diagonalflip serve NAME=VALUE` takes them as arguments.",
    ).parse_args()
    sys.exit(main())
