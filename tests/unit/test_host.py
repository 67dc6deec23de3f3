"""Settings that are taken of a host, and those that are not."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from diagonalflip.errors import SettingError
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import host, torchserve_command


def test_children_get_nothing_that_changes_them() -> None:
    kept = {"PATH": "/bin", "HTTP_PROXY": "http://proxy", "LANG": "C", "CUDA_VISIBLE_DEVICES": "1"}
    harmful = ("PYTHONPATH", "PYTHONHOME", "TS_CONFIG_FILE", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")
    environment = kept | dict.fromkeys(harmful, "x")
    environment |= {"OTEL_SERVICE_NAME": "", "FLIP_PORT": "tcp://10.0.0.7:9090"}
    kept["FLIP_PORT"] = environment["FLIP_PORT"]
    assert host.child_environment(environment) == kept
    ignored = [*sorted(harmful[2:]), "FLIP_PORT=tcp://10.0.0.7:9090"]
    assert host.ignored_variables(environment) == ignored


@pytest.mark.parametrize("parent", ["with a blank", "l" * host.FOLDER_BYTES, 'quo"te', "ümlaut"])
def test_a_folder_whose_path_some_program_would_not_take_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parent: str
) -> None:
    (tmp_path / parent).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / parent))
    with host.private_folder(1) as folder:
        assert Path(folder).parent != tmp_path / parent
        assert len(folder) + 30 <= 103
        assert Path(folder).stat().st_mode & 0o777 == 0o700


def test_java_finds_torchserve_below_a_folder_with_an_umlaut() -> None:
    """Its names of files are in the locale's encoding, and its properties in Latin-1."""
    home = Path("/home/jörg")
    installed = torchserve_command.Installed(home / "java", home)
    told = torchserve_command.configuration(Settings(), [], installed, 0, "")
    assert r"metrics_config=/home/j\u00f6rg/ts/configs/metrics.yaml" in told.splitlines()
    assert torchserve_command.environment(Settings(), home, 0)["LC_ALL"] == "C.UTF-8"


def test_no_folder_that_can_be_written_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def reject(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", reject)
    with pytest.raises(SettingError, match="Set TMPDIR"):
        host.private_folder(1)


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A program in place of Python, and a device file, so that torch is asked."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr("diagonalflip.inference.devices.GPU_NODES", (str(tmp_path / "nvidiactl"),))
    program = tmp_path / "python"
    program.touch(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return program


def test_torch_counts_gpus_and_a_driver_that_hangs_is_named(
    monkeypatch: pytest.MonkeyPatch, python: Path
) -> None:
    for script, count in (("echo 3", 3), ("echo broken >&2; exit 1", 0)):
        python.write_text(f"#!/bin/sh\n{script}\n")
        assert host.count_gpus() == count
    python.write_text("#!/bin/sh\nexec sleep 1000\n")
    monkeypatch.setattr(host, "GPU_TIMEOUT_S", 0.1)
    with pytest.raises(SettingError, match="No answer from the GPU driver"):
        host.count_gpus()


@pytest.mark.parametrize(
    ("given", "gpus", "cores", "workers"),
    [((3, 0), 0, 1, 3), ((3, 1), 8, 1, 3), ((0, 0), 8, 1, 8), ((0, 0), 0, 4, 2), ((0, 0), 0, 1, 1)],
)
def test_there_is_a_worker_a_gpu_and_without_gpus_a_few(
    monkeypatch: pytest.MonkeyPatch, given: tuple[int, int], gpus: int, cores: int, workers: int
) -> None:
    monkeypatch.setattr(host, "count_gpus", lambda: gpus)
    monkeypatch.setattr(host, "count_cores", lambda: cores)
    assert host.count_workers(Settings(workers=given[0], require_gpu=given[1])) == workers
    if not gpus:
        with pytest.raises(SettingError, match="FLIP_REQUIRE_GPU=1"):
            host.count_workers(Settings(workers=1, require_gpu=1))
