"""Makes a virtual environment and installs pinned packages into it, unless they are there.

    python3 requirements/install.py .venv requirements/dev.txt
    python3 requirements/install.py .venv --project requirements/serve.txt requirements/torch.txt

Of pip's settings, wherever they are made, those stay in force that say where packages come from.
The others (``user``, ``target``, ``prefix``, ...) would put them somewhere else, or refuse.
An environment that was moved, whose Python has gone, or whose installation was cut short is made
anew. Where nothing is to be done, nothing is written.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SITE_SETTINGS = {
    *("index-url", "extra-index-url", "no-index", "find-links", "trusted-host", "keyring-provider"),
    *("proxy", "cert", "client-cert", "timeout", "default-timeout", "retries"),
    *("cache-dir", "no-cache-dir"),
}
"""Settings of pip that say where packages come from, and how they are reached."""

INSTALLING = "Installing collected packages"
"""pip says so when all is resolved and downloaded, and the environment is about to change."""

LAST_LINES = 8
SPARE_BYTES = 1 << 24


class InstallError(Exception):
    """Reason and remedy in one line, below the last lines of the command that failed."""


class Environment:
    """A virtual environment of the Python that runs this.

    Args:
        folder: Of the environment.
        files: Pinned requirements, in the order in which they are installed.
        project: Whether this project is installed too, in place, with its command.
    """

    def __init__(self, folder: Path, files: list[Path], *, project: bool) -> None:
        self.folder = folder.absolute()
        self.files, self.project = files, project
        self._python = str(self.folder / "bin/python")
        self._base = self.folder / ".base"
        self._stamp = self.folder / f".{files[0].stem}"
        self._unfinished = self.folder / ".unfinished"

    def base(self) -> str:
        """Fingerprint of the environment: its path, and the Python below it."""
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        return "{}\n{}\n{}.{}".format(self.folder, python, *sys.version_info)

    def digest(self) -> str:
        """Digest of everything that is to be installed."""
        files = [*self.files, *([ROOT / "pyproject.toml"] if self.project else [])]
        return hashlib.sha256(b"\0".join(each.read_bytes() for each in files)).hexdigest()

    def is_sound(self) -> bool:
        """Return whether it can be used, with whatever is in it."""
        return (
            _read(self._base) == self.base()
            and not self._unfinished.exists()
            and os.access(self._python, os.X_OK)
        )

    def is_complete(self) -> bool:
        """Return whether nothing is to be done."""
        return self.is_sound() and _read(self._stamp) == self.digest()

    def complete(self, lock: int) -> None:
        """Makes what is not there.

        Args:
            lock: A descriptor for every program that writes there, so that none is left behind
                without it.

        Raises:
            InstallError: It cannot be made.
            OSError: It cannot be written.
        """
        if not self.is_sound():
            again = " anew: it was moved or cut short, or its Python has changed"
            print(f"==> Making {self.folder.name}{again * self.folder.exists()}", flush=True)
            venv = [sys.executable, "-I", "-m", "venv", "--clear", str(self.folder)]
            self._run(venv, lock, self.folder.name)
            self._base.write_text(self.base(), encoding="utf-8")
        self._unfinished.touch()
        for file in self.files:
            print(f"==> Installing {file} (the first time may take minutes)", flush=True)
            # Of torch a site may bring its own build, for the CPU or for CUDA.
            hashes = [] if file.stem == "torch" else ["--require-hashes"]
            self._pip(["--requirement", str(file), *hashes], lock, str(file))
        if self.project:
            editable = ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
            self._pip(editable, lock, ROOT.name)
            self._dump_java_classes()
        self._stamp.write_text(self.digest(), encoding="utf-8")
        self._unfinished.unlink()

    def _pip(self, arguments: list[str], lock: int, what: str) -> None:
        pip = [self._python, "-I", "-m", "pip"]
        listed = subprocess.run(
            [*pip, "config", "list"],
            env=clean_environment() | {"PIP_USER": "0"},  # or it would list one file only
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
        try:
            self._run([*pip, "install", *quiet, *arguments], lock, what, site_settings(listed))
        except InstallError as error:
            if INSTALLING not in str(error):
                self._unfinished.unlink()
            raise

    def _run(
        self, command: list[str], lock: int, what: str, settings: dict[str, str] | None = None
    ) -> None:
        finished = subprocess.run(
            command,
            cwd=ROOT,
            env=clean_environment() | (settings or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=[lock],
            check=False,
        )
        if finished.returncode == 0:
            return
        said = finished.stdout
        told = f"{what} could not be installed, for the reason above"
        # Of ensurepip's reason nothing is said.
        free = shutil.disk_usage(self.folder).free if self.folder.exists() else SPARE_BYTES
        if "No space left on device" in said or free < SPARE_BYTES:
            told = f"no space left: {self.folder} and TMPDIR need 2 GB, or 6 with CUDA's libraries"
        elif INSTALLING not in said:
            told += "; behind a proxy or mirror set HTTPS_PROXY or pip's index-url"
        raise InstallError("\n".join([*said.splitlines()[-LAST_LINES:], told]))

    def _dump_java_classes(self) -> None:
        """The wheel's Java comes without parsed classes; without them it starts more slowly."""
        script = "from supervisor.host import find_java; print(find_java())"
        environment = clean_environment()
        found = subprocess.run(
            [self._python, "-c", script],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        if java := found.stdout.strip():
            dump = [java, "-Xshare:dump", "-XX:+UseSerialGC"]
            subprocess.run(dump, env=environment, capture_output=True, check=False)


def clean_environment() -> dict[str, str]:
    """The environment, without what changes where Python and pip look, or what they do."""
    return {
        name: value
        for name, value in os.environ.items()
        if not re.match(r"PYTHON|VIRTUAL_ENV$|_?JAVA_|JDK_JAVA|__PYVENV", name)
        and (not name.startswith("PIP_") or _is_of_site(name) or name == "PIP_CONFIG_FILE")
    }


def site_settings(listed: str) -> dict[str, str]:
    """Variables that keep a site's settings of pip in force, and no configuration file.

    Args:
        listed: What ``pip config list`` prints: lines like ``global.index-url='https://...'``.
    """
    found = {}
    for section in ("global", "install", ":env:"):  # the later ones win
        for name, value in re.findall(rf"^{section}\.([\w-]+)=(.*)$", listed, re.MULTILINE):
            if name in SITE_SETTINGS:
                found["PIP_" + name.upper().replace("-", "_")] = str(ast.literal_eval(value))
    return found | {"PIP_CONFIG_FILE": os.devnull}


def _is_of_site(variable: str) -> bool:
    return variable.removeprefix("PIP_").lower().replace("_", "-") in SITE_SETTINGS


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""


@contextlib.contextmanager
def locked() -> Iterator[int]:
    """Keeps others from installing in this checkout meanwhile; yields the lock's descriptor."""
    lock = os.open(Path(__file__).parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("==> Waiting: somebody else is installing in this checkout", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def main() -> int:
    """Installs; returns an exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--project", action="store_true")
    options = parser.parse_args()
    environment = Environment(options.folder, options.files, project=options.project)
    if environment.is_complete():
        return 0
    if sys.version_info < (3, 11) or not (util.find_spec("venv") and util.find_spec("ensurepip")):
        print(
            f"{sys.executable} is Python {sys.version.split()[0]}, or lacks venv: install Python "
            "3.11 or newer with venv (Debian: python3-venv), or name one with PYTHON=",
            file=sys.stderr,
        )
        return 1
    try:
        with locked() as lock:
            if not environment.is_complete():
                environment.complete(lock)
    except InstallError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{options.folder} cannot be made: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\n{options.folder} is not finished; the next run makes it anew", file=sys.stderr)
        return 130
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
