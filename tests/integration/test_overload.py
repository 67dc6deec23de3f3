"""A worker stays alive and within its memory bound, whatever comes together."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import resource
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from PIL import Image

from diagonalflip import wire
from diagonalflip.client import Client
from diagonalflip.server.supervisor import tokens
from tests.integration.conftest import PATH, Oracle, Server, run_server
from tests.integration.test_public_listener import PublicListener, bearer, public

pytestmark = pytest.mark.slow

LIMIT_BYTES = 1 << 30  # of one worker, as docs/operations.md says
TOGETHER = 128
IDLE = wire.MAX_CONNECTIONS - 600
STAYING = 1000

LARGEST = bytes(wire.MAX_IMAGES // 2)


def post(body: bytes, more: str = "", length: int | None = None) -> bytes:
    """A request with further header lines, which may announce more than it has."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {wire.OCTETS}\r\n{more}"
    return f"{head}Content-Length: {length or len(body)}\r\n\r\n".encode() + body


def picture() -> bytes:
    """A sheet of as many tiles as a request may have, in some hundred bytes."""
    written = io.BytesIO()
    side = 2 * int(np.sqrt(wire.MAX_IMAGES))
    Image.new("1", (side, side), 1).save(written, format="PNG", optimize=True)
    return written.getvalue()


