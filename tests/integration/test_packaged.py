"""The service as the wheel has it: the versions in the package, without torch."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diagonalflip import Client, Predictor
from diagonalflip.server.settings import PACKAGED
from tests.conftest import ROOT
from tests.integration.conftest import Server, run_command, run_server


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_server(PACKAGED, tmp_path_factory.mktemp("packaged"), WORKERS="2") as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_it_keeps_every_promise_of_the_contract(packaged: Server, version: str) -> None:
    run_command("--model-version", version, "check", packaged.base)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_it_predicts_as_the_engine_does_without_a_server(packaged: Server, version: str) -> None:
    numbers = np.random.default_rng(3).integers(16, size=300_001)
    wanted = Predictor(version, device="cpu").predict(numbers)
    with Client(packaged.base, version=version) as client:
        assert np.abs(client.predict(numbers) - wanted).max() <= 2e-6


def test_a_module_beside_the_package_replaces_none_of_pythons(tmp_path: Path) -> None:
    """As backports of old packages do that lie in site-packages."""
    venv.create(tmp_path / "venv", symlinks=True)
    packages = tmp_path / "venv/lib/python{}.{}/site-packages".format(*sys.version_info)
    shutil.copytree(ROOT / "diagonalflip", packages / "diagonalflip")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    (packages / "enum.py").write_text("raise ImportError('a backport')\n")
    python = tmp_path / "venv/bin/python"
    by_it = ["sh", "-c", f'cd {tmp_path} && shift && exec {python} "$@"', "sh"]
    with run_server(PACKAGED, tmp_path / "logs", through=by_it) as server:
        assert server.post(b"\xb6", "application/octet-stream").status_code == 200
        [worker, *_] = server.workers
        assert Path(worker.cmdline()[0]) == python
        assert server.stop() == 0
