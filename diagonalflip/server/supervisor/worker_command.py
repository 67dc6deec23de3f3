"""How a worker is started: its command, environment and descriptors."""

from __future__ import annotations

import socket
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import host

PACKAGE_PARENT = Path(__file__).resolve().parents[3]
"""Of the package: the working directory of workers, so that they import this very one."""

SAFE_PATH = ["-P"] if Path(sysconfig.get_path("purelib")).resolve() == PACKAGE_PARENT else []
"""Where the package is installed, the working directory stays off the import path: a module there
that is called as one of the standard library would be imported in its place."""

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 27),
}
"""Has glibc keep the memory of large answers, which it would give back to the kernel and map anew
for each: 500 page faults for an answer of 2 MiB, more time than its predictions take."""


def command(
    settings: Settings, number: int, channel: int, listeners: Mapping[str, int]
) -> list[str]:
    """Return the command that starts a worker; ``channel`` and ``listeners`` are descriptors."""
    command = [sys.executable, *SAFE_PATH, "-m", "diagonalflip.server.worker", f"--number={number}"]
    command += [f"--workers={settings.workers}", f"--channel={channel}"]
    command += [f"--listener={name}={descriptor}" for name, descriptor in listeners.items()]
    command += [f"--idle-timeout-s={settings.idle_timeout_s}"]
    command += [f"--allowed-hosts={settings.allowed_hosts}"]
    if settings.tokens_file is not None:
        command += [f"--token-rate={settings.token_rate}"]
    if settings.access_log:
        command += [f"--access-log={settings.log_dir.resolve()}"]
    return command


def start_worker(
    settings: Settings,
    number: int,
    channel: socket.socket,
    listeners: Mapping[str, socket.socket],
    output: int,
) -> subprocess.Popen[bytes]:
    """Start a worker.

    Args:
        settings: As the supervisor resolved them.
        number: Of the worker, from 0.
        channel: Its end of the control channel.
        listeners: By name; it accepts clients from all of them.
        output: Descriptor that it writes its log to.

    Raises:
        OSError: It cannot be started.
    """
    descriptors = {name: each.fileno() for name, each in listeners.items()}
    return subprocess.Popen(
        command(settings, number, channel.fileno(), descriptors),
        cwd=PACKAGE_PARENT,
        env=ALLOCATOR | host.child_environment() | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[channel.fileno(), *descriptors.values()],
        start_new_session=True,  # Ctrl-C is the supervisor's to handle
    )
