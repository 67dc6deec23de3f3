"""The command as a process of its own, where no server is needed: signals, silence, tokens."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diagonalflip.cli.target import PREDICTIONS

ROOT = Path(__file__).resolve().parents[2]
SLOW_S = 120


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "diagonalflip.cli", *map(str, args)]


@contextmanager
def silent_server() -> Iterator[tuple[str, threading.Event]]:
    """A URL that takes connections and never answers; set once something has connected."""
    connected = threading.Event()
    kept: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                kept.append(listener.accept()[0])
            except OSError:
                return
            connected.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", connected
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in kept:
                connection.close()


def test_ctrl_c_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    images, output = tmp_path / "in.bin", tmp_path / "out.bin"
    images.write_bytes(bytes(1 << 20))
    with silent_server() as (url, connected):
        process = subprocess.Popen(
            command("--url", url, "predict", "--input", images, "--output", output),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert connected.wait(SLOW_S)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=SLOW_S)
    assert process.returncode == 130
    assert (stdout, stderr) == (b"", b"diagonalflip: interrupted\n")
    assert list(tmp_path.iterdir()) == [images]


@pytest.mark.parametrize(
    "args", [("wait", "--timeout-s", "0.2"), ("predict", "1"), ("check",), ("info",)]
)
def test_silence_is_code_3_within_the_deadline(args: tuple[str, ...]) -> None:
    with silent_server() as (url, _):
        finished = subprocess.run(
            command("--url", url, "--deadline-s", "0.2", *args),
            cwd=ROOT,
            capture_output=True,
            timeout=SLOW_S,
            check=False,
        )
    assert finished.returncode == 3, finished.stderr
    assert finished.stderr.count(b"\n") == 1
    assert finished.stdout == b""


def test_the_token_is_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            command("--url", url, "--token", "secret", "info"), cwd=ROOT, stderr=subprocess.PIPE
        )
        connection = listener.accept()[0]
        with connection, connection.makefile("rb") as request:
            lines = [line.strip() for line in iter(request.readline, b"\r\n")]
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        stderr = process.communicate(timeout=SLOW_S)[1]
    assert lines[0].startswith(f"POST {PREDICTIONS} ".encode())
    assert b"Authorization: Bearer secret" in lines
    assert process.returncode == 1
    assert b"token" in stderr
