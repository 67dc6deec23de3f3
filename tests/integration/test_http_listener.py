"""The HTTP listener beside TorchServe's port: same answers; what clients see when workers end."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np
import pytest
import requests

from diagonalflip.wire import OCTETS, pack
from tests.integration.conftest import PATH, Oracle, Server, run_server
from tests.integration.test_predictions import assert_predicts

CLIENTS = 16


@pytest.mark.parametrize("path", [PATH, "/", "/ping", "/v2", "/v2/models/diagonal_flip/infer"])
def test_no_web_page_reaches_it_by_a_name_of_its_own(server: Server, path: str) -> None:
    """DNS rebinding: a page's name resolves to loopback, and its requests carry that name."""
    for base in (server.base, server.operations):
        url, ask = f"{base}{path}", partial(requests.post, data=b"\xb6", timeout=60)
        answer = ask(url, headers={"Host": "evil.example"})
        assert answer.status_code == 421
        assert "evil.example" in answer.text
        assert ("error" in answer.json()) == path.startswith("/v2")
        for host in ("localhost:1", "[::1]", "127.0.0.2"):
            assert ask(url, headers={"Host": host}).status_code != 421


def test_management_is_not_reached_by_tcp(server: Server) -> None:
    words = server.java.cmdline()
    configuration = Path(words[words.index("-f") + 1])
    assert f"management_address=unix:{configuration.parent}/" in configuration.read_text()
    assert configuration.parent.stat().st_mode & 0o777 == 0o700
    ports = {each.laddr.port for each in server.java.net_connections() if each.status == "LISTEN"}
    assert len(ports) == 4  # REST, metrics, and two of gRPC


def test_without_a_worker_clients_wait(artifacts: Path, oracle: Oracle, tmp_path: Path) -> None:
    """No client is rejected or reset whose connection the dead worker had not accepted."""
    with run_server(artifacts, tmp_path, WORKERS="1") as server:
        worker = server.workers[0]
        worker.kill()
        worker.wait(10)
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(lambda _: server.post(b"\xb6", OCTETS), range(CLIENTS)))
        for answer in answers:
            assert_predicts(answer, oracle([11, 6]))


def ask_until_closed(server: Server, all_begun: threading.Barrier) -> str:
    """Asks on one connection until the server says that it closes; returns how it ended."""
    connection = HTTPConnection(server.base.removeprefix("http://"), timeout=30)
    with contextlib.closing(connection):
        connection.connect()
        connection.auto_open = 0
        begun = False
        while True:
            try:
                connection.request("POST", PATH, b"\xb6", {"Content-Type": OCTETS})
                answer = connection.getresponse()
                assert (answer.status, len(answer.read())) == (200, 32)
            except (OSError, HTTPException) as error:
                return f"lost: {error!r}"
            if not begun:
                begun = True
                all_begun.wait(30)
            if answer.getheader("connection") == "close":
                return "told"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_loses_no_request(artifacts: Path, tmp_path: Path, workers: int) -> None:
    """Busy clients are told to go, with an answer to all that they sent; idle ones are let go."""
    with (
        run_server(artifacts, tmp_path, WORKERS=str(workers), DRAIN_S="1") as server,
        ThreadPoolExecutor(CLIENTS) as pool,
        socket.create_connection(("127.0.0.1", int(server.base.rpartition(":")[2]))) as idle,
    ):
        all_begun = threading.Barrier(CLIENTS + 1)
        clients = [pool.submit(ask_until_closed, server, all_begun) for _ in range(CLIENTS)]
        all_begun.wait(30)
        server.process.send_signal(signal.SIGTERM)
        while requests.get(server.base + "/v2/health/ready", timeout=10).ok:
            pass  # until it says that it stops; it answers for another second
        outcomes = [client.result(30) for client in clients]
        assert server.process.wait(30) == 0
        assert idle.recv(1) == b""
    assert set(outcomes) == {"told"}, outcomes


def test_a_client_that_never_ends_does_not_keep_it(artifacts: Path, tmp_path: Path) -> None:
    with run_server(artifacts, tmp_path, STOP_TIMEOUT_S="1") as server:
        address = ("127.0.0.1", int(server.base.rpartition(":")[2]))
        with socket.create_connection(address) as slow:
            head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
            slow.sendall(head.encode())
            assert server.stop(signal.SIGTERM) == 0


def test_memory_of_large_answers_is_kept(artifacts: Path, oracle: Oracle, tmp_path: Path) -> None:
    """An answer of 2 MiB has 512 pages: mapped anew each time, they take as long as it does."""
    numbers = np.arange(131_072) % 16
    body = bytes(pack(numbers).packed)
    with run_server(artifacts, tmp_path, WORKERS="1") as server, requests.Session() as session:
        worker = server.workers[0].pid
        ask = partial(session.post, server.url, body, headers={"Content-Type": OCTETS}, timeout=60)
        assert_predicts(ask(), oracle(numbers))
        for _ in range(20):
            ask()
        before = page_faults(worker)
        for _ in range(50):
            ask()
        assert (page_faults(worker) - before) / 50 < 100


def page_faults(pid: int) -> int:
    """Minor page faults of a process so far (proc(5), stat)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])
