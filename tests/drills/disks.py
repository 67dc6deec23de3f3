"""The drills of disks: full, cleaned behind the service's back, or damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.running import model_store
from diagonalflip.server.models import store
from diagonalflip.server.models.choice import CHOICE
from tests.drills.scene import CALM_S, WAIT_TIMEOUT_S, Scene, SkippedError

TORCHSERVE_MIB = 8  # room for TorchServe's temporary files


def disk_full(scene: Scene) -> None:
    """A full disk below the logs."""
    with _small_disk(scene, "logs", 256) as logs, scene.loaded() as service:
        _fill(logs)
        for _ in range(200):  # each of them is logged
            service.describe("none")
        service.workers()[0].kill()
        scene.broken(service, lambda: service.proven() < 2)
        scene.notes.append(f"{shutil.disk_usage(logs).free} bytes free")


def temporary_full(scene: Scene) -> None:
    """A full temporary disk while a worker and TorchServe have to start again."""
    with _small_disk(scene, "tmp", TORCHSERVE_MIB << 10) as temporary:
        loaded = scene.loaded(TORCHSERVE="1", TMPDIR=str(temporary))
        with loaded as service, contextlib.ExitStack() as held:
            for path in filter(Path.is_file, temporary.rglob("*")):
                held.enter_context(path.open("rb"))  # so that its end leaves no room, either
            _fill(temporary)
            service.java().kill()
            service.workers()[0].kill()
            scene.broken(service, lambda: service.restarted("torchserve"), 30)
            scene.notes.append("TorchServe has taken another folder")


def temporary_cleaned(scene: Scene) -> None:
    """A cleaner deletes all temporary files; later a worker ends, and one of TorchServe's."""
    temporary = scene.folder / "tmp"
    temporary.mkdir(parents=True)
    with scene.loaded(TORCHSERVE="1", TMPDIR=str(temporary)) as service:
        kept = len(list(temporary.rglob("*")))
        cleaner = ["find", str(temporary), "-mindepth", "1", "-user", str(os.geteuid()), "-delete"]
        subprocess.run(cleaner, check=True)
        scene.demand(kept > 0, "TorchServe kept nothing there")
        time.sleep(5 * CALM_S)
        scene.demand(service.ready(), "not ready after it")
        state = "" if service.serves() else " not"
        scene.notes.append(f"{kept} files and folders gone; TorchServe then{state} ready")
        scene.demand_no_loss()
        service.workers()[0].kill()
        scene.broken(service, lambda: service.proven() < 2)
        for worker in service.java().children():
            worker.kill()
        took_s = service.wait(lambda: service.restarted("torchserve"), WAIT_TIMEOUT_S)
        took_s += service.wait(service.healthy, WAIT_TIMEOUT_S)
        scene.notes.append(f"its workers dead, it was ready again after {took_s:.0f} s")


def archive_corrupt(scene: Scene) -> None:
    """A damaged archive while a worker and Java have to start again."""
    folder = copied_store(scene)
    archive = store.exports(folder)[0] / "diagonal_flip.mar"
    content = archive.read_bytes()
    # What was checked is served on.
    with scene.loaded(TORCHSERVE="1", MODEL_STORE=str(folder)) as service:
        archive.write_bytes(content[:-1000])
        service.java().kill()
        service.workers()[0].kill()
        scene.broken(service, lambda: service.proven() < 2 and service.restarted("torchserve"), 30)


def copied_store(scene: Scene) -> Path:
    """Return a model store whose content may be changed, and in which nothing was chosen."""
    copy = scene.folder / "store"
    shutil.copytree(model_store(), copy, ignore=shutil.ignore_patterns(CHOICE))
    return copy


@contextlib.contextmanager
def _small_disk(scene: Scene, name: str, kib: int) -> Iterator[Path]:
    """Mount a disk of its own for a folder of the scene."""
    folder = scene.folder / name
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        raise SkippedError("may not mount a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder: Path) -> None:
    with contextlib.suppress(OSError), (folder / "fill").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
