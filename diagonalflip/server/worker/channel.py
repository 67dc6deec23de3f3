"""The control channel between the supervisor and one worker: JSON objects, one per line.

To the worker:

    access   tokens and certificate of the public listener
    prepare  load these versions, and check them on this worker's device; report faults
    commit   serve the prepared versions; the first time, start serving
    check    predict the 16 images by every version, through the queue of clients' requests
    status   figures of all workers, for the page
    not_ready, drain

To the supervisor: prepared, committed and checked, each with the number of the message that it
answers, and metrics every second. When the channel closes, each end knows that the other has
exited.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Self

import orjson

MAX_MESSAGE_BYTES = 1 << 26
UNREAD_BYTES = 1 << 20
"""Unread bytes beyond which messages that are repeated anyway are not sent."""

Message = dict[str, Any]


class Channel:
    """One end of a control channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, connection: socket.socket) -> Self:
        """Return a channel on one socket of a pair, which it will own."""
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
