"""Hosts as they are: what an environment, a kernel or an administrator may have set.

Each row starts the real service on such a host, has a client there compare a prediction, and
stops it. Rows that change more than the environment need root, and say so where they are skipped.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import psutil
import pytest
import requests

from diagonalflip.inference.devices import GPU_NODES
from diagonalflip.server.supervisor import tokens
from diagonalflip.server.supervisor.ports import free_ports
from tests.conftest import execute
from tests.integration.conftest import ROOT, Oracle, Server, run_server, start
from tests.integration.test_lifecycle import start_and_fail

pytestmark = pytest.mark.slow


class Host(NamedTuple):
    """An unusual host; ``{folder}`` is a short folder of the test's own."""

    environment: Mapping[str, str] = MappingProxyType({})
    script: str = ""  # shell commands that change the host, for processes of this test alone
    namespaces: tuple[str, ...] = ()  # what of the host they change, as ``unshare`` names it
    prepare: Callable[[Path], object] = lambda _: None  # is given the folder before all this
    torchserve: bool = False  # whether it is TorchServe's concern, which is on then

    def settings(self, folder: Path) -> dict[str, str]:
        given = {name: _in(folder, value) for name, value in self.environment.items()}
        return {"TORCHSERVE": f"{self.torchserve:d}"} | given

    def through(self, folder: Path) -> list[str]:
        """The command that starts another one there, in the same process."""
        if not self.script:
            return []
        unshare = ["unshare", *(f"--{name}" for name in self.namespaces)]
        whole = f'{_in(folder, self.script)}\nexec "$@"'
        return [*(unshare if self.namespaces else []), "sh", "-ec", whole, "sh"]


def _in(folder: Path, text: str) -> str:
    return text.replace("{folder}", str(folder))


def other_torch(folder: Path) -> None:
    """A module that ends whoever imports it."""
    (folder / "torch.py").write_text("import os; os._exit(9)")


def netrc(folder: Path) -> None:
    path = folder / ".netrc"
    path.write_text("machine 127.0.0.1 login somebody password secret\n")
    path.chmod(0o600)


