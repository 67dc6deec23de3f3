"""Make a virtual environment and install pinned packages into it, unless that is done already.

    python3 requirements/install.py .venv requirements/dev.txt
    python3 requirements/install.py .venv --project requirements/serve.txt requirements/torch.txt

pip's settings for where packages come from stay in force. Others (``user``, ``target``, ``prefix``,
...) would install elsewhere, or fail, and are ignored. An environment that was moved, whose Python
has gone, or whose installation was interrupted is made again. If there is nothing to do, nothing is
written.
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
"""pip's settings for where packages come from, and how to reach these places."""

OTHER_SETTINGS = r"PIP_(?!CONFIG_FILE$)|PYTHON|VIRTUAL_ENV$|__PYVENV"
"""Variables that change where Python and pip look, or what they do."""

INSTALLING = "Installing collected packages"
"""pip prints this after resolving and downloading, before it changes the environment."""

LAST_LINES = 8
SPARE_BYTES = 1 << 24


def install(folder: Path, files: list[Path], *, project: bool) -> None:
    """Make an environment for the Python that runs this, and install what is missing.

    Args:
        folder: The environment.
        files: Pinned requirements, in the order of their installation.
        project: Whether to install this project as well, in place, with its command.

    Raises:
        CalledProcessError: A command failed.
        OSError: A file cannot be written.
    """
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    inputs = [*files, *([ROOT / "pyproject.toml"] if project else [])]
    # ``base`` says what the environment was made for, and is missing during an installation;
    # ``stamp`` says what is installed.
    base, stamp = folder / ".base", folder / f".{files[0].stem}"
    made_for = os.fsencode("{}\n{}\n{}.{}".format(folder, python, *sys.version_info))
    digest = hashlib.sha256(b"\0".join(each.read_bytes() for each in inputs)).hexdigest().encode()

    def is_sound() -> bool:
        return _holds(base, made_for) and os.access(folder / "bin/python", os.X_OK)

    if is_sound() and _holds(stamp, digest):
        return
    reject_unfit_python()
    lock()
    if is_sound() and _holds(stamp, digest):
        return
    if not is_sound():
        reject_link(folder, base)
        again = " anew: it was moved or cut short, or its Python has changed"
        print(f"==> Making {folder.name}{again * folder.exists()}", flush=True)
        _run([sys.executable, "-I", "-m", "venv", "--clear", str(folder)])
    base.unlink(missing_ok=True)
    try:
        for file in files:
            print(f"==> Installing {file} (the first time may take minutes)", flush=True)
            # A site may have its own build of torch, for the CPU or for CUDA.
            hashes = [] if file.stem == "torch" else ["--require-hashes"]
            _pip_install(folder, "--requirement", str(file), *hashes)
        if project:
            _pip_install(folder, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    except subprocess.CalledProcessError as error:
        if INSTALLING not in error.output:  # the environment has not changed
            base.write_bytes(made_for)
        raise
    stamp.write_bytes(digest)
    base.write_bytes(made_for)


def _holds(file: Path, content: bytes) -> bool:
    return file.is_file() and file.read_bytes() == content


def reject_link(folder: Path, base: Path) -> None:
    """Raise FileExistsError if an environment is another checkout's, which may run from it."""
    if folder.is_symlink() and base.exists():
        owner = Path(os.fsdecode(base.read_bytes().partition(b"\n")[0]))
        if owner != folder and owner.exists() and owner.samefile(folder):
            raise FileExistsError(f"it is a link to that of {owner.parent}: remove the link")


def reject_unfit_python() -> None:
    """Exit with a remedy if this Python is too old, or cannot make environments."""
    if sys.version_info < (3, 11) or not (util.find_spec("venv") and util.find_spec("ensurepip")):
        sys.exit(
            f"{sys.executable} is Python {sys.version.split()[0]}, or lacks venv: install "
            "Python 3.11 or newer with venv (Debian: python3-venv), or name one with PYTHON="
        )


def lock() -> None:
    """Let no other process install in this checkout until this one and its children have ended."""
    folder = os.open(Path(__file__).parent, os.O_RDONLY)
    os.set_inheritable(folder, True)  # a child that outlives this process keeps the lock
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("==> Waiting: somebody else is installing in this checkout", flush=True)
        fcntl.flock(folder, fcntl.LOCK_EX)


def _pip_install(folder: Path, *what: str) -> None:
    pip = [str(folder / "bin/python"), "-I", "-m", "pip", "--disable-pip-version-check"]
    listed = _run([*pip, "config", "list"], PIP_USER="0")  # or it may list one file only
    command = [*pip, "--no-input", "install", "--progress-bar", "off", *what]
    _run(command, **site_settings(listed))


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
        close_fds=False,  # keeps the lock's open
        check=True,
    ).stdout


def site_settings(listed: str) -> dict[str, str]:
    """Return variables for pip with the site's settings, and without a configuration file.

    Args:
        listed: The output of ``pip config list``: lines like ``global.index-url='https://...'``.
    """
    found = {}
    for section in ("global", "install", ":env:"):  # later sections win
        for name, value in re.findall(rf"^{section}\.([\w-]+)=(.*)$", listed, re.MULTILINE):
            variable = "PIP_" + name.upper().replace("-", "_")
            if variable in SITE_SETTINGS:
                found[variable] = str(ast.literal_eval(value))
    return found | {"PIP_CONFIG_FILE": os.devnull}


def reason(output: str, folder: Path) -> str:
    """Return the last lines of a failed command's output, and a line that says what to do."""
    remedy = f"{folder} could not be completed, for the reason above"
    # ensurepip does not print its reason.
    free = shutil.disk_usage(folder).free if folder.exists() else SPARE_BYTES
    if "No space left on device" in output or free < SPARE_BYTES:
        remedy = f"no space left: {folder} and TMPDIR need 2 GB, or 6 with CUDA's libraries"
    elif INSTALLING not in output:
        remedy += "; behind a proxy or mirror set HTTPS_PROXY or pip's index-url"
    return "\n".join([*output.splitlines()[-LAST_LINES:], remedy])


def main() -> None:
    """Install, or exit with a reason."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--project", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    try:
        install(folder, arguments.files, project=arguments.project)
    except subprocess.CalledProcessError as error:
        sys.exit(reason(error.output, folder))
    except OSError as error:
        sys.exit(f"{folder} cannot be made: {error}")
    except KeyboardInterrupt:
        print(f"\n{folder} is not finished; the next run makes it anew", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
