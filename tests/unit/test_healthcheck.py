"""The image's health check asks the admin port, and nothing between."""

from __future__ import annotations

import asyncio

import pytest

from diagonalflip.server import healthcheck
from tests.faults.fake_server import listening


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

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("FLIP_ADMIN_HOST", "0.0.0.0")
    with listening(serve) as url:
        monkeypatch.setenv("FLIP_ADMIN_PORT", url.rpartition(":")[2])
        assert healthcheck.main() == exit_status
    assert asked[0].startswith(b"GET /v2/health/ready ")
    out, err = capsys.readouterr()
    assert out == told[0]
    assert err.startswith(told[1].format(url=url))
