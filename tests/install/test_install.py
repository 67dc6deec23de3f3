"""The installation, in copies of a checkout, of one small package that lies in a folder."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from requirements import install
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

WHEEL = "tiny-1.0-py3-none-any.whl"
IMPORT = "import tiny; print(tiny.VALUE)"
HOSTILE = (
    "PIP_USER=1 PIP_TARGET=/elsewhere PIP_PREFIX=/elsewhere PIP_ROOT=/x PIP_PYTHON=/bin/false "
    "PIP_REQUIRE_VIRTUALENV=1 PIP_DRY_RUN=1 PIP_NO_BINARY=:all: PIP_IGNORE_INSTALLED=1 "
    "PIP_CONSTRAINT=/nonexistent PYTHONWARNINGS=error PYTHONOPTIMIZE=2 PYTHONDEVMODE=1 "
    "PYTHONUSERBASE=/x PYTHONSTARTUP=/nonexistent VIRTUAL_ENV=/x"
)


def wheel(path: Path, value: int = 1) -> None:
    """Write the package to ``path``, with a ``VALUE`` to tell it by."""
    files = {
        "tiny.py": f"VALUE = {value}\n",
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
        "tiny-1.0.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # without the time


class Checkout:
    """A folder with the script, what it installs, and where that lies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.links = folder.parent / "links"
        self.links.mkdir()
        wheel(self.links / WHEEL)
        (folder / "requirements").mkdir(parents=True)
        shutil.copy(ROOT / "requirements/install.py", folder / "requirements")
        self.pin()
        self.environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.links)}

    def pin(self) -> None:
        """Pin the wheel as it is now."""
        digest = hashlib.sha256((self.links / WHEEL).read_bytes()).hexdigest()
        pinned = f"tiny==1.0 --hash=sha256:{digest}\n"
        (self.folder / "requirements/tiny.txt").write_text(pinned)

    @contextmanager
    def started(self, *through: str) -> Iterator[subprocess.Popen[str]]:
        """Start the script, in a process group of its own."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        script = [sys.executable, "requirements/install.py", ".venv", "requirements/tiny.txt"]
        with subprocess.Popen(
            [*through, *script],
            cwd=self.folder,
            env=kept | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        ) as process:
            yield process
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def install(self, *through: str, status: int = 0) -> str:
        """Run the script to its end; return what it printed."""
        with self.started(*through) as process:
            printed, _ = process.communicate(timeout=120)
            assert process.returncode == status, printed
        return printed

    def value(self) -> str:
        """Return what the installed package prints."""
        command = [str(self.folder / ".venv/bin/python"), "-I", "-c", IMPORT]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "a chéckout")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = Checkout(tmp_path_factory.mktemp("template") / "checkout")
    made.install()
    return made


@pytest.fixture
def installed(checkout: Checkout, template: Checkout) -> Checkout:
    """A checkout in which all is done; copied, as making an environment takes seconds."""
    shutil.copytree(template.folder / ".venv", checkout.folder / ".venv", symlinks=True)
    base = checkout.folder / ".venv/.base"
    base.write_text(base.read_text().replace(str(template.folder), str(checkout.folder)))
    return checkout


def test_only_the_settings_that_a_site_needs_are_in_force(checkout: Checkout) -> None:
    """Only the configuration file says where the package is."""
    config = checkout.folder / "pip.conf"
    config.write_text(
        "[global]\nno-index = true\nuser = 1\ntarget = /elsewhere\nprefix = /elsewhere\n"
        f"no-binary = :all:\n[install]\nfind-links = {checkout.links}\n"
    )
    hostile = dict(setting.split("=") for setting in HOSTILE.split())
    checkout.environment = {"PIP_CONFIG_FILE": str(config)} | hostile
    checkout.install()
    assert checkout.value() == "1"


def test_later_sections_win_and_other_settings_go() -> None:
    listed = (
        ":env:.index-url='https://c'\nglobal.index-url='https://a'\nglobal.user='true'\n"
        "install.find-links='/a\\n/b'\ninstall.target='/x'\nfreeze.timeout='1'\n"
    )
    assert install.site_settings(listed) == {
        "PIP_INDEX_URL": "https://c",
        "PIP_FIND_LINKS": "/a\n/b",
        "PIP_CONFIG_FILE": os.devnull,
    }


def test_what_is_complete_is_left_alone(installed: Checkout) -> None:
    for file in installed.folder.rglob("requirements/*"):
        os.utime(file)
    before = {each: each.lstat().st_mtime_ns for each in installed.folder.rglob("*")}
    installed.environment |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    assert installed.install() == ""  # in any locale
    assert {each: each.lstat().st_mtime_ns for each in installed.folder.rglob("*")} == before


def test_two_at_once_wait_for_each_other(checkout: Checkout) -> None:
    lock = os.open(checkout.folder / "requirements", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with checkout.started() as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("==> Waiting")
        assert not (checkout.folder / ".venv").exists()
        os.close(lock)
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert checkout.value() == "1"


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGKILL])
def test_what_was_cut_short_is_made_anew(checkout: Checkout, with_signal: signal.Signals) -> None:
    """A pipe in the wheel's place holds pip up."""
    path = checkout.links / WHEEL
    path.unlink()
    os.mkfifo(path)
    with checkout.started() as process:
        with path.open("wb"):  # blocks until pip reads
            os.killpg(process.pid, with_signal)
            printed, _ = process.communicate(timeout=120)
        assert process.returncode in (130, -signal.SIGKILL)
    assert "Traceback" not in printed
    path.unlink()
    wheel(path, 2)
    checkout.pin()
    assert "anew" in checkout.install()
    assert checkout.value() == "2"


