"""The admin port answers in the supervisor's own event loop."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from diagonalflip.server import health
from diagonalflip.server.http.listener import Listener
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import admin, tokens
from diagonalflip.server.supervisor.admin import AdminServer, Health
from diagonalflip.server.supervisor.ports import listen
from tests.conftest import asynchronous

TORCHSERVE: Any = SimpleNamespace(ready=False, settings=Settings(torchserve_port=1, grpc_port=2))


@pytest.mark.parametrize(
    ("torchserve", "told"),
    [(None, None), (TORCHSERVE, {"ready": False, "torchserve_port": 1, "grpc_port": 2})],
)
@asynchronous
async def test_it_tells_the_state_and_ends_with_its_connections(torchserve: Any, told: Any) -> None:
    workers: Any = SimpleNamespace(ready=1, count=2)
    models: Any = None
    state = Health(workers, torchserve, models, degraded=True)
    listener = Listener("admin", listen(("127.0.0.1", 0)))
    number, opened = listener.sock.getsockname()[1], asyncio.Event()
    server = AdminServer(state, None)
    serving = asyncio.create_task(server.serve([listener], opened.set))
    await opened.wait()
    assert await health.ask(number, "GET", "/v2/health/live") == (200, b'{"live": true}')
    for state.started, status in ((False, 503), (True, 200)):
        found, body = await health.ask(number, "GET", "/v2/health/ready")
        assert found == status
        assert json.loads(body) == {
            "ready": state.started,
            "degraded": True,
            "draining": False,
            "workers_ready": 1,
            "workers": 2,
            "torchserve": told,
        }
    reader, writer = await asyncio.open_connection("127.0.0.1", number)
    server.end()
    await serving
    assert await reader.read() == b"", "the connection outlived the port"
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", number)


@asynchronous
async def test_a_port_that_is_cancelled_ends_with_its_connections() -> None:
    """As when the supervisor stops."""
    workers: Any = SimpleNamespace(ready=1, count=1)
    models: Any = None
    listener = Listener("admin", listen(("127.0.0.1", 0)))
    number, opened = listener.sock.getsockname()[1], asyncio.Event()
    server = AdminServer(Health(workers, None, models), None)
    serving = asyncio.create_task(server.serve([listener], opened.set))
    await opened.wait()
    reader, writer = await asyncio.open_connection("127.0.0.1", number)
    writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"}")
    serving.cancel()
    await asyncio.wait([serving])
    async with asyncio.timeout(10):
        assert await reader.read() == b"", "the connection outlived the port"
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", number)


@pytest.mark.parametrize(
    ("peer", "own", "local"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.9", "127.0.0.1", True),
        ("::1", "::1", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
        ("10.0.0.5", "10.0.0.5", True),  # to an address of its own
        ("10.0.0.6", "10.0.0.5", False),
        ("::ffff:10.0.0.6", "::ffff:10.0.0.5", False),
        ("fe80::1%eth0", "fe80::2%eth0", False),
    ],
)
def test_it_knows_who_is_on_this_host(peer: str, own: str, local: bool) -> None:
    assert admin.is_local((peer, 1), (own, 2)) is local


@asynchronous
async def test_changes_come_from_this_host_and_reading_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that other hosts can read on its way must not be worth anything."""
    made = []

    async def rollback() -> None:
        made.append("rollback")

    models: Any = SimpleNamespace(rollback=rollback, document=dict, desired=None)
    workers: Any = SimpleNamespace(ready=1, count=1)
    token = tokens.add(tmp_path / "operators", "me")
    server = AdminServer(Health(workers, None, models), tmp_path / "operators")
    listener = Listener("admin", listen(("127.0.0.1", 0)))
    number, opened = listener.sock.getsockname()[1], asyncio.Event()
    serving = asyncio.create_task(server.serve([listener], opened.set))
    await opened.wait()

    def ask(method: str, path: str) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"}
        url = f"http://127.0.0.1:{number}{path}"
        return requests.request(method, url, headers=headers, timeout=10)

    for local, status in ((False, 403), (True, 200)):
        monkeypatch.setattr(admin, "is_local", lambda *_, local=local: local)
        changed = await asyncio.to_thread(ask, "POST", "/models/rollback")
        assert changed.status_code == status
        assert len(made) == local
        for path in ("/models", "/v2/health/live"):
            assert (await asyncio.to_thread(ask, "GET", path)).status_code == 200
        if not local:
            assert changed.json()["code"] == "insecure_connection"
            assert "kubectl port-forward" in changed.json()["action"]
    server.end()
    await serving
