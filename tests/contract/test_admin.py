"""The admin port answers in the supervisor's own event loop."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from diagonalflip.errors import SettingError
from diagonalflip.server import health
from diagonalflip.server.http.listener import Listener
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import admin, tokens
from diagonalflip.server.supervisor.admin import AdminServer, Health
from diagonalflip.server.supervisor.ports import listen
from tests.conftest import asynchronous

TORCHSERVE: Any = SimpleNamespace(ready=False, settings=Settings(torchserve_port=1, grpc_port=2))


@asynccontextmanager
async def serving(server: AdminServer) -> AsyncIterator[tuple[int, asyncio.Task[None]]]:
    """Serve; yield the port, and what ends with it."""
    listener = Listener("admin", listen(("127.0.0.1", 0)))
    number, opened = listener.sock.getsockname()[1], asyncio.Event()
    task = asyncio.create_task(server.serve([listener], opened.set))
    await opened.wait()
    try:
        yield number, task
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize(
    ("torchserve", "told"),
    [(None, None), (TORCHSERVE, {"ready": False, "torchserve_port": 1, "grpc_port": 2})],
)
@asynchronous
async def test_it_tells_the_state(torchserve: Any, told: Any) -> None:
    workers: Any = SimpleNamespace(ready=1, count=2)
    models: Any = None
    state = Health(workers, torchserve, models, degraded=True)
    async with serving(AdminServer(state, None)) as (number, _):
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


@asynchronous
async def test_a_model_store_that_hangs_keeps_no_probe_waiting() -> None:
    """As on NFS, whose server is gone."""
    hangs = Event()
    models: Any = SimpleNamespace(document=lambda: {"models": [], "told": hangs.wait(10)})
    nothing: Any = None
    async with serving(AdminServer(Health(nothing, None, models), None)) as (number, _):
        asked = asyncio.create_task(health.ask(number, "GET", "/models"))
        try:
            for _ in range(3):
                status, _ = await health.ask(number, "GET", "/v2/health/live")
                assert (status, asked.done()) == (200, False)
        finally:
            hangs.set()
        assert await asked == (200, b'{"models": [], "told": true}')


@asynchronous
async def test_a_port_that_ends_ends_with_its_connections() -> None:
    """The supervisor cancels it when it stops."""
    nothing: Any = None
    async with serving(AdminServer(Health(nothing, None, nothing), None)) as (number, task):
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"}")
        task.cancel()
        await asyncio.wait([task])
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
    assert not admin.is_local(None, (own, 2)), "the client is gone"


@asynchronous
async def test_changes_come_from_operators_on_this_host_and_reading_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A token that other hosts can read on its way must not be worth anything."""
    made = []

    async def rollback() -> None:
        made.append("rollback")

    models: Any = SimpleNamespace(rollback=rollback, document=dict, desired=None)
    workers: Any = SimpleNamespace(ready=1, count=1)
    operators = tmp_path / "operators"
    token = tokens.add(operators, "me")
    state = Health(workers, None, models)

    def ask(number: int, method: str, path: str, token: str = token) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"}
        url = f"http://127.0.0.1:{number}{path}"
        return requests.request(method, url, headers=headers, timeout=10)

    asked = ((False, operators, 403), (True, None, 401), (True, operators, 200))
    for local, file, status in asked:
        monkeypatch.setattr(admin, "is_local", lambda *_, local=local: local)
        async with serving(AdminServer(state, file)) as (number, _):
            changed = await asyncio.to_thread(ask, number, "POST", "/models/rollback")
            assert changed.status_code == status
            assert len(made) == (status == 200)
            stranger = await asyncio.to_thread(ask, number, "POST", "/models/rollback", "x")
            assert stranger.status_code == (401 if local else 403)
            for path in ("/models", "/v2/health/live"):
                assert (await asyncio.to_thread(ask, number, "GET", path)).status_code == 200
        if not local:
            assert changed.json()["code"] == "insecure_connection"
            assert "kubectl port-forward" in changed.json()["action"]
    rejected = [line.partition("rejected: ")[2] for line in caplog.messages if "rejected" in line]
    assert [json.loads(line)["status"] for line in rejected] == [*[403] * 2, *[401] * 3]


@asynchronous
async def test_operators_that_cannot_be_read_are_told_at_the_start_and_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe is empty at the second change."""

    def denied(*_: Any, **__: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    nothing: Any = SimpleNamespace(rollback=asyncio.sleep)
    state = Health(nothing, None, nothing)
    (tmp_path / "words").write_text("no digest")
    os.mkfifo(tmp_path / "pipe")
    for name in ("nothing", "words", "pipe"):
        with pytest.raises(SettingError, match=name):
            AdminServer(state, tmp_path / name)
    tokens.add(tmp_path / "operators", "me")
    async with serving(AdminServer(state, tmp_path / "operators")) as (number, _):
        (tmp_path / "operators").unlink()
        url = f"http://127.0.0.1:{number}/models/rollback"
        answer = await asyncio.to_thread(requests.post, url, timeout=10)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert f"{tmp_path}/operators: No such file" in caplog.text
    for name in ("stat", "read_text"):  # it may lie in a folder that may not be entered
        monkeypatch.setattr(Path, name, denied)
    with pytest.raises(SettingError, match="chmod 0640"):
        AdminServer(state, tmp_path / "operators")
