"""Makes a virtual environment and installs pinned packages into it, unless they are there.

    python3 requirements/install.py .venv requirements/dev.txt
    python3 requirements/install.py .venv --project requirements/serve.txt requirements/torch.txt

Of pip's settings, wherever they are made, those stay in force that say where packages come from.
The others (``user``, ``target``, ``prefix``, ...) would put them somewhere else, or fail.
An environment that was moved, whose Python has gone, or whose installation was cut short is made
anew. Where nothing is to be done, nothing is written.
"""

from __future__ import annotations

import argparse
import ast
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SITE_SETTINGS = {
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_PROXY"),
    *("PIP_TRUSTED_HOST", "PIP_CERT", "PIP_CLIENT_CERT", "PIP_KEYRING_PROVIDER", "PIP_CACHE_DIR"),
    *("PIP_NO_CACHE_DIR", "PIP_TIMEOUT", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES"),
}
"""Settings of pip that say where packages come from, and how they are reached."""

OTHER_SETTINGS = r"PIP_(?!CONFIG_FILE$)|PYTHON|VIRTUAL_ENV$|__PYVENV"
"""Variables that change where Python and pip look, or what they do."""

INSTALLING = "Installing collected packages"
"""pip says so when all is resolved and downloaded, and the environment is about to change."""

LAST_LINES = 8
SPARE_BYTES = 1 << 24


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
        # What the environment was made for. The file is missing while packages are installed.
        self._base = self.folder / ".base"
        self._stamp = self.folder / f".{files[0].stem}"

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
        return _holds(self._base, self.base()) and os.access(self._python, os.X_OK)

    def is_complete(self) -> bool:
        """Return whether nothing is to be done."""
        return self.is_sound() and _holds(self._stamp, self.digest())

    def complete(self) -> None:
        """Make what is not there.

        Raises:
            CalledProcessError: It cannot be made.
            OSError: It cannot be written.
        """
        if not self.is_sound():
            again = " anew: it was moved or cut short, or its Python has changed"
            print(f"==> Making {self.folder.name}{again * self.folder.exists()}", flush=True)
            _run([sys.executable, "-I", "-m", "venv", "--clear", str(self.folder)])
        self._base.unlink(missing_ok=True)
        for file in self.files:
            print(f"==> Installing {file} (the first time may take minutes)", flush=True)
            # Of torch a site may bring its own build, for the CPU or for CUDA.
            hashes = [] if file.stem == "torch" else ["--require-hashes"]
            self._install("--requirement", str(file), *hashes)
        if self.project:
            self._install("--no-deps", "--no-build-isolation", "--editable", str(ROOT))
        self._stamp.write_text(self.digest(), encoding="utf-8")
        self._base.write_text(self.base(), encoding="utf-8")

    def _install(self, *what: str) -> None:
        pip = [self._python, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
        listed = _run([*pip, "config", "list"], PIP_USER="0")  # or it would list one file only
        try:
            _run([*pip, "install", "--progress-bar", "off", *what], **site_settings(listed))
        except subprocess.CalledProcessError as error:
            if INSTALLING not in error.output:  # so nothing has changed
                self._base.write_text(self.base(), encoding="utf-8")
            raise


def _holds(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") == text


def _run(command: list[str], **settings: str) -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in SITE_SETTINGS or not re.match(OTHER_SETTINGS, name)
    }
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        close_fds=False,  # the lock's stays open
        check=True,
    ).stdout


def site_settings(listed: str) -> dict[str, str]:
    """Variables that keep a site's settings of pip in force, and no configuration file.

    Args:
        listed: What ``pip config list`` prints: lines like ``global.index-url='https://...'``.
    """
    found = {}
    for section in ("global", "install", ":env:"):  # the later ones win
        for name, value in re.findall(rf"^{section}\.([\w-]+)=(.*)$", listed, re.MULTILINE):
            variable = "PIP_" + name.upper().replace("-", "_")
            if variable in SITE_SETTINGS:
                found[variable] = str(ast.literal_eval(value))
    return found | {"PIP_CONFIG_FILE": os.devnull}


def reason(said: str, folder: Path) -> str:
    """Return the last lines of what a command said that failed, and what to do in one line."""
    told = f"{folder} could not be completed, for the reason above"
    # Of ensurepip's reason nothing is said.
    free = shutil.disk_usage(folder).free if folder.exists() else SPARE_BYTES
    if "No space left on device" in said or free < SPARE_BYTES:
        told = f"no space left: {folder} and TMPDIR need 2 GB, or 6 with CUDA's libraries"
    elif INSTALLING not in said:
        told += "; behind a proxy or mirror set HTTPS_PROXY or pip's index-url"
    return "\n".join([*said.splitlines()[-LAST_LINES:], told])


def lock() -> None:
    """Keep others from installing in this checkout until this program and its children end."""
    folder = os.open(Path(__file__).parent, os.O_RDONLY)
    os.set_inheritable(folder, True)  # so that no program is left behind without it
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("==> Waiting: somebody else is installing in this checkout", flush=True)
        fcntl.flock(folder, fcntl.LOCK_EX)


def main() -> None:
    """Install, or exit with a reason."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--project", action="store_true")
    environment = Environment(**vars(parser.parse_args()))
    try:
        if environment.is_complete():
            return
        if sys.version_info < (3, 11) or not (
            util.find_spec("venv") and util.find_spec("ensurepip")
        ):
            sys.exit(
                f"{sys.executable} is Python {sys.version.split()[0]}, or lacks venv: install "
                "Python 3.11 or newer with venv (Debian: python3-venv), or name one with PYTHON="
            )
        lock()
        if not environment.is_complete():
            environment.complete()
    except subprocess.CalledProcessError as error:
        sys.exit(reason(error.output, environment.folder))
    except OSError as error:
        sys.exit(f"{environment.folder} cannot be made: {error}")
    except KeyboardInterrupt:
        print(
            f"\n{environment.folder} is not finished; the next run makes it anew", file=sys.stderr
        )
        sys.exit(130)


if __name__ == "__main__":
    main()
