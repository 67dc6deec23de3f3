"""TorchServe's wire between frontend and worker, from the frontend's side.

As ``ts/protocol/otf_message_handler.py`` reads requests and writes replies.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field

END = struct.pack("!i", -1)


@dataclass
class Request:
    """One HTTP request as the frontend forwards it: headers in the client's spelling."""

    body: bytes | None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Answer:
    """One item of a reply."""

    request_id: str
    content_type: str
    status: int
    phrase: str
    headers: dict[str, str]
    body: bytes


def _sized(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


def predict_frame(requests: list[Request]) -> bytes:
    """The command that hands ``requests`` to a worker as one batch."""
    frame = b"I"
    for index, request in enumerate(requests):
        frame += _sized(f"id-{index}".encode())
        for name, value in request.headers.items():
            frame += _sized(name.encode()) + _sized(value.encode())
        frame += END
        if request.body is not None:
            lower = {name.lower(): value for name, value in request.headers.items()}
            content_type = lower.get("content-type", "")
            frame += _sized(b"body") + _sized(content_type.encode()) + _sized(request.body)
        frame += END
    return frame + END


class Reply:
    """Reads one reply from a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.code = self._int()
        self.message = self._text()
        self.answers: list[Answer] = []
        while (length := self._int()) != -1:
            self.answers.append(
                Answer(
                    request_id=self._bytes(length).decode(),
                    content_type=self._text(),
                    status=self._int(),
                    phrase=self._text(),
                    headers={self._text(): self._text() for _ in range(self._int())},
                    body=self._bytes(self._int()),
                )
            )

    def _bytes(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            data += (part := self._connection.recv(length - len(data)))
            assert part, "the worker closed the connection"
        return data

    def _int(self) -> int:
        value: int = struct.unpack("!i", self._bytes(4))[0]
        return value

    def _text(self) -> str:
        return self._bytes(self._int()).decode()