@pytest.mark.parametrize(
    "change", ["moved", "damaged", "without its Python", "with another Python"]
)
def test_what_no_longer_fits_is_made_anew(installed: Checkout, tmp_path: Path, change: str) -> None:
    if change == "moved":
        installed.folder = installed.folder.rename(tmp_path / "moved")
    elif change == "damaged":  # as when the power fails
        (installed.folder / ".venv/.base").write_bytes(b"\xff")
    elif change == "without its Python":
        for python in (installed.folder / ".venv/bin").glob("python*"):
            python.unlink()
            python.symlink_to("/nonexistent/python")
    else:
        base = installed.folder / ".venv/.base"
        base.write_text(base.read_text().replace("{}.{}".format(*sys.version_info), "3.2"))
    assert "anew" in installed.install()
    assert installed.value() == "1"
    assert str(installed.folder) in (installed.folder / ".venv/bin/pip").read_text()


def test_the_environment_of_another_checkout_is_left_alone(
    installed: Checkout, tmp_path: Path
) -> None:
    owner, installed.folder = installed.folder, tmp_path / "another"
    shutil.copytree(owner / "requirements", installed.folder / "requirements")
    (installed.folder / ".venv").symlink_to(owner / ".venv")
    assert f"a link to that of {owner}: remove the link" in installed.install(status=1)
    assert installed.value() == "1"


def test_what_pip_cannot_find_is_said_and_harms_nothing(installed: Checkout) -> None:
    tiny = installed.folder / "requirements/tiny.txt"
    good = tiny.read_text()
    tiny.write_text("tiny==2.0 --hash=sha256:" + "0" * 64)
    *reason, what_to_do = installed.install(status=1).splitlines()
    assert any("No matching distribution found for tiny==2.0" in line for line in reason)
    assert "proxy" in what_to_do
    assert installed.value() == "1"
    tiny.write_text(good)
    assert installed.install() == ""
    tiny.write_text("# nothing any more\n")
    assert "Making" not in installed.install()  # the same environment
    assert installed.value() == "1"


def test_a_full_disk_is_named(checkout: Checkout) -> None:
    mount = f"mkdir .venv; mount -t tmpfs -o size=5m none '{checkout.folder}/.venv'"
    through = ("unshare", "--mount", "sh", "-ec", f'{mount}; exec "$@"', "sh")
    if subprocess.run([*through[:2], "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root")
    assert "o space left" in checkout.install(*through, status=1).splitlines()[-1]
    checkout.install()
    assert checkout.value() == "1"


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [(sys, "version_info", (3, 10, 12, "final", 0)), (util, "find_spec", lambda _: None)],
)
def test_a_python_that_will_not_do_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, owner: Any, name: str, value: Any
) -> None:
    monkeypatch.setattr(owner, name, value)
    monkeypatch.setattr(sys, "argv", ["install.py", str(tmp_path / ".venv"), __file__])
    with pytest.raises(SystemExit, match=r"^.*3\.11 or newer.*$"):
        install.main()
    assert not (tmp_path / ".venv").exists()


def test_a_folder_that_cannot_be_written_is_named(checkout: Checkout) -> None:
    (checkout.folder / ".venv").write_text("a file in its place")
    [*_, line] = checkout.install(status=1).splitlines()
    assert ".venv" in line
    assert "Traceback" not in line
