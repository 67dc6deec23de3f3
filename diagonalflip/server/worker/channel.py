"""The control channel between the supervisor and one worker: JSON objects, a line each.

To the worker:

    access   tokens and certificate of the public listener
    prepare  load these versions, and check them on this worker's device; say whether it can
    commit   serve the versions that were prepared; the first time, begin to serve
    check    predict the 16 images by every version, through the queue of clients' requests
    status   figures of all workers, for the page
    not_ready, drain

To the supervisor: prepared, committed and checked, each with the number that was asked with, and
metrics every second. When either end closes the channel, the other one knows that it has ended.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Self

import orjson

MAX_MESSAGE_BYTES = 1 << 26
UNREAD_BYTES = 1 << 20
"""Bytes that the other end has not read, beyond which messages that repeat are left out."""

Message = dict[str, Any]


class Channel:
    """One end of a control channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, connection: socket.socket) -> Self:
        """Take over one socket of a pair."""
        return cls(*await asyncio.open_unix_connection(sock=connection, limit=MAX_MESSAGE_BYTES))

    def send(self, name: str, content: Any = None, *, number: int = 0) -> None:
        """Send a message; return at once."""
        message = {"message": name, "number": number, "content": content}
        self._writer.write(orjson.dumps(message) + b"\n")

    def offer(self, name: str, content: Any) -> None:
        """Send a message, unless the other end has stopped reading."""
        if self._writer.transport.get_write_buffer_size() < UNREAD_BYTES:
            self.send(name, content)

    async def receive(self) -> Message | None:
        """Return the next message; None when the other end has closed the channel."""
        try:
            line = await self._reader.readline()
        except OSError:
            return None
        if not line.endswith(b"\n"):
            return None
        message: Message = orjson.loads(line)
        return message

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
