"""The drills: each breaks one thing under load, and waits until the service has recovered."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import time
from collections.abc import Callable
from functools import partial

import requests

from benchmarks.running import DIRECT
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import tokens
from diagonalflip.server.supervisor.torchserve_command import find_torchserve
from tests.drills import clients, disks
from tests.drills.scene import CALM_S, WAIT_TIMEOUT_S, Scene, SkippedError

IDLE_CONNECTIONS = 1000
SWITCHES = 50
DELAYS = ["0", "1", "3", "7", "15", "15", "15"]  # seconds between restarts of what cannot start


def workers_killed(scene: Scene, count: int = 2, killed: int = 1) -> None:
    with scene.loaded(WORKERS=str(count)) as service:
        for worker in service.workers()[:killed]:
            worker.kill()
        scene.broken(service, lambda: service.proven() < count)
    if killed == 1:
        scene.demand_no_wait(2)


def worker_hangs(scene: Scene) -> None:
    with scene.loaded() as service:
        victim = service.workers()[0]
        victim.suspend()
        scene.broken(service, lambda: service.proven() < 2)
        if scene.long:
            time.sleep(30 - (scene.recovered_s or 0.0))
        scene.demand(not victim.is_running(), "the worker that hung was not ended")
        scene.demand(service.healthy(), "unwell after it")


def worker_missing(scene: Scene) -> None:
    with scene.loaded(DEGRADED_AFTER_S="2") as service:
        started, lost = time.monotonic(), None
        while (passed_s := time.monotonic() - started) < (30 if scene.long else 8):
            for worker in service.workers()[1:]:  # and each that is started in its place
                worker.kill()
            if scene.detected_s is None and service.state().get("degraded"):
                scene.detected_s, lost = passed_s, scene.tally.lost
            time.sleep(0.1)
        scene.demand(service.ready(), "not ready with one worker")
        scene.demand(service.metric("degraded") == 1, "no metric says that it is degraded")
        scene.demand(scene.tally.lost == lost, "the missing worker lost a request")
        service.wait(service.healthy, WAIT_TIMEOUT_S)
        scene.recovered_s = time.monotonic() - started
        scene.demand(service.metric("degraded") == 0, "degraded after it has recovered")
    scene.demand(not scene.tally.rejected, "a request was rejected")
    scene.demand_no_wait(2, 5)


def java_killed(scene: Scene) -> None:
    with scene.loaded(TORCHSERVE="1") as service:
        service.java().kill()
        scene.broken(service, lambda: service.restarted("torchserve"), 30)
    scene.demand_no_loss()


def java_dead(scene: Scene) -> None:
    installed, times = find_torchserve(Settings()), 7 if scene.long else 4
    if installed is None:
        raise SkippedError("TorchServe is not installed")
    java = scene.folder / "java/bin/java"
    java.parent.mkdir(parents=True)
    java.symlink_to(installed.java)
    with scene.loaded(TORCHSERVE="1", JAVA_HOME=str(java.parent.parent)) as service:
        java.unlink()
        java.write_text("#!/bin/sh\nexit 1\n")
        java.chmod(0o755)
        service.java().kill()
        scene.detected_s = service.wait(lambda: not service.serves(), WAIT_TIMEOUT_S)
        scene.demand(service.metric("torchserve_ready") == 0, "the metric says that it is ready")
        service.wait(lambda: service.restarted("torchserve", times), WAIT_TIMEOUT_S)
        log = (service.folder / "output.log").read_text()
        delays = re.findall(r"starting it again in (\d+) s", log)
        scene.demand(delays == DELAYS[:times], f"restarts after {delays} s")
        scene.demand(service.ready(), "not ready without TorchServe")
        java.unlink()
        java.symlink_to(installed.java)
        scene.recovered_s = service.wait(service.healthy, WAIT_TIMEOUT_S)
    scene.demand_no_loss()


def drained(scene: Scene, number: signal.Signals, **settings: str) -> None:
    with scene.loaded(10.0, DRAIN_S="1", **settings) as service:
        before, accepted = scene.tally.right, False
        service.process.send_signal(number)
        started = time.monotonic()
        scene.detected_s = service.wait(lambda: not service.ready(), 5)
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", service.port), 2).close()
            accepted = True
        scene.demand(accepted, "closed before readiness was false for DRAIN_S")
        scene.demand(service.process.wait(40) == 0, "exit status not 0")
        took_s = time.monotonic() - started
        scene.notes.append(f"exit 0 after {took_s:.1f} s")
        scene.demand(took_s <= 30, "took more than 30 s to end")
        scene.demand(scene.tally.right > before, "nothing answered while it drained")
    scene.tally.failed.pop("ConnectionFailed", None)  # of the last call: there is nobody any more
    scene.demand(scene.tally.lost == 0, "an accepted request was lost")


def queue_full(scene: Scene) -> None:
    with scene.loaded() as service:
        statuses, rejected_s = asyncio.run(clients.burst(service, 1000))
        told = ", ".join(f"{count} {status}" for status, count in statuses.items())
        scene.notes.append(f"of 1,000: {told}; slowest rejection {rejected_s:.2f} s")
        scene.demand(set(statuses) <= {"200", clients.REJECTED}, "another answer")
        scene.demand(clients.REJECTED in statuses, "nothing was rejected")
        scene.tally.rejected.pop(503, None)


def overload(scene: Scene) -> None:
    seconds = 30.0 if scene.long else 5.0
    with scene.loaded(deadline_s=2 * seconds) as service:  # the overload ends before
        capacity = asyncio.run(clients.drive(service, 16, 5.0))["200"] / 5
        before = service.pss_mib()
        found = asyncio.run(clients.drive(service, 1900, seconds))
        after = service.pss_mib()
        goodput = found["200"] / seconds
        scene.notes.append(
            f"{capacity:.0f} requests/s at capacity, {goodput:.0f} of "
            f"{found.total() / seconds / capacity:.1f} times that; "
            f"memory {before:.0f} then {after:.0f} MiB"
        )
        scene.demand(goodput >= 0.8 * capacity, "goodput fell by more than 20 %")
        scene.demand(after < before + 1024, "memory is not bounded")
        service.wait(service.healthy, 15)
        scene.tally.rejected.pop(503, None)


def slow_clients(scene: Scene) -> None:
    with scene.loaded() as service:
        endings = asyncio.run(clients.slow_clients(service))
        told = ", ".join(f"{count} {ending}" for ending, count in endings.items())
        scene.notes.append(f"{clients.SLOW_CLIENTS} of each: {told}")
        for kind in ("slow headers", "slow body", "half body"):
            ended = endings[f"{kind}: 408"]
            scene.demand(ended == clients.SLOW_CLIENTS, f"{kind} not ended by 408")
        scene.demand(service.healthy(), "unwell after it")


def idle_connections(scene: Scene) -> None:
    with scene.loaded() as service, contextlib.ExitStack() as held:
        for _ in range(IDLE_CONNECTIONS):
            held.enter_context(socket.create_connection(("127.0.0.1", service.port), 10))
        time.sleep(2 * CALM_S)
        scene.demand(service.healthy(), "unwell beside them")


def tokens_change(scene: Scene) -> None:
    with scene.loaded() as service:
        file = service.folder / "tokens"
        other = tokens.add(file, "other")
        scene.detected_s = service.wait(lambda: service.describe(other).status_code == 200, 10)
        lines = file.read_text().replace(" other", " revoked")
        file.write_text(lines)
        service.process.send_signal(signal.SIGHUP)
        scene.recovered_s = service.wait(lambda: service.describe(other).status_code == 403, 10)
        file.write_text(lines.splitlines()[0] + "\n")
        service.wait(lambda: service.describe(other).status_code == 401, 10)
    scene.demand(not scene.tally.rejected, "a good token was rejected")
    scene.demand(scene.tally.lost == 0, "a request was lost")


def versions_switched(scene: Scene) -> None:
    first, second = list(scene.tables)[:2]
    operators = scene.folder / "operators"
    headers = {"Authorization": f"Bearer {tokens.add(operators, 'drill')}"}
    files = {"MODEL_STORE": str(disks.copied_store(scene)), "OPERATORS_FILE": str(operators)}
    longest_s = 0.0
    with scene.loaded(20.0, TORCHSERVE="1", **files) as service:
        for turn in range(SWITCHES):
            version = (second, first)[turn % 2]
            change = "rollback" if turn % 2 else f"{version}/default"
            url = f"{service.at('ADMIN_PORT').url}/models/{change}"
            started = time.monotonic()
            changed = requests.post(url, headers=headers, timeout=WAIT_TIMEOUT_S, proxies=DIRECT)
            longest_s = max(longest_s, time.monotonic() - started)
            served = changed.json().get("default", changed.text)
            scene.demand(served == version, f"{served} is the default instead of {version}")
            answers = {service.describe().headers["Flip-Model-Version"] for _ in range(4)}
            scene.demand(answers == {version}, f"after a switch to {version} answered {answers}")
    scene.notes.append(f"{SWITCHES} switches, each within {1e3 * longest_s:.0f} ms")
    scene.demand_no_loss()


DRILLS: dict[str, tuple[str, Callable[[Scene], None]]] = {
    "worker_killed": ("kill -9 of a worker", workers_killed),
    "all_workers_killed": ("kill -9 of every worker at once", partial(workers_killed, killed=2)),
    "only_worker_killed": ("kill -9 of the only worker", partial(workers_killed, count=1)),
    "worker_hangs": ("SIGSTOP of a worker for 30 s", worker_hangs),
    "worker_missing": ("one worker of two cannot start again", worker_missing),
    "java_killed": ("kill -9 of the JVM", java_killed),
    "java_dead": ("Java cannot start again", java_dead),
    "stopped": ("SIGTERM under load", partial(drained, number=signal.SIGTERM, TORCHSERVE="1")),
    "interrupted": ("Ctrl-C under load", partial(drained, number=signal.SIGINT)),
    "queue_full": ("more requests at once than the queue holds", queue_full),
    "overload": ("10 times the load that saturates it, for 30 s", overload),
    "slow_clients": ("slow headers, slow bodies, half bodies and hang-ups", slow_clients),
    "idle_connections": ("1,000 idle connections beside the load", idle_connections),
    "disk_full": ("a full disk below the logs", disks.disk_full),
    "temporary_full": ("a full temporary disk, and worker and Java die", disks.temporary_full),
    "temporary_cleaned": (
        "all temporary files are deleted, and workers die",
        disks.temporary_cleaned,
    ),
    "archive_corrupt": (
        "the archive is damaged while it serves, and worker and Java die",
        disks.archive_corrupt,
    ),
    "versions_switched": ("50 switches between two versions", versions_switched),
    "tokens_change": ("tokens are exchanged, and SIGHUP is sent, under load", tokens_change),
}
"""Titles and what they do, by what ``--only`` calls them."""
