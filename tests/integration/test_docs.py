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
from pathlib import Path

import pytest

from diagonalflip.wire import pack
from tests.conftest import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
PAGES.remove("docs/container.md")  # tests/image
BLOCK = re.compile(r"^```(sh|console)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
ELSEWHERE = {
    "make test": "this is it",
    "make lint": ".ci/run",
    "make format": "changes files",
    "make train": "tests/unit/test_train.py",
    ".ci/run": "runs this",
    "pip install": "tests/integration/test_wheel.py",
}
"""Commands that other tests, or nobody, can run here."""
OURS = re.compile("FLIP_MODEL_STORE$|MAKEFLAGS$|MFLAGS$|MAKELEVEL$|PYTEST_")
"""Variables of the make and the pytest that run this."""

UNSHARE = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
PRELUDE = r"""
set -euxo pipefail
ip link set lo up
export CURL_HOME=$PWD/home PATH="$PWD/.venv/bin:$PATH"
generate() { printf '11\n"0110"\n'; }
consume() { od -A n -t f4; }
serve() {
  [ -z "${server-}" ] || { kill $server; wait $server || true; }
  : > served
  command make -o installed serve "$@" >> served 2>&1 &
  server=$!
  grep -q '^==> Ready' < <(tail --pid=$server -n +1 -f served) || { cat served; return 1; }
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


@pytest.fixture
def checkout(versions: Path, tmp_path: Path) -> Path:
    """A copy of this one, with all that a reader is supposed to have."""
    its_network = [*UNSHARE, "ip", "link", "set", "lo", "up"]
    tools = shutil.which("unshare") and shutil.which("ip")
    if not tools or subprocess.run(its_network, check=False).returncode:
        pytest.skip("needs root and iproute2")
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


def script(page: str) -> str:
    """Return a page's commands, with what is left open filled in, and a server if one is asked."""
    lines, is_served = [], False
    for language, text in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        if language == "console":
            command, _, shown = text.removeprefix("$ ").partition("\n")
            commands = [f"diff -wB <({command}) - <<'END'\n{shown}\nEND"]
        else:
            commands = runnable(text)
        whole = "\n".join(commands)
        starts = re.search("make serve|torchserve --start", whole) is not None
        asks = re.search(r"curl |diagonalflip ", whole) is not None
        lines += [*(["make serve"] if asks and not starts and not is_served else []), *commands]
        is_served = is_served or starts or asks
    return "\n".join(lines)


def runnable(text: str) -> list[str]:
    """The commands of a block that can run here."""
    commands = []
    for line in text.replace("\\\n", " ").splitlines():
        command = line.split("  #")[0].strip()
        if command.startswith(tuple(ELSEWHERE)) or command in ("make serve", ""):
            continue
        command = re.sub(r"^(export \w+)=\.\.\.$", r"\1=$(cat token)", command)
        if " compare " in command:
            command += " || [ $? = 1 ]"  # bits of two versions differ
        commands.append(command)
    return commands


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[] if page == "README.md" else pytest.mark.slow)
        for page in sorted(PAGES)
        if script(page)
    ],
)
def test_its_commands_run(page: str, checkout: Path) -> None:
    finished = subprocess.run(
        [*UNSHARE, "bash", "-c", PRELUDE + script(page)],
        cwd=checkout,
        env={name: os.environ[name] for name in os.environ if not OURS.match(name)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
