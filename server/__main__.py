"""``python -m server``: serves in the foreground until Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

from diagonalflip.errors import DiagonalFlipError
from server import artifacts, readiness
from server.settings import Settings
from server.torchserve import find_java, running

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(Exception):
    """A signal asked for the end."""


def main() -> int:
    """Serves; returns 0 after a requested stop, 1 if it cannot start or Java ends by itself."""
    try:
        with _foreground(), _stop_on_signal():
            return _serve(Settings.from_environment())
    except StopRequested:
        _say("Stopped.")
        return 0
    except DiagonalFlipError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _serve(settings: Settings) -> int:
    started = time.monotonic()
    _say(f"Checking {settings.model_store} against its manifest")
    model = artifacts.check(settings.model_store)
    _say(f"Starting TorchServe on Java from {find_java()}")
    with running(settings, model) as server:
        _say(f"Waiting for a correct prediction (logs: {settings.log_dir})")
        readiness.wait(server, model)
        _say(f"Ready after {time.monotonic() - started:.1f} s. Ctrl-C stops it.\n")
        print(_invitation(server.settings, f"/predictions/{model.model}"), flush=True)
        status = server.process.wait()
    print(f"TorchServe ended by itself, status {status}: see {settings.log_dir}", file=sys.stderr)
    return 1


def _invitation(settings: Settings, path: str) -> str:
    url = settings.url + path
    data = '{"images": [11, "0110", [[1, 1], [0, 0]]]}'
    return (
        f"{url}\n{settings.direct_url}{path}\n\n"
        f"  curl {url} -H 'Content-Type: application/json' -d '{data}'\n"
    )


def _say(line: str) -> None:
    print(f"==> {line}", flush=True)


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[None]:
    """Turns the first signal into StopRequested; more of them do not disturb the stop."""

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in STOPPING:
            signal.signal(each, signal.SIG_IGN)
        raise StopRequested(signal.Signals(number).name)

    for each in STOPPING:
        signal.signal(each, stop)
    yield


def _owned_terminal() -> int | None:
    """The controlling terminal, if there is one and this process group has it."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
        return terminal if os.tcgetpgrp(terminal) == os.getpgrp() else None
    except OSError:
        return None


@contextlib.contextmanager
def _foreground() -> Iterator[None]:
    """Takes the terminal, if there is one, so that Ctrl-C reaches this process alone.

    Otherwise make, in the same process group, would be interrupted too and report a
    failure for what is a clean stop.
    """
    terminal = _owned_terminal()
    if terminal is None:
        yield
        return
    owner = os.getpgrp()
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # or taking it would stop us
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # the shell could not resume this group
    if owner != os.getpid():
        os.setpgid(0, 0)
    os.tcsetpgrp(terminal, os.getpgrp())
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(terminal, owner)


if __name__ == "__main__":
    sys.exit(main())
