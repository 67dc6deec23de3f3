"""The command as a process of its own, where no server is needed: signals, silence, tokens."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diagonalflip.cli.target import PREDICTIONS

ROOT = Path(__file__).resolve().parents[2]
SLOW_S = 120


def start(*args: object) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "diagonalflip.cli", *map(str, args)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def silent() -> Iterator[tuple[socket.socket, str]]:
    """A port that takes connections and never answers, and its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SLOW_S)
        yield listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_ctrl_c_leaves_nothing_that_looks_finished(
    silent: tuple[socket.socket, str], tmp_path: Path
) -> None:
    listener, url = silent
    images, output = tmp_path / "in.bin", tmp_path / "out.bin"
    images.write_bytes(bytes(1 << 20))
    process = start("--url", url, "predict", "--input", images, "--output", output)
    with listener.accept()[0]:
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=SLOW_S)
    assert process.returncode == 130
    assert (stdout, stderr) == (b"", b"diagonalflip: interrupted\n")
    assert list(tmp_path.iterdir()) == [images]


@pytest.mark.parametrize(
    "args", [("wait", "--timeout-s", "0.2"), ("predict", "1"), ("check",), ("info",)]
)
def test_silence_is_code_3_within_the_deadline(
    silent: tuple[socket.socket, str], args: tuple[str, ...]
) -> None:
    process = start("--url", silent[1], "--deadline-s", "0.2", *args)
    stdout, stderr = process.communicate(timeout=SLOW_S)
    assert (process.returncode, stdout) == (3, b""), stderr
    assert stderr.count(b"\n") == 1


def test_the_token_is_sent(silent: tuple[socket.socket, str]) -> None:
    listener, url = silent
    process = start("--url", url, "--token", "secret", "info")
    connection = listener.accept()[0]
    with connection, connection.makefile("rb") as request:
        lines = [line.strip() for line in iter(request.readline, b"\r\n")]
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    stderr = process.communicate(timeout=SLOW_S)[1]
    assert lines[0].startswith(f"POST {PREDICTIONS} ".encode())
    assert b"Authorization: Bearer secret" in lines
    assert process.returncode == 1
    assert b"token" in stderr
