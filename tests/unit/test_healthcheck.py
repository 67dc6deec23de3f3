"""The image's health check asks where the admin port listens."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.conftest import ROOT

Serve = Callable[..., int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves on one address, and nothing else; returns the port."""
    running: list[tuple[ThreadingHTTPServer, Thread]] = []

    def start(host: str, status: int = 200) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = self.path == "/v2/health/ready"
                self.send_response(status if found else 404)
                self.end_headers()
                self.wfile.write(b"told")

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        try:
            server = Server((host, 0), Handler)
        except OSError:
            pytest.skip(f"no {host} here")
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread))
        return int(server.server_address[1])

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def check(host: str, port: int, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "diagonalflip.server.healthcheck"],
        cwd=ROOT,
        env={"FLIP_ADMIN_HOST": host, "FLIP_ADMIN_PORT": str(port), **more},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("setting", "listens"),
    [
        ("", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("::", "::1"),
        ("::1", "::1"),
    ],
)
def test_it_asks_where_the_port_listens(serve: Serve, setting: str, listens: str) -> None:
    finished = check(setting, serve(listens))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "told\n"


def test_not_ready_is_not_healthy(serve: Serve) -> None:
    finished = check("", serve("127.0.0.1", 503))
    assert finished.returncode == 1
    assert finished.stdout == "told\n"


def test_it_says_where_nothing_answers() -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        finished = check("0.0.0.0", port)
    assert finished.returncode == 1
    assert f"no answer from http://127.0.0.1:{port}: " in finished.stderr


def test_it_asks_no_proxy(serve: Serve) -> None:
    proxy = f"http://127.0.0.1:{serve('127.0.0.1', 503)}"
    variables = {"http_proxy": proxy, "HTTP_PROXY": proxy, "all_proxy": proxy}
    finished = check("127.0.0.1", serve("127.0.0.1"), **variables)
    assert finished.returncode == 0, finished.stderr
