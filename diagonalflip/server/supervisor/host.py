"""Differences between hosts: environment, programs, temporary folders, GPUs, limits, signals."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from diagonalflip.errors import SettingError
from diagonalflip.inference.devices import has_gpu_driver
from diagonalflip.server.settings import Settings, service_links

HARMFUL = re.compile(r"(PYTHON|TS_)\w*|JAVA_TOOL_OPTIONS|_JAVA_OPTIONS|JDK_JAVA_OPTIONS")
"""Variables that would change a child process: another torch for a worker, another configuration
for TorchServe (``TS_CONFIG_FILE`` wins over its command line), options that conflict with ours."""

FOLDER_BYTES = 50
"""Longest path of a temporary folder: the path of a Unix socket has at most 103 bytes on
macOS and 107 on Linux. Ours adds 22 for the folder, and TorchServe up to 30 for a name."""

PLAIN_PATH = re.compile(r"[\w./+-]+")
"""Paths that need no quoting in any configuration."""

GPU_TIMEOUT_S = 60.0

OPEN_FILES = 1 << 14
"""Wanted per process: one per connection, and some to spare."""

MOST_WORKERS = 2
"""Workers by default: the second uses another core, and serves while the first restarts. Each
takes 100 MiB."""

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def count_cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def child_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for Java and the workers, without harmful variables.

    Empty variables of OpenTelemetry mean nothing by its specification, but make its exporter fail.
    """
    return {
        name: value
        for name, value in environment.items()
        if not HARMFUL.fullmatch(name) and (value or not name.startswith("OTEL_"))
    }


def ignored_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """List variables for Java and TorchServe that are not passed on, and those of a Service."""
    harmful = [each for each in environment if HARMFUL.fullmatch(each)]
    named = sorted(each for each in harmful if not each.startswith("PYTHON"))
    return named + service_links(environment)


def private_folder(room: int) -> tempfile.TemporaryDirectory[str]:
    """Make a folder for TorchServe's files and sockets, in ``$TMPDIR`` if that is suitable.

    Its path must be short and plain. A folder from which programs may run is preferred.

    Args:
        room: Bytes that must fit into it. They are written for a try: only that finds a quota or a
            limit of a file's size.

    Raises:
        SettingError: No temporary folder has that room.
    """
    reasons = []
    parents = ["/tmp", "/var/tmp", "/dev/shm"]  # noqa: S108 - made privately
    with contextlib.suppress(FileNotFoundError):  # Python finds no folder that it can write to
        parents.insert(0, tempfile.gettempdir())
    for parent in sorted(parents, key=lambda parent: not takes_programs(parent)):
        if len(os.fsencode(parent)) > FOLDER_BYTES or not PLAIN_PATH.fullmatch(parent):
            continue
        try:
            with tempfile.TemporaryFile(dir=parent) as trial:
                trial.write(bytes(room))
            return tempfile.TemporaryDirectory(
                prefix="diagonalflip-", dir=parent, ignore_cleanup_errors=True
            )
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror}")
    raise SettingError(
        f"no temporary folder can be used ({', '.join(reasons)})",
        f"one with {room >> 10} KiB of room, whose path has at most {FOLDER_BYTES} bytes "
        "and no blanks",
        "set TMPDIR to such a folder, or FLIP_TORCHSERVE=0",
    )


def takes_programs(folder: str | Path) -> bool:
    """Return whether a folder can hold netty's library for Unix sockets, which is Linux's only."""
    try:
        return sys.platform == "linux" and not os.statvfs(folder).f_flag & os.ST_NOEXEC
    except OSError:
        return False


def count_gpus() -> int:
    """Return how many GPUs torch can use, within ``CUDA_VISIBLE_DEVICES``; 0 without a driver.

    Raises:
        SettingError: The driver does not answer.
    """
    if not has_gpu_driver():
        return 0
    try:
        finished = subprocess.run(
            [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"],
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=GPU_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SettingError(
            f"no answer from the GPU driver after {GPU_TIMEOUT_S:g} s",
            "a number of GPUs",
            "see whether nvidia-smi answers, or set CUDA_VISIBLE_DEVICES=-1 to compute on the CPU",
        ) from error
    return int(finished.stdout) if finished.returncode == 0 else 0


def count_workers(settings: Settings) -> int:
    """Return the number of workers: as set, else one per GPU, else ``MOST_WORKERS`` at most.

    Raises:
        SettingError: A GPU is required and missing, or its driver does not answer.
    """
    if settings.workers and not settings.require_gpu:
        return settings.workers
    gpus = count_gpus()
    if settings.require_gpu and not gpus:
        raise SettingError(
            "no GPU that torch can use",
            "one, as FLIP_REQUIRE_GPU=1 says",
            "start the container with --gpus all, or set FLIP_REQUIRE_GPU=0 to compute on the CPU",
        )
    return settings.workers or gpus or min(MOST_WORKERS, count_cores())


def allow_many_files() -> None:
    """Raise the soft limit of open files, which children inherit, to at most ``OPEN_FILES``.

    Shells set 1,024, and a worker takes four times as many connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS: its kernel may allow less
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def die_with_parent() -> None:
    """Have Linux end a child process with its parent, even if that is killed.

    Call it in the child, before its program. On other systems it does nothing: there a killed
    supervisor leaves its children running.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
