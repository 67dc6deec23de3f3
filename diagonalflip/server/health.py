"""Health checks: predictions of all 16 images, compared with those in the model store."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import numpy as np

from diagonalflip.errors import ParityError
from diagonalflip.server.models.store import Artifacts
from diagonalflip.server.settings import LOOPBACK
from diagonalflip.wire import OCTETS, TOLERANCE


def compare(answer: bytes, artifacts: Artifacts) -> None:
    """Compare predictions of all 16 images, little-endian float32, with the parity report.

    Raises:
        ParityError: They differ by more than the tolerance.
    """
    expected = np.array(artifacts.reference)
    if len(answer) != 4 * expected.size:
        raise ParityError(f"{len(answer)} bytes", f"{4 * expected.size} bytes")
    got = np.frombuffer(answer, dtype="<f4").reshape(expected.shape)
    deviation = float(np.abs(got - expected).max())
    if not deviation <= TOLERANCE:
        raise ParityError(f"a prediction deviates by {deviation:.3g}", f"at most {TOLERANCE:g}")


async def ask(  # noqa: PLR0913 - by keyword
    port: int | Path,
    method: str,
    path: str,
    *,
    host: str = LOOPBACK,
    body: bytes = b"",
    tls: ssl.SSLContext | None = None,
) -> tuple[int, bytes]:
    """Send one HTTP request on a connection of its own, without proxies.

    ``port`` is a port of ``host``, or the path of a Unix socket.

    Returns:
        Status and body of the response.

    Raises:
        OSError: No connection, or no complete response.
        ValueError: The response is not HTTP.
    """
    if isinstance(port, Path):
        reader, writer = await asyncio.open_unix_connection(port)
    else:
        reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        head = f"{method} {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nConnection: close\r\n"
        head += f"Content-Type: {OCTETS}\r\n" if body else ""
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        head_bytes = await reader.readuntil(b"\r\n\r\n")
        _, status, *_ = head_bytes.split(maxsplit=2)
        lines = head_bytes.lower().split(b"\r\n")
        lengths = [line.partition(b":")[2] for line in lines if line.startswith(b"content-length:")]
        return int(status), await reader.readexactly(int(lengths[0])) if lengths else b""
    except (EOFError, asyncio.LimitOverrunError) as error:
        raise ConnectionError("no whole answer") from error
    finally:
        writer.close()
