"""One TorchServe: its configuration, its start, and a stop that leaves nothing behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path
from string import Template

from diagonalflip.errors import SettingError
from diagonalflip.wire import MAX_BODY_BYTES, MODEL
from supervisor import host, logs
from supervisor.models import Models
from supervisor.ports import free_ports
from supervisor.proof import Prover
from supervisor.settings import LOOPBACK, Settings
from supervisor.store import Artifacts

logger = logging.getLogger(__name__)

MANAGEMENT_TIMEOUT_S = 60.0
HERE = Path(__file__).resolve().parent
STOP_TIMEOUT_S = 10
WORKER = f"""import os, sys
del os.environ["CUDA_VISIBLE_DEVICES"]  # TorchServe's; what was given is ours
if "FLIP_CUDA_VISIBLE_DEVICES" in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["FLIP_CUDA_VISIBLE_DEVICES"]
sys.path[0:1] = []  # nothing beside this file is for import,
sys.path.append({str(HERE.parent)!r})  # and the archive's modules come before ours
from worker.__main__ import main
main()
"""


@dataclass(frozen=True)
class TorchServe:
    """A running TorchServe.

    Attributes:
        process: Java; the workers are its children, in the process group of the same number.
        settings: As given, with the ports that were really taken.
        prover: Proves the workers again and again.
        versions: By whether they have a worker. The first one's hold the doors.
    """

    process: subprocess.Popen[bytes]
    settings: Settings
    prover: Prover
    versions: dict[str, bool]

    def follow(self, models: Models) -> None:
        """Serve the same versions on TorchServe's own port, as far as it knew them at its start."""
        served, default = {each.version for each in models.loaded}, models.default.version
        try:
            for version in list(self.versions)[1:]:
                serves = version in served
                if serves != self.versions[version]:
                    scale = f"min_worker={serves:d}&max_worker={serves:d}&synchronous=true"
                    self._manage(f"/models/{MODEL}/{version}?{scale}")
                    self.versions[version] = serves
            self._manage(f"/models/{MODEL}/{default}/set-default")
        except (OSError, http.client.HTTPException) as error:
            logger.error("TorchServe's port goes on as before: %s", error)  # noqa: TRY400

    def _manage(self, path: str) -> None:
        """Send a PUT to TorchServe's management; raises HTTPException if it refuses."""
        port = self.settings.management_port
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=MANAGEMENT_TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request("PUT", path)
            response = connection.getresponse()
            if response.status not in (http.client.OK, http.client.ACCEPTED):
                raise http.client.HTTPException(f"{path}: {response.read(200)!r}")


@contextlib.contextmanager
def running(settings: Settings, models: Models, sockets: Path) -> Iterator[TorchServe]:
    """Starts TorchServe, and stops it at the end whatever happens; it serves some seconds later.

    The process is Java itself, not the ``torchserve`` command: that one hides Java's exit
    status, and leaves Java running when it is killed (pytorch/serve: ts/model_server.py).

    Args:
        settings: As ``resolve`` returned them.
        models: What to serve; TorchServe starts with the default version.
        sockets: Folder for the sockets that the workers listen on.

    Raises:
        SettingError: There is no Java or no TorchServe.
    """
    java = host.find_java()
    folder = settings.log_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("server.log", "worker.log", "java.log"):
        (folder / name).unlink(missing_ok=True)
    # TorchServe's sockets and unpacked archives: two servers sharing them break each other.
    with (
        host.private_folder() as scratch,
        logs.output_of("java", settings) as output,
    ):
        # In its home TorchServe looks for two files: its version, and what to start as a worker.
        (Path(scratch) / "ts").mkdir()
        (Path(scratch) / "ts/version.txt").symlink_to(_torchserve_home() / "ts/version.txt")
        (Path(scratch) / "ts/model_service_worker.py").write_text(WORKER, encoding="utf-8")
        default = models.default
        versions = [default, *(each for each in models.loaded if each != default)]
        config = Path(scratch) / "config.properties"
        config.write_text(_configuration(settings, versions), encoding="utf-8")
        process = subprocess.Popen(
            _command(java, config, settings, models.archives),
            cwd=scratch,
            env=_environment(settings, default.version, Path(scratch), sockets),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # A group of its own: Ctrl-C is ours to handle, and the group can be swept.
            start_new_session=True,
            preexec_fn=host.die_with_parent,  # noqa: PLW1509 - it only makes a system call
        )
        device = "cuda" if settings.require_gpu else None
        prover = Prover(sockets, settings.workers, models, settings.proof_s, device)
        prover.start()
        try:
            yield TorchServe(process, settings, prover, {each.version: True for each in versions})
        finally:
            prover.stop()
            _stop(process)


ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 27),
}
"""Has glibc keep the memory of large answers, which it would give back to the kernel and map anew
for each: 500 page faults for an answer of 2 MiB, more time than its predictions take."""


