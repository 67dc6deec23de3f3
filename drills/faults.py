"""The drills: each breaks one thing under load, and waits until the service has recovered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import requests

from drills import clients
from drills.scene import CALM_S, PATIENCE_S, Scene
from drills.service import DIRECT, PATH, Service
from supervisor import store, tokens
from supervisor.choice import CHOICE

IDLE_CONNECTIONS = 1000
SWITCHES = 50


def worker_killed(scene: Scene) -> None:
    with scene.loaded() as service:
        victim = service.workers()[0]
        victim.kill()
        scene.broken(service, lambda: _proven(service) < 2, 10)


def all_workers_killed(scene: Scene) -> None:
    with scene.loaded() as service:
        for worker in service.workers():
            worker.kill()
        scene.broken(service, lambda: _proven(service) < 2, 10)


def worker_hangs(scene: Scene) -> None:
    with scene.loaded() as service:
        victim = service.workers()[0]
        victim.suspend()
        scene.broken(service, lambda: _proven(service) < 2, 10)
        if scene.long:
            time.sleep(30 - (scene.recovered_s or 0.0))
        scene.demand(not victim.is_running(), "the worker that hung was not ended")
        scene.demand(service.healthy(), "unwell after it")


def java_killed(scene: Scene) -> None:
    with scene.loaded() as service:
        service.java().kill()
        scene.broken(service, lambda: _restarts(service, "torchserve") == 1, 10)


def stopped(scene: Scene) -> None:
    _drain(scene, signal.SIGTERM)


def interrupted(scene: Scene) -> None:
    _drain(scene, signal.SIGINT)


def _drain(scene: Scene, number: signal.Signals) -> None:
    with scene.loaded(10.0, DRAIN_S="1") as service:
        before = scene.tally.right
        service.process.send_signal(number)
        started = time.monotonic()
        service.wait(lambda: not service.ready(), 5)
        scene.detected_s = time.monotonic() - started
        scene.demand(_accepts(service), "closed before readiness was false for DRAIN_S")
        scene.demand(service.process.wait(40) == 0, "exit status not 0")
        took_s = time.monotonic() - started
        scene.notes.append(f"exit 0 after {took_s:.1f} s")
        scene.demand(took_s <= 30, "took more than 30 s to end")
        scene.demand(scene.tally.right > before, "nothing answered while it drained")
    scene.tally.failed.pop("ConnectionFailed", None)  # of the last call: there is nobody any more
    scene.demand(scene.tally.lost == 0, "an accepted request was lost")


def queue_full(scene: Scene) -> None:
    with scene.loaded() as service:
        statuses, refused_s = asyncio.run(clients.burst(service, 1000))
        told = ", ".join(f"{count} {status}" for status, count in statuses.items())
        scene.notes.append(f"of 1,000: {told}; slowest refusal {refused_s:.2f} s")
        scene.demand(set(statuses) <= {"200", "503 Retry-After"}, "another answer")
        scene.demand("503 Retry-After" in statuses, "nothing was refused")
        scene.tally.refused.pop(503, None)


def overload(scene: Scene) -> None:
    seconds = 30.0 if scene.long else 5.0
    with scene.loaded(deadline_s=2 * seconds) as service:  # the overload ends before
        capacity, _ = asyncio.run(clients.drive(service, 16, 5.0))
        before = _memory_mib(service)
        goodput, refused = asyncio.run(clients.drive(service, 1900, seconds))
        offered = (goodput + refused) / capacity
        scene.notes.append(
            f"{capacity:.0f} requests/s at capacity, {goodput:.0f} of {offered:.1f} times that; "
            f"memory {before:.0f} then {_memory_mib(service):.0f} MiB"
        )
        scene.demand(goodput >= 0.8 * capacity, "goodput fell by more than 20 %")
        scene.demand(_memory_mib(service) < before + 1024, "memory is not bounded")
        service.wait(service.healthy, 15)
        scene.tally.refused.pop(503, None)


def slow_clients(scene: Scene) -> None:
    with scene.loaded() as service:
        endings = asyncio.run(clients.slow_clients(service))
        told = ", ".join(f"{count} {ending}" for ending, count in endings.items())
        scene.notes.append(f"{clients.SLOW_CLIENTS} of each: {told}")
        for kind in ("slow headers", "slow body", "half body"):
            scene.demand(
                endings.get(f"{kind}: 408", 0) == clients.SLOW_CLIENTS, f"{kind} not ended by 408"
            )
        scene.demand(service.healthy(), "unwell after it")


def idle_connections(scene: Scene) -> None:
    with scene.loaded() as service, contextlib.ExitStack() as held:
        for _ in range(IDLE_CONNECTIONS):
            held.enter_context(socket.create_connection(("127.0.0.1", service.port), 10))
        time.sleep(2 * CALM_S)
        scene.demand(service.healthy(), "unwell beside them")


def disk_full(scene: Scene) -> None:
    logs = scene.folder / "logs"
    logs.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(logs)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        scene.notes.append("SKIPPED: may not mount a small disk here")
        return
    try:
        with scene.loaded() as service:
            with contextlib.suppress(OSError), (logs / "fill").open("wb") as file:
                while True:
                    file.write(bytes(4096))
            _ask_without_token(service, 200)  # each of them is logged
            service.workers()[0].kill()
            scene.broken(service, lambda: _proven(service) < 2, 10)
            scene.notes.append(f"{shutil.disk_usage(logs).free} bytes free")
    finally:
        subprocess.run(["umount", "--lazy", str(logs)], check=True)


def archive_corrupt(scene: Scene) -> None:
    folder = _copied_store(scene)
    archive = store.exports(folder)[0] / "diagonal_flip.mar"
    content = archive.read_bytes()
    # Workers load the copy that was checked.
    with scene.loaded(MODEL_STORE=str(folder)) as service:
        archive.write_bytes(content[:-1000])
        service.java().kill()
        scene.broken(service, lambda: _restarts(service, "torchserve") == 1, 10)


def tokens_change(scene: Scene) -> None:
    with scene.loaded() as service:
        other = tokens.add(service.tokens_file, "other")
        scene.detected_s = service.wait(lambda: _status(service, other) == 200, 10)
        lines = service.tokens_file.read_text().replace(" other", " revoked")
        service.tokens_file.write_text(lines)
        service.process.send_signal(signal.SIGHUP)
        scene.recovered_s = service.wait(lambda: _status(service, other) == 403, 10)
        service.tokens_file.write_text(lines.splitlines()[0] + "\n")
        service.wait(lambda: _status(service, other) == 401, 10)
    scene.demand(not scene.tally.refused, "a good token was refused")
    scene.demand(scene.tally.lost == 0, "a request was lost")


def versions_switched(scene: Scene) -> None:
    first, second = list(scene.tables)[:2]
    model_store, operators = _copied_store(scene), scene.folder / "operators"
    token = tokens.add(operators, "drill")
    longest_s = 0.0
    with scene.loaded(MODEL_STORE=str(model_store), OPERATORS_FILE=str(operators)) as service:
        for turn in range(SWITCHES):
            version = (second, first)[turn % 2]
            started = time.monotonic()
            served = _switch(service, token, f"{version}/default" if turn % 4 < 2 else "rollback")
            longest_s = max(longest_s, time.monotonic() - started)
            scene.demand(served == version, f"{served} is the default instead of {version}")
            answers = {_default_version(service) for _ in range(2 * service.workers_wanted)}
            scene.demand(answers == {version}, f"after a switch to {version} answered {answers}")
    scene.notes.append(f"{SWITCHES} switches, each within {1e3 * longest_s:.0f} ms")
    scene.demand(not scene.tally.refused, "a request was refused")
    scene.demand(scene.tally.lost + scene.tally.unreachable == 0, "a request was lost")


def _copied_store(scene: Scene) -> Path:
    """A model store whose content may be changed, and in which nothing was chosen."""
    source, copy = Path(os.environ.get("MODEL_STORE", "model_store")), scene.folder / "store"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns(CHOICE))
    return copy


def _switch(service: Service, token: str, change: str) -> str:
    """The default version after a change."""
    url, headers = f"{service.operations_url}/models/{change}", {"Authorization": f"Bearer {token}"}
    answer = requests.post(url, headers=headers, timeout=PATIENCE_S, proxies=DIRECT)
    return str(answer.json().get("default", answer.text))


def _default_version(service: Service) -> str:
    headers = {"Authorization": f"Bearer {service.token}"}
    answer = requests.get(service.url + PATH, headers=headers, timeout=PATIENCE_S, proxies=DIRECT)
    return answer.headers["Flip-Model-Version"]


def _status(service: Service, token: str) -> int:
    with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
        request = f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        connection.sendall(request.encode())
        return int(connection.recv(4096).split()[1])


def _ask_without_token(service: Service, times: int) -> None:
    threads = [threading.Thread(target=_status, args=(service, "none")) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _accepts(service: Service) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", service.port), 2).close()
        return True
    return False


def _proven(service: Service) -> float:
    return service.metrics().get("diagonalflip_workers_proven", 0)


def _restarts(service: Service, part: str) -> float:
    return service.metrics().get(f'diagonalflip_restarts_total{{part="{part}"}}', 0)


def _memory_mib(service: Service) -> float:
    total = 0
    for process in service.tree():
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total / (1 << 20)


DRILLS: dict[str, Callable[[Scene], None]] = {
    "kill -9 of a worker": worker_killed,
    "kill -9 of every worker at once": all_workers_killed,
    "SIGSTOP of a worker for 30 s": worker_hangs,
    "kill -9 of the JVM": java_killed,
    "SIGTERM under load": stopped,
    "Ctrl-C under load": interrupted,
    "more requests at once than the queue holds": queue_full,
    "10 times the load that saturates it, for 30 s": overload,
    "slow headers, slow bodies, half bodies and hang-ups": slow_clients,
    "1,000 idle connections beside the load": idle_connections,
    "a full disk below the logs": disk_full,
    "the archive is damaged while it serves, and Java dies": archive_corrupt,
    "50 switches between two versions": versions_switched,
    "tokens are exchanged, and SIGHUP is sent, under load": tokens_change,
}