def program(name: str, script: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return prepare


def turkish(folder: Path) -> None:
    if shutil.which("localedef") is None or not Path("/usr/share/i18n/locales/tr_TR").exists():
        pytest.skip("no sources of locales here (Debian: locales)")
    command = ["localedef", "-i", "tr_TR", "-f", "UTF-8", str(folder / "tr_TR.UTF-8")]
    subprocess.run(command, check=True, capture_output=True)


def checkout_with_blanks(folder: Path) -> None:
    """Another checkout, and an environment in it that finds this one's packages."""
    checkout = folder / "my own checkout"
    for name in ("diagonalflip", "export", "handlers"):
        shutil.copytree(ROOT / name, checkout / name)
    venv.create(checkout / ".venv", symlinks=True)
    packages = ".venv/lib/python{}.{}/site-packages".format(*sys.version_info)
    paths = f"{checkout}\n{sysconfig.get_path('purelib')}\n"
    (checkout / packages / "checkout.pth").write_text(paths)


ASK = """
import json, sys
from diagonalflip import Client
print(json.dumps([Client(url).predict([11, 6]).tolist() for url in sys.argv[1:]]))
"""
LONG = "a" * 95
PROXY = "http://127.0.0.1:1"  # nobody listens there
PROXIES = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"), PROXY)
DEVICE = "8b1d9f64-4a0e-4c0a-9f3d-2d6d8d0c7c11"
ON_PATH = {"PATH": f"{{folder}}:{os.environ['PATH']}"}
NO_IPV4 = Host(script="ip link set lo up; ip addr del 127.0.0.1/8 dev lo", namespaces=("net",))
NVIDIA_SMI = "echo index; echo 0; echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'"
NOBODY = "--reuid 54321 --regid 54321 --clear-groups"
MAY_READ = "--inh-caps +dac_read_search --ambient-caps +dac_read_search"  # a checkout below /root

ForTorchServe = partial(Host, torchserve=True)

HOSTS = {
    "proxies": Host(PROXIES | {"no_proxy": "", "NO_PROXY": ""}),
    "netrc": Host({"HOME": "{folder}"}, prepare=netrc),
    "another torch": Host({"PYTHONPATH": "{folder}"}, prepare=other_torch),
    "Python without docstrings": Host({"PYTHONOPTIMIZE": "2"}),
    "warnings as errors": Host({"PYTHONWARNINGS": "error"}),
    "long TMPDIR": ForTorchServe(
        {"TMPDIR": f"{{folder}}/{LONG}"}, prepare=lambda folder: (folder / LONG).mkdir()
    ),
    "no such TMPDIR": ForTorchServe({"TMPDIR": "/nonexistent"}),
    "TMPDIR with a blank": ForTorchServe(
        {"TMPDIR": "{folder}/a b"}, prepare=lambda folder: (folder / "a b").mkdir()
    ),
    "noexec TMPDIR": ForTorchServe(
        {"TMPDIR": "{folder}/t", "WORKERS": "2"},
        "mkdir {folder}/t; mount -t tmpfs -o noexec,nosuid,nodev,mode=1777 none {folder}/t",
        ("mount",),
    ),
    "noexec everywhere": ForTorchServe(
        {"WORKERS": "2"},
        "for each in /tmp /var/tmp /dev/shm; do "
        f"case {shlex.quote(str(ROOT))} in $each/*) continue; esac; "
        "mount --bind $each $each; mount -o remount,bind,noexec $each; done",
        ("mount",),
    ),
    "options for Java": ForTorchServe(
        dict.fromkeys(("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS"), "-Xmx1k")
    ),
    "other TorchServe": ForTorchServe({"TS_CONFIG_FILE": "/etc/hosts", "TS_NUMBER_OF_GPU": "none"}),
    "a GPU by its UUID": ForTorchServe({"CUDA_VISIBLE_DEVICES": f"GPU-{DEVICE}"}),
    "a MIG device": ForTorchServe({"CUDA_VISIBLE_DEVICES": f"MIG-{DEVICE}"}),
    "no device files": ForTorchServe({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}),
    "no visible device": ForTorchServe({"CUDA_VISIBLE_DEVICES": ""}),
    "nvidia-smi lies": ForTorchServe(ON_PATH, prepare=program("nvidia-smi", NVIDIA_SMI)),
    "nvidia-smi hangs": ForTorchServe(ON_PATH, prepare=program("nvidia-smi", "exec sleep 1000")),
    "no name": ForTorchServe(
        script="hostname nobody-knows-this; mount --bind /dev/null /etc/hosts",
        namespaces=("mount", "uts"),
    ),
    "no IPv6": Host(
        script="ip link set lo up; echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6",
        namespaces=("net",),
    ),
    "256 open files": Host({"TOKENS_FILE": "{folder}/tokens"}, "ulimit -n 256"),
    "no /dev/shm": Host(script="mount -t tmpfs -o ro,size=4k none /dev/shm", namespaces=("mount",)),
    "no HOME": Host(script="unset HOME"),
    "read-only HOME": Host({"HOME": "/proc"}),
    "umask 077": Host(script="umask 077"),
    "a user without a name": ForTorchServe(
        script=f'chmod -R a+rwX {{folder}}; set -- setpriv {NOBODY} {MAY_READ} "$@"'
    ),
    "LC_ALL=C": Host({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "Turkish": ForTorchServe({"LC_ALL": "tr_TR.UTF-8", "LOCPATH": "{folder}"}, prepare=turkish),
    "a checkout with blanks": ForTorchServe(
        script='cd \'{folder}/my own checkout\'; shift; set -- "$PWD/.venv/bin/python" "$@"',
        prepare=checkout_with_blanks,
    ),
    "read-only checkout": Host(
        script=f"mount --bind '{ROOT}' '{ROOT}'; mount -o remount,bind,ro '{ROOT}'; cd '{ROOT}'",
        namespaces=("mount",),
    ),
}


@pytest.mark.parametrize("name", HOSTS)
def test_it_serves_there(
    name: str, artifacts: Path, oracle: Oracle, folder: Path, is_changeable: bool
) -> None:
    if HOSTS[name].script and not is_changeable:
        pytest.skip("needs root")
    with serving_there(HOSTS[name], artifacts, oracle, folder):
        pass


@contextlib.contextmanager
def serving_there(host: Host, artifacts: Path, oracle: Oracle, folder: Path) -> Iterator[Server]:
    """Start the service there, compare predictions, and stop it."""
    tokens.add(folder / "tokens", "somebody")
    host.prepare(folder)
    settings = host.settings(folder)
    store = Path(shutil.copytree(artifacts, folder / "store"))
    through = host.through(folder)
    with run_server(store, folder / "logs", through=through, **settings) as server:
        assert_right(host, server, settings, oracle)
        yield server
        processes = psutil.Process(server.process.pid).children(recursive=True)
        assert server.stop(signal.SIGTERM) == 0
        assert not psutil.wait_procs(processes, timeout=10)[1], "left running"


@pytest.fixture
def half_a_cpu() -> Iterator[Path]:
    """A control group whose processes share half a core; of either version of cgroups."""
    root = Path("/sys/fs/cgroup")
    group = root / "cpu" if (root / "cpu").is_dir() else root
    group /= f"diagonalflip-{os.getpid()}"
    try:
        group.mkdir()
        try:
            (group / "cpu.cfs_quota_us").write_text("50000")  # of 100 ms
        except FileNotFoundError:
            (group / "cpu.max").write_text("50000 100000")
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    group.rmdir()


def test_it_serves_on_half_a_cpu(
    artifacts: Path, oracle: Oracle, folder: Path, half_a_cpu: Path
) -> None:
    host = Host(script=f"echo $$ > {half_a_cpu}/cgroup.procs")
    with serving_there(host, artifacts, oracle, folder) as server:
        assert str(server.process.pid) in (half_a_cpu / "cgroup.procs").read_text().split()


def test_a_clock_that_jumps_disturbs_nothing(artifacts: Path, oracle: Oracle, folder: Path) -> None:
    """The clock jumps back a day. The supervisor goes on proving the workers."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    shim = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    options = ["-shared", "-fPIC", "-Wall", "-Werror", "-o", str(shim)]
    subprocess.run([compiler, *options, str(source)], check=True)
    clock = folder / "clock"
    clock.write_text("0")
    host = Host({"LD_PRELOAD": str(shim), "CLOCK_FILE": str(clock), "HEALTH_CHECK_INTERVAL_S": "1"})
    passed = 'health_checks_total{result="passed"'
    with serving_there(host, artifacts, oracle, folder) as server:
        for process in server.workers:
            assert str(shim) in Path(f"/proc/{process.pid}/maps").read_text()
        clock.write_text("-86400")
        before = server.metric(passed)
        while server.metric(passed) < before + 3:  # the test's own time limit ends this
            assert server.readiness()["ready"]
        assert_right(host, server, {}, oracle)


def assert_right(host: Host, server: Server, settings: dict[str, str], oracle: Oracle) -> None:
    """Let our client ask every port, on that host, with its environment."""
    enter: list[str] = []
    if host.namespaces:
        enter = ["nsenter", f"--target={server.process.pid}"]
        enter += [f"--{name}" for name in host.namespaces]
    asked = [server, server.at_torchserve] if host.torchserve else [server]
    bases = [each.base for each in asked]
    found = execute(*enter, sys.executable, "-c", ASK, *bases, **settings)
    assert found.returncode == 0, found.stderr
    predictions = np.array(json.loads(found.stdout))
    assert predictions.shape == (len(bases), 2, 4)
    assert np.abs(predictions - oracle([11, 6])).max() <= 1e-6


def test_without_ipv4_it_says_so(artifacts: Path, folder: Path, is_changeable: bool) -> None:
    if not is_changeable:
        pytest.skip("needs root")
    line = start_and_fail(artifacts, folder, 4, through=NO_IPV4.through(folder))
    assert "127.0.0.1 needs a loopback interface with IPv4" in line


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_required_gpu_is_one_torch_can_use(artifacts: Path, folder: Path, workers: str) -> None:
    if any(Path(node).exists() for node in GPU_NODES):
        pytest.skip("there is a GPU here")
    program("nvidia-smi", NVIDIA_SMI)(folder)
    settings = {"PATH": f"{folder}:{os.environ['PATH']}", "REQUIRE_GPU": "1", "WORKERS": workers}
    line = start_and_fail(artifacts, folder / "logs", **settings)
    assert "No GPU that torch can use" in line
    assert "FLIP_REQUIRE_GPU=0" in line


def test_nobody_reads_its_logs(artifacts: Path, folder: Path) -> None:
    """A pipe that nobody empties, and that is full from the first lines on."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"\n")
    os.set_blocking(writer, True)
    port = free_ports()
    settings = {"LOG_FORMAT": "json", "STOP_TIMEOUT_S": "1", "PORT": str(port)}
    process = start(artifacts, folder / "logs", settings, to=writer)
    try:
        while not is_ready(port):  # the test's own time limit ends this
            assert process.poll() is None, "it ended"
        process.terminate()
        assert process.wait(1 + 10) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(writer)


def test_its_standard_streams_are_closed(artifacts: Path, folder: Path) -> None:
    port = free_ports()
    closing = 'exec "$0" "$@" <&- >&- 2>&-'
    through, to = ("sh", "-c", closing), subprocess.DEVNULL
    process = start(artifacts, folder / "logs", {"PORT": str(port)}, *through, to=to)
    try:
        while not is_ready(port):  # the test's own time limit ends this
            assert process.poll() is None, "it ended"
        streams = {str(Path(f"/proc/{process.pid}/fd/{each}").readlink()) for each in range(3)}
        assert streams == {os.devnull}, "no log goes into a socket"
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def is_ready(port: int) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).ok
    return False
