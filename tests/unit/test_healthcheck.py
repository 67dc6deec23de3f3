"""The image's health check asks the admin port, and nothing between."""

from __future__ import annotations

import socket
from threading import Thread

import pytest

from diagonalflip.server import healthcheck


@pytest.mark.parametrize(
    ("answer", "exit_status", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntold", 0, ("told\n", "")),
        (b"HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\ntold", 1, ("told\n", "")),
        (b"SSH-2.0\r\n", 1, ("", "no answer from {url}: SSH-2.0")),
        (b"", 1, ("", "no answer from {url}: Remote end closed connection")),
    ],
)
def test_its_exit_status_is_readiness_and_it_asks_no_proxy(
    answer: bytes,
    exit_status: int,
    told: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(1 << 16))
            connection.sendall(answer)

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("FLIP_ADMIN_HOST", "0.0.0.0")
        monkeypatch.setenv("FLIP_ADMIN_PORT", str(port))
        thread = Thread(target=serve, daemon=True)
        thread.start()
        assert healthcheck.main() == exit_status
        thread.join()
    assert asked[0].startswith(b"GET /v2/health/ready ")
    out, err = capsys.readouterr()
    assert out == told[0]
    assert err.startswith(told[1].format(url=f"http://127.0.0.1:{port}"))
