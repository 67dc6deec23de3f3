"""The image's health check asks the admin port, and nothing between."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from diagonalflip.server import healthcheck


@contextmanager
def serving(status: int) -> Iterator[str]:
    """Answer with a status on a port of loopback; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/v2/health/ready" else 404)
            self.end_headers()
            self.wfile.write(b"told")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield str(server.server_address[1])
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "exit_status"), [(200, 0), (503, 1)])
def test_its_exit_status_is_readiness_and_it_asks_no_proxy(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    exit_status: int,
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY")
    with serving(status) as port:
        monkeypatch.setenv("FLIP_ADMIN_PORT", port)
        assert healthcheck.main() == exit_status
    assert capsys.readouterr().out == "told\n"


def test_it_says_where_nothing_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLIP_ADMIN_HOST", "0.0.0.0")
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        monkeypatch.setenv("FLIP_ADMIN_PORT", str(port))
        assert healthcheck.main() == 1
    assert f"no answer from http://127.0.0.1:{port}: " in capsys.readouterr().err


def test_it_says_where_something_else_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"SSH-2.0\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        monkeypatch.setenv("FLIP_ADMIN_PORT", port)
        thread = Thread(target=answer)
        thread.start()
        assert healthcheck.main() == 1
        thread.join()
    assert capsys.readouterr().err.startswith(f"no answer from http://127.0.0.1:{port}: ")