@contextmanager
def many_files() -> Iterator[None]:
    """As many open files as are allowed."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@contextmanager
def pressed(artifacts: Path, logs: Path, **settings: str) -> Iterator[Server]:
    """A server, whose worker must survive and stay within its memory."""
    with many_files(), run_server(artifacts, logs, WORKERS="1", **settings) as server:
        [worker] = server.workers
        yield server
        assert worker.is_running(), "it was killed"
        peak = peak_bytes(worker.pid)
        print(f"peak {peak >> 20} MiB")
        assert peak < LIMIT_BYTES
        assert server.metric("workers_killed_total") == 0


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had (proc(5), VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


def test_large_pictures_are_bounded(artifacts: Path, oracle: Oracle, tmp_path: Path) -> None:
    body = picture()
    assert len(body) < 8 << 10
    statuses: Counter[int] = Counter()
    wanted = oracle([15])[0]
    together = threading.Barrier(TOGETHER)

    def ask(url: str) -> None:
        headers = {"Content-Type": wire.PNG, "Accept": wire.OCTETS}
        together.wait(60)
        answer = requests.post(url, data=body, headers=headers, timeout=120)
        statuses[answer.status_code] += 1
        if answer.status_code == requests.codes.ok:
            rows = np.frombuffer(answer.content, "<f4").reshape(-1, 4)
            assert len(rows) == wire.MAX_IMAGES
            assert np.abs(rows - wanted).max() <= 1e-6

    with pressed(artifacts, tmp_path) as server, ThreadPoolExecutor(TOGETHER) as pool:
        list(pool.map(ask, [server.url] * TOGETHER))
    assert statuses.keys() <= {200, 503}
    assert statuses[200] > 0
    assert sum(statuses.values()) == TOGETHER


def worst_requests() -> list[tuple[str, dict[str, str], bytes]]:
    """Path, headers and body of what takes the most memory or time for its size."""
    nested = json.dumps({"images": [[[1, 0], [1, 1]]] * wire.MAX_TEXT_IMAGES}).encode()
    deep = b'{"images": [' + b"[" * 500 + b"]" * 500 + b"]}"
    bomb = gzip.compress(bytes(wire.MAX_BODY_BYTES + 1))
    largest = gzip.compress(bytes(wire.MAX_IMAGES // 2))
    tensor: Any = {"name": "pixels", "datatype": "FP32", "shape": [wire.MAX_IMAGES, 4]}
    tensor |= {"parameters": {"binary_data_size": 16 * wire.MAX_IMAGES}}
    head = json.dumps({"inputs": [tensor]})
    binary = head.encode() + np.ones(4 * wire.MAX_IMAGES, "<f4").tobytes()
    form = b'--b\r\nContent-Disposition: form-data; name="data"; filename="a.png"\r\n\r\n'
    form += picture() + b"\r\n--b--\r\n"
    octets = {"Content-Type": wire.OCTETS}
    return [
        ("predictions", {"Content-Type": wire.PNG}, picture()),
        ("predictions", {"Content-Type": wire.PNG, "Accept": wire.OCTETS}, picture()),
        ("predictions", {"Content-Type": "multipart/form-data; boundary=b"}, form),
        ("predictions", {"Content-Type": wire.JSON}, nested),
        ("predictions", {"Content-Type": wire.JSON, "Accept": wire.TEXT}, nested),
        ("predictions", {"Content-Type": wire.JSON}, deep),
        ("predictions", octets | {"Content-Encoding": "gzip"}, bomb),
        ("predictions", octets | {"Content-Encoding": "gzip"}, largest),
        ("predictions", octets | {"Accept": wire.TEXT}, bytes(wire.MAX_TEXT_IMAGES // 2)),
        ("predictions", {"Inference-Header-Content-Length": str(len(head))}, binary),
        ("explanations", octets, bytes(wire.MAX_EXPLAINED_IMAGES // 2)),
    ]


@pytest.mark.timeout(600)
def test_the_worst_mixture_is_answered_within_the_bound(artifacts: Path, tmp_path: Path) -> None:
    """Slow readers, idle connections, and the heaviest requests on both ports, all at once."""
    statuses: Counter[int] = Counter()
    requests_ = worst_requests()
    with pressed(artifacts, tmp_path, TORCHSERVE="1") as server, ExitStack() as opened:
        front = urlsplit(server.url)
        address = (front.hostname, front.port)
        for _ in range(IDLE):
            opened.enter_context(socket.create_connection(address))
        for _ in range(TOGETHER):  # none of these reads its 16 MiB
            stalled = opened.enter_context(socket.create_connection(address))
            stalled.sendall(post(LARGEST))

        def ask(number: int) -> None:
            path, headers, body = requests_[number % len(requests_)]
            url = server.url if number % 3 else server.torchserve_url
            url = url.replace("predictions", path)
            try:
                answer = requests.post(url, data=body, headers=headers, timeout=300)
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                if number % 3:
                    raise
                statuses[503] += 1  # TorchServe closes before a rejected client has read
                return
            statuses[answer.status_code] += 1

        with ThreadPoolExecutor(TOGETHER) as pool:
            list(pool.map(ask, range(2 * TOGETHER)))
        with Client(server.url.partition("/predictions")[0]) as client:
            assert client.predict([11]).shape == (1, 4)
    assert statuses.keys() <= {200, 400, 413, 503}
    assert statuses[200] > 0
    assert statuses[400] > 0, "deep JSON"
    assert statuses[413] > 0, "bombs"
    assert sum(statuses.values()) == 2 * TOGETHER


def ask_until(done: threading.Event, url: str, token: str, authority: str) -> float:
    """Predict one image again and again; return the longest time that it took, in seconds."""
    longest = 0.0
    with Client(url, token=token, verify=authority, deadline_s=60) as client:
        while not done.is_set():
            begun = time.perf_counter()
            assert client.predict([11]).shape == (1, 4)
            longest = max(longest, time.perf_counter() - begun)
    return longest


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
@pytest.mark.timeout(600)
def test_the_worst_mixture_at_the_edge_is_within_the_bound(artifacts: Path, tmp_path: Path) -> None:
    """By TLS: connections that stay, strangers, heads without an end, stalled clients, bombs."""
    settings, authority = public(tmp_path), str(tmp_path / "certificate.pem")
    token, other, stalled = (tokens.add(tmp_path / "tokens", name) for name in ("a", "b", "c"))
    line = f"Authorization: Bearer {stalled}\r\n"
    small = post(bytes(60_000), f"{line}Accept: {wire.PACKED}\r\n")
    stranger = post(bytes(250_000), length=wire.MAX_BODY_BYTES)
    partial = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nx: ".encode() + b"x" * 250_000
    statuses: Counter[int] = Counter()
    requests_ = worst_requests()
    done = threading.Event()
    with (
        pressed(artifacts, tmp_path, TORCHSERVE="0", **settings) as server,
        ThreadPoolExecutor(TOGETHER) as pool,
        ExitStack() as opened,
    ):
        opened.callback(done.set)
        listener = PublicListener(token, other, authority, server)
        good = [
            pool.submit(ask_until, done, url, token, authority)
            for url in (listener.url, server.url.partition("/predictions")[0])
        ]
        for _ in range(STAYING):
            connection = opened.enter_context(listener.connect())
            connection.sendall(small)
            assert connection.recv(12) == b"HTTP/1.1 200"

        def press(number: int) -> None:
            if number % 4 == 0:
                path, headers, body = requests_[number // 4 % len(requests_)]
                url = (listener.url + PATH).replace("predictions", path)
                headers = headers | bearer(other)
                answer = requests.post(url, body, headers=headers, timeout=300, verify=authority)
                statuses[answer.status_code] += 1
                return
            sent = (stranger, partial, post(LARGEST, line))[number % 4 - 1]
            connection = opened.enter_context(listener.connect())
            with contextlib.suppress(OSError):  # it may be answered before it has sent all
                connection.sendall(sent)

        list(pool.map(press, range(8 * TOGETHER)))
        done.set()
        longest = [each.result(60) for each in good]
        print(f"longest {longest} s, {statuses}")
    assert max(longest) < 8, "1 to 2 s on two quiet cores"
    assert statuses.keys() <= {200, 400, 413, 503}
    assert statuses[200] > 0
