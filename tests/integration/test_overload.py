"""Small requests whose answers are large do not take the memory, nor a worker."""

from __future__ import annotations

import io
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import requests
from PIL import Image

from diagonalflip.wire import MAX_IMAGES
from tests.integration.conftest import Oracle, free_port, run_server

REQUESTS = 128
LIMIT_BYTES = 3 << 29
"""Of one worker, however hard it is pressed; 0.4 GiB of it are PyTorch."""


def picture() -> bytes:
    """A sheet of as many tiles as a request may have, in some hundred bytes."""
    written = io.BytesIO()
    side = 2 * int(np.sqrt(MAX_IMAGES))
    Image.new("1", (side, side), 1).save(written, format="PNG", optimize=True)
    return written.getvalue()


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had (proc(5), VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


def test_many_large_pictures_at_once_cost_bounded_memory_and_no_worker(
    artifacts: Path, oracle: Oracle, tmp_path: Path
) -> None:
    operations = free_port()
    body = picture()
    assert len(body) < 8 << 10
    statuses: Counter[int] = Counter()
    wanted = oracle([15])[0]
    together = threading.Barrier(REQUESTS)

    def ask(url: str) -> None:
        headers = {"Content-Type": "image/png", "Accept": "application/octet-stream"}
        together.wait(60)
        answer = requests.post(url, data=body, headers=headers, timeout=120)
        statuses[answer.status_code] += 1
        if answer.status_code == requests.codes.ok:
            rows = np.frombuffer(answer.content, "<f4").reshape(-1, 4)
            assert len(rows) == MAX_IMAGES
            assert np.abs(rows - wanted).max() <= 1e-6

    with run_server(artifacts, tmp_path, OPERATIONS_PORT=str(operations)) as server:
        children = psutil.Process(server.process.pid).children(recursive=True)
        [worker] = [p for p in children if "model_service_worker.py" in " ".join(p.cmdline())]
        with ThreadPoolExecutor(REQUESTS) as pool:
            list(pool.map(ask, [server.direct_url] * REQUESTS))
        assert worker.is_running(), "it was killed"
        assert peak_bytes(worker.pid) < LIMIT_BYTES
        page = requests.get(f"http://127.0.0.1:{operations}/metrics", timeout=10).text
        assert "diagonalflip_workers_killed_total 0" in page
    assert statuses.keys() <= {200, 503}
    assert statuses[200] > 0
    assert sum(statuses.values()) == REQUESTS
