"""Settings that are taken of a host, and those that are not."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from diagonalflip.errors import SettingError
from supervisor import host
from worker import frontend, limits


def test_children_get_nothing_that_changes_them() -> None:
    kept = {"PATH": "/bin", "HTTP_PROXY": "http://proxy", "LANG": "C", "CUDA_VISIBLE_DEVICES": "1"}
    harmful = ("PYTHONPATH", "PYTHONHOME", "TS_CONFIG_FILE", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")
    environment = kept | dict.fromkeys(harmful, "x")
    assert host.child_environment(environment) == kept
    assert host.ignored_variables(environment) == sorted(harmful[2:])


@pytest.mark.parametrize("parent", ["with a blank", "l" * host.FOLDER_BYTES, 'quo"te', "ümlaut"])
def test_a_folder_whose_path_some_program_would_not_take_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parent: str
) -> None:
    (tmp_path / parent).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / parent))
    with host.private_folder() as folder:
        assert Path(folder).parent != tmp_path / parent
        assert len(folder) + 30 <= 103
        assert Path(folder).stat().st_mode & 0o777 == 0o700


def test_no_folder_that_can_be_written_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(SettingError, match="Set TMPDIR"):
        host.private_folder()


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A device file, so that torch is asked."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(host, "GPU_NODES", (str(tmp_path / "nvidiactl"),))


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(("script", "count"), [("echo 3", 3), ("echo broken >&2; exit 1", 0)])
def test_torch_counts_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, count: int
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert host.count_gpus() == count


@pytest.mark.usefixtures("driver")
def test_a_driver_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 1000\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(host, "GPU_TIMEOUT_S", 0.1)
    with pytest.raises(SettingError, match="No answer from the GPU driver"):
        host.count_gpus()


ASK_AS_NOBODY = """
import os, socket, sys
os.setuid(65534)
with socket.socket() as connection:
    connection.connect(("127.0.0.1", int(sys.argv[1])))
    print(connection.recv(1))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_on_tcp_only_the_workers_own_user_is_let_in() -> None:
    with frontend.listen(None, 0) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-c", ASK_AS_NOBODY, str(port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as nobody:
            listener.settimeout(30)
            # The foreign process comes first: nobody else has connected yet.
            while not (waiting := _waiting(port)):
                assert nobody.poll() is None
            assert waiting
            with socket.create_connection(("127.0.0.1", port)) as ours:
                with frontend.accept(listener) as accepted:
                    assert accepted.getpeername() == ours.getsockname()
                assert nobody.communicate()[0] == "b''\n"


def _waiting(port: int) -> list[str]:
    """Connections to ``port`` that the kernel holds, of whoever."""
    rows = [line.split() for line in frontend.TCP_TABLE.read_text().splitlines()[1:]]
    return [row[2] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"]


@pytest.mark.parametrize(
    ("allowed", "connections"),
    [(1 << 20, 4096), (resource.RLIM_INFINITY, 4096), (1024, 924), (256, 156)],
)
def test_a_worker_takes_as_many_connections_as_files_may_be_open(
    allowed: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, allowed))
    assert limits.most_connections() == connections