def _environment(settings: Settings, version: str, scratch: Path, sockets: Path) -> dict[str, str]:
    """Variables of Java, which hands them on to the workers."""
    folder = str(settings.log_dir.resolve())
    environment = host.child_environment()
    # TorchServe reads device numbers here and fails on the names that MIG and Kubernetes set;
    # unset, it waits for nvidia-smi. Workers get what was given, and choose their own devices.
    if "CUDA_VISIBLE_DEVICES" in environment:
        environment["FLIP_CUDA_VISIBLE_DEVICES"] = environment["CUDA_VISIBLE_DEVICES"]
    if settings.tokens_file is not None:
        environment["FLIP_TOKEN_RATE"] = str(settings.token_rate)
    if settings.tls_cert is not None:
        environment["FLIP_EDGE_TLS"] = "1"
    if settings.access_log:
        environment["FLIP_ACCESS_LOG"] = folder
    return (
        ALLOCATOR
        | environment
        | {
            "CUDA_VISIBLE_DEVICES": "0",
            **dict.fromkeys(("TEMP", "TMPDIR"), str(scratch)),
            **dict.fromkeys(("LOG_LOCATION", "METRICS_LOCATION"), folder),
            "OMP_NUM_THREADS": "1",
            "FLIP_WORKERS": str(settings.workers),
            "FLIP_VERSION": version,
            "FLIP_SOCKETS": str(sockets.resolve()),
        }
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stops Java and its workers, by force where asking does not help."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _configuration(settings: Settings, versions: Sequence[Artifacts]) -> str:
    """The configuration; the first of the versions is the default, the others have one worker."""
    batches = {"batchSize": settings.batch_size, "maxBatchDelay": settings.max_batch_delay_ms}
    models = {
        each.version: {"marName": each.archive.name, "minWorkers": workers, "maxWorkers": workers}
        | batches
        for each, workers in zip(versions, [settings.workers, *[1] * len(versions)], strict=False)
    }
    template = Template((HERE / "config.properties").read_text(encoding="utf-8"))
    values = asdict(settings) | {
        "archives": ",".join(each.archive.name for each in versions),
        "models": json.dumps({MODEL: models}),
        "metrics_config": _torchserve_home() / "ts/configs/metrics.yaml",
        "max_body_bytes": MAX_BODY_BYTES,
        "first_worker_port": free_ports(settings.workers),
    }
    return template.substitute(values)


def _command(java: Path, config: Path, settings: Settings, archives: Path) -> list[str]:
    home = _torchserve_home()
    return [
        str(java),
        f"-Dmodel_server_home={config.parent}",
        f"-Djava.io.tmpdir={config.parent}",
        f"-Dlog4j.configurationFile={(HERE / 'log4j2.xml').as_uri()}",
        "-Djava.net.preferIPv4Stack=true",  # all is on 127.0.0.1; a worker looks it up as such
        f"-Dflip.json={'info' if settings.log_format == logs.JSON else 'off'}",
        "-XX:+ExitOnOutOfMemoryError",
        *_class_sharing(java),
        "-XX:+UseSerialGC",  # measured beside G1: under half of the memory, and more requests/s
        *("-cp", f"{home}/ts/frontend/*"),
        "org.pytorch.serve.ModelServer",
        *("--python", sys.executable),
        *("-f", str(config)),
        *("-s", str(archives.resolve())),
        "-ncs",  # no snapshots: the last one would override this configuration
    ]


def _class_sharing(java: Path) -> list[str]:
    """Options that keep parsed classes between starts, beside Java if that may be written.

    TorchServe is ready a fifth sooner then. Java makes the file itself, at its first end.
    """
    folder = java.resolve().parent.parent / "lib/server"
    archive = folder / "torchserve.jsa"
    if not (archive.exists() or os.access(folder, os.W_OK)):
        return []
    return [
        "-XX:+IgnoreUnrecognizedVMOptions",  # Java 17 knows no AutoCreateSharedArchive
        "-XX:+AutoCreateSharedArchive",
        f"-XX:SharedArchiveFile={archive}",
    ]


def _torchserve_home() -> Path:
    """The folder that the ``ts`` package lies in. Importing ``ts`` would run its code."""
    spec = util.find_spec("ts")
    if spec is None or spec.origin is None:
        raise SettingError(
            "torchserve is missing", "torchserve 0.12.0 installed", "run `make serve`"
        )
    return Path(spec.origin).resolve().parent.parent
