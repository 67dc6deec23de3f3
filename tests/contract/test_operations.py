"""The operations port answers in the supervisor's own event loop."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor import health
from supervisor.operations import Health, OperationsServer
from supervisor.ports import listen
from supervisor.settings import Settings
from tests.conftest import asynchronous
from worker.listener import Door

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
    door = Door("operations", listen(("127.0.0.1", 0)))
    number, opened = door.listener.getsockname()[1], asyncio.Event()
    server = OperationsServer(state, None)
    serving = asyncio.create_task(server.serve([door], opened.set))
    await opened.wait()
    assert await health.ask(number, "GET", "/v2/health/live") == (200, b'{"live": true}')
    for state.earned, status in ((False, 503), (True, 200)):
        found, body = await health.ask(number, "GET", "/v2/health/ready")
        assert found == status
        assert json.loads(body) == {
            "ready": state.earned,
            "degraded": True,
            "draining": False,
            "workers_proven": 1,
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
