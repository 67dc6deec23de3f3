"""The doors for clients: their sockets are the supervisor's, and each worker serves one per door.

They outlive the workers. While one is started again, clients wait for it in the kernel's queue and
are not refused.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from supervisor import host
from supervisor.choice import replace_file
from worker.listener import listen
from worker.models import WANTED
from worker.routes import DRAIN, MODELS, NOT_READY, NUMBER, front_socket, metrics_file

PATIENCE_S = 5.0
POLL_S = 0.002
CHANGE_S = 30.0
"""For a worker to load and prove a version. One that hangs is killed sooner by its proofs."""


class FrontDoor:
    """Hands each worker its sockets, and says what to serve and when to stop.

    Args:
        addresses: Of the front door, and of the edge if there is one.
        workers: How many there will be.
        folder: Of the sockets between processes.

    Attributes:
        handed_out_again: How often a worker was there whose socket another one had had before.

    Raises:
        OSError: A port is taken.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]], workers: int, folder: Path) -> None:
        self._listeners = [list(map(listen, addresses)) for _ in range(workers)]
        self._lines: dict[int, socket.socket] = {}
        self._folder, self._revision = folder, 0
        self.handed_out_again = 0
        self._asking = socket.socket(socket.AF_UNIX)
        self._asking.bind(str(front_socket(folder)))
        self._asking.listen()
        threading.Thread(target=self._hand_out, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it at once."""
        with contextlib.suppress(OSError):
            self._asking.shutdown(socket.SHUT_RDWR)
        self._asking.close()
        self.forget()
        self._close()

    def living(self) -> list[int]:
        """Numbers of the workers that have their sockets now."""
        return [
            number for number, line in sorted(self._lines.items()) if not host.readable(line, 0)
        ]

    def forget(self) -> None:
        """Takes all workers for gone, as they are when TorchServe has ended."""
        while self._lines:
            self._lines.popitem()[1].close()

    def not_ready(self) -> None:
        """Has workers say that no client is to be sent here."""
        self.tell(NOT_READY)

    def serve(self, wish: Mapping[str, Any]) -> str:
        """Have all workers serve other versions of the model.

        Who dies meanwhile, or is not there yet, reads it at its next start.

        Args:
            wish: As ``worker.models.fulfil`` takes it.

        Returns:
            Why a worker cannot; nothing once all do.
        """
        self._revision += 1
        replace_file(self._folder / WANTED, json.dumps({**wish, "revision": self._revision}))
        self.tell(MODELS)
        waiting, deadline = set(self.living()), time.monotonic() + CHANGE_S
        while waiting:
            for number in list(waiting):
                told = self._told(number)
                if told["revision"] == self._revision:
                    if told["fault"]:
                        return str(told["fault"])
                    waiting.discard(number)
            waiting.intersection_update(self.living())
            if time.monotonic() > deadline:
                return f"worker {min(waiting)}, silent for {CHANGE_S:g} s"
            time.sleep(POLL_S)
        return ""

    def _told(self, number: int) -> dict[str, Any]:
        """Versions that a worker publishes."""
        try:
            page = json.loads(metrics_file(self._folder, number).read_bytes())
        except FileNotFoundError:  # a new one
            return {"revision": 0}
        told: dict[str, Any] = page["models"]
        return told

    def close(self) -> None:
        """Closes the ports; workers answer who has come in."""
        self._close()
        self.tell(DRAIN)

    def wait(self, timeout_s: float) -> None:
        """Returns when all are answered, or time is over."""
        deadline = time.monotonic() + timeout_s
        for line in list(self._lines.values()):
            host.readable(line, max(0.0, deadline - time.monotonic()))

    def _close(self) -> None:
        for listener in itertools.chain(*self._listeners):
            listener.close()

    def tell(self, message: bytes) -> None:
        """Send a byte to every worker that has its sockets."""
        for line in list(self._lines.values()):
            with contextlib.suppress(OSError):
                line.sendall(message)

    def _hand_out(self) -> None:
        while True:
            try:
                line, _ = self._asking.accept()
            except OSError:
                return  # it is closed
            try:
                self._hand_over(line)
            except (OSError, struct.error, IndexError):
                line.close()  # of a worker that ended at once

    def _hand_over(self, line: socket.socket) -> None:
        """Gives the worker at the other end its sockets; the line says nothing from then on."""
        line.settimeout(PATIENCE_S)
        (number,) = NUMBER.unpack(line.recv(NUMBER.size, socket.MSG_WAITALL))
        descriptors = [listener.fileno() for listener in self._listeners[number]]
        socket.send_fds(line, [b"f"], descriptors)
        if number in self._lines:
            self._lines[number].close()
            self.handed_out_again += 1
        self._lines[number] = line
