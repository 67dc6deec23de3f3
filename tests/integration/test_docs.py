"""Every command in README and docs runs as it is written.

Each block runs in a copy of the checkout, and in a network of its own, where the default ports are
free. Files that a reader is supposed to have are there: images, certificates, a token. ``make
serve`` goes on while the rest of its block runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from diagonalflip.wire import pack
from tests.conftest import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
PAGES.remove("docs/container.md")  # tests/image
BLOCK = re.compile(r"^```(sh|console)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
BLOCKS = [
    pytest.param(language, text, id=f"{page}-{number}")
    for page in sorted(PAGES)
    for number, (language, text) in enumerate(BLOCK.findall((ROOT / page).read_text("utf-8")))
]
ELSEWHERE = {
    "make test": "this is it",
    "make lint": ".ci/run",
    "make format": "changes files",
    ".ci/run": "runs this",
    "pip install": "tests/integration/test_wheel.py",
}
"""Commands that other tests, or nobody, can run here."""
PRELUDE = r"""
set -euo pipefail
ip link set lo up
export CURL_HOME=$PWD/home PATH="$PWD/.venv/bin:$PATH"
generate() { printf '11\n"0110"\n'; }
consume() { od -A n -t f4; }
serve() {
  command make -o installed serve "$@" > served 2>&1 &
  until grep -q '^Ready' served; do
    kill -0 $! || { cat served >&2; return 1; }
  done
}
make() {
  case $1 in
    serve) shift; serve "$@" ;;
    token) command make -o installed "$@" | tee token
           export TOKEN=$(cat token) DIAGONALFLIP_TOKEN=$(cat token) ;;
    *) command make -o installed -o installed-dev "$@" ;;
  esac
}
curl() { command curl -sSf "$@"; }
"""


@pytest.fixture(scope="module")
def can_have_a_network() -> bool:
    """Whether this user may make a network of its own."""
    command = ["unshare", "--net", "ip", "link", "set", "lo", "up"]
    found = shutil.which("unshare") and shutil.which("ip")
    return bool(found) and subprocess.run(command, check=False).returncode == 0


@pytest.fixture
def checkout(versions: Path, tmp_path: Path) -> Path:
    """A copy of this one, with all that a reader is supposed to have."""
    copy = tmp_path / "checkout"
    names = (".*", "__pycache__", "model_store", "logs", "release")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*names))
    (copy / ".venv").symlink_to(ROOT / ".venv")
    versions.rename(copy / "model_store")
    for path in copy.glob("model_store/*/*"):
        path.touch()  # newer than what it was made from
    (copy / "images.bin").write_bytes(pack([11, 6, 12, 3]).packed)
    shutil.copy(copy / "export/weights-2.0.json", copy / "mine.json")
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    certificate += ["-keyout", "key.pem", "-out", "chain.pem", "-subj", "/CN=example.org"]
    certificate += ["-addext", "subjectAltName=DNS:example.org"]
    subprocess.run(certificate, cwd=copy, check=True, capture_output=True)
    (copy / "home").mkdir()
    settings = f'resolve = "example.org:8443:127.0.0.1"\ncacert = "{copy}/chain.pem"\n'
    (copy / "home/.curlrc").write_text(settings, encoding="utf-8")
    return copy


@pytest.fixture
def shell(checkout: Path, can_have_a_network: bool) -> Callable[[str], str]:
    """Run commands there; return what they print."""
    if not can_have_a_network:
        pytest.skip("needs root and iproute2")

    def run(text: str) -> str:
        command = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        finished = subprocess.run(
            [*command, "bash", "-c", PRELUDE + text],
            cwd=checkout,
            env={name: value for name, value in os.environ.items() if name != "MODEL_STORE"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout
        return finished.stdout

    return run


def runnable(text: str) -> str:
    """The lines of a block that can run here, with what is left open filled in."""
    lines = []
    for line in text.replace("\\\n", " ").splitlines():
        plain = line.split("  #")[0].strip()
        if plain.startswith(tuple(ELSEWHERE)) or plain == "make serve" or not plain:
            continue
        plain = re.sub(r"^(export \w+)=\.\.\.$", r"\1=$(cat token)", plain)
        if " compare " in plain:
            plain += " || [ $? = 1 ]"  # bits of two versions differ
        lines.append(plain)
    return "\n".join(lines)


@pytest.mark.parametrize(("language", "text"), BLOCKS)
def test_it_runs(language: str, text: str, shell: Callable[[str], str]) -> None:
    if language == "console":
        command, _, shown = text.removeprefix("$ ").partition("\n")
        assert shell(f"make serve\n{command}").split() == shown.split()
    elif commands := runnable(text):
        is_asked = re.search(r"curl |diagonalflip (?!check https)", commands)
        is_served = "make serve" in commands
        shell(commands if is_served or not is_asked else f"make serve\n{commands}")
