"""A steady load whose every answer is compared with ONNX Runtime's."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from benchmarks.driver import PATH
from benchmarks.running import seconds_until
from benchmarks.workloads import load_reference
from diagonalflip import Client
from diagonalflip.errors import DiagonalFlipError
from diagonalflip.server.models.store import exports, version_of
from diagonalflip.wire import OCTETS, TOLERANCE, pack

SIZES = (2, 2, 2, 64, 1024, 4096, 131_072)
SENDERS = 3
TIMEOUT_S = 75.0
COUNTS = ["sent once", "rejected", "unreachable", "lost", "wrong", "longest wait s"]
COUNTS += ["retried by the client, failed"]

Tables = dict[str, npt.NDArray[np.float32]]
"""Predictions of all 16 images by number, ``float32[16, 4]``, by version."""


class Target(Protocol):
    """A service, asked on one port."""

    @property
    def url(self) -> str:
        """URL of the port."""

    port: int
    token: str


@dataclass
class Tally:
    """Outcomes of requests."""

    right: int = 0  # answered, and within the tolerance of ONNX Runtime
    wrong: int = 0  # answered otherwise, or not by the version that the answer names
    # Answered by another status than 200, by status.
    rejected: Counter[int] = field(default_factory=Counter)
    unreachable: int = 0  # no connection was made, or it was ended before the request was sent
    lost: int = 0  # sent, and the connection ended without an answer, or none came in time
    longest_s: float = 0.0  # longest time from connecting to any of these outcomes
    retried: int = 0  # calls of the client, which may send again
    # Those of them that failed in the end, by error.
    failed: Counter[str] = field(default_factory=Counter)

    def counts(self) -> list[str]:
        """Return cells of a table, below ``COUNTS``."""
        sent = self.right + self.wrong + self.rejected.total() + self.unreachable + self.lost
        rejected = ", ".join(f"{count:,} with {status}" for status, count in self.rejected.items())
        cells = [f"{sent:,}", rejected or "0", str(self.unreachable), str(self.lost)]
        cells += [str(self.wrong), f"{self.longest_s:.1f}"]
        return [*cells, f"{self.retried:,}, {self.failed.total()}"]


def references(model_store: Path) -> Tables:
    """Return ONNX Runtime's predictions, by version."""
    packed = bytes(pack(np.arange(16)).packed)
    return {
        version_of(folder): load_reference(folder / "diagonal_flip.onnx")(packed)
        for folder in exports(model_store)
    }


@dataclass
class Load:
    """Threads that send requests once, each on a connection of its own, and one that retries."""

    service: Target
    tables: Tables  # what the answers should be
    deadline_s: float = 20.0  # how long the client that retries goes on with one request
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self._lock, self._ended = threading.Lock(), threading.Event()
        work: list[Callable[[], None]] = [self._retry]
        work += [partial(self._send_once, seed) for seed in range(SENDERS)]
        self._threads = [threading.Thread(target=each) for each in work]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def answered(self, count: int) -> None:
        """Wait for so many more right answers.

        Raises:
            TimeoutError: They do not come.
        """
        enough = self.tally.right + count
        seconds_until(lambda: self.tally.right >= enough, 2 * TIMEOUT_S, lambda: self.tally)

    def _send_once(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        while not self._ended.is_set():
            numbers = random.integers(16, size=random.choice(SIZES))
            started = time.monotonic()
            outcome = self.exchange(numbers)
            with self._lock:
                self.tally.longest_s = max(self.tally.longest_s, time.monotonic() - started)
                if isinstance(outcome, int):
                    self.tally.rejected[outcome] += 1
                else:
                    setattr(self.tally, outcome, getattr(self.tally, outcome) + 1)
            if outcome not in ("right", "wrong"):
                self._ended.wait(0.05)

    def exchange(self, numbers: npt.NDArray[np.int64]) -> str | int:
        """Return the name of the tally's field to count it in, or the status of a rejection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=TIMEOUT_S)
        headers = {"Content-Type": OCTETS, "Authorization": f"Bearer {self.service.token}"}
        try:
            connection.connect()
        except OSError:
            return "unreachable"
        try:
            connection.request("POST", PATH, bytes(pack(numbers).packed), headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            return "lost"
        finally:
            connection.close()
        if answer.status != http.client.OK:
            return answer.status
        table = self.tables.get(answer.headers["Flip-Model-Version"])
        if table is None or len(body) != 16 * len(numbers):
            return "wrong"
        got = np.frombuffer(body, "<f4").reshape(-1, 4)
        return "right" if _agree(got, table[numbers]) else "wrong"

    def _retry(self) -> None:
        random = np.random.default_rng(99)
        token = self.service.token or None
        with Client(self.service.url, token=token, deadline_s=self.deadline_s) as client:
            while not self._ended.is_set():
                numbers = random.integers(16, size=random.choice(SIZES[:-1]))
                self.tally.retried += 1
                try:
                    got = client.predict(pack(numbers))
                except DiagonalFlipError as error:
                    self.tally.failed[type(error).__name__] += 1
                    continue
                tables = self.tables.values()
                self.tally.wrong += not any(_agree(got, table[numbers]) for table in tables)


def _agree(got: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> bool:
    return bool((np.abs(got - expected) <= TOLERANCE).all())
