"""Proof of a living worker: all 16 images through its own socket, compared with the certificate."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from diagonalflip.errors import CertificateError
from diagonalflip.wire import OCTETS, TOLERANCE, pack
from supervisor import host
from supervisor.models import Models
from supervisor.store import Artifacts
from worker.routes import fault_file, proof_socket

PATIENCE_S = 1.0
"""A worker that owes an answer and used no processor for this long, twice in a row, hangs."""

BUSY_PATIENCE_S = 60.0
"""Longest wait for a busy worker's answer; its longest queue takes less."""

RESULTS = ("passed", "wrong", "unanswered")

HEADERS = {"Content-Type": OCTETS}
ALL_IMAGES = bytes(pack(np.arange(16)).packed)

logger = logging.getLogger(__name__)


def compare(answer: bytes, artifacts: Artifacts) -> None:
    """Compares an answer for all 16 images, little-endian float32, with the certificate.

    Raises:
        CertificateError: It differs by more than the tolerance.
    """
    expected = np.array(artifacts.reference)
    if len(answer) != 4 * expected.size:
        raise CertificateError(f"{len(answer)} bytes", f"{4 * expected.size} bytes")
    got = np.frombuffer(answer, dtype="<f4").reshape(expected.shape)
    deviation = float(np.abs(got - expected).max())
    if not deviation <= TOLERANCE:
        raise CertificateError(
            f"a prediction deviates by {deviation:.3g}", f"at most {TOLERANCE:g}"
        )


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("worker", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connects to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def peer(self) -> int:
        """Id of the process that listens."""
        if sys.platform == "darwin":  # sys/un.h: SOL_LOCAL, LOCAL_PEERPID
            return int(struct.unpack("i", self.sock.getsockopt(0, 2, 4))[0])
        credentials = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("3i", credentials)[0])


@dataclass
class Subject:
    """State of one worker.

    Attributes:
        number: From 0.
        proven: Whether its last answer was right.
        pid: Its process; 0 while there is none.
        proven_at: When it was right, ``time.monotonic``'s seconds; None before that.
    """

    number: int
    proven: bool = False
    pid: int = 0
    proven_at: float | None = None


class Prover:
    """Proves every worker at an interval; kills one that answers wrongly or not at all.

    TorchServe starts another one then, and what the dead one held is answered as failed at
    once: a worker that hangs would keep its requests for two minutes, one that is wrong
    would go on answering on every port.

    Args:
        sockets: Folder of the workers' sockets.
        workers: How many there should be.
        models: What they serve.
        interval_s: Seconds between two proofs of a worker.
        device: ``cuda`` if the CPU does not count, where a GPU could not be used or was lost.

    Attributes:
        fault: What was last found wrong with a worker; empty before that.
        proofs: How many, by result.
        killed: How many workers.
    """

    def __init__(
        self,
        sockets: Path,
        workers: int,
        models: Models,
        interval_s: float,
        device: str | None = None,
    ) -> None:
        self.workers = [Subject(number) for number in range(workers)]
        self.proofs: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        self.killed = 0
        self._sockets, self._models, self._interval_s = sockets, models, interval_s
        self.fault = ""
        self._device = device
        self._ended = threading.Event()

    def start(self) -> None:
        """Starts a thread per worker, so that one that hangs does not keep the others waiting."""
        fault_file(self._sockets).unlink(missing_ok=True)
        for worker in self.workers:
            threading.Thread(target=self._watch, args=(worker,), daemon=True).start()

    def stop(self) -> None:
        """Ends the threads, each after the proof that it is at."""
        self._ended.set()

    @property
    def proven(self) -> int:
        """Number of workers whose last answer was right."""
        return sum(worker.proven for worker in self.workers)

    @property
    def refused(self) -> str:
        """Reason why a worker refuses its archive; TorchServe restarts it again and again."""
        told = fault_file(self._sockets)
        return told.read_text(encoding="utf-8") if told.exists() else ""

    def _watch(self, worker: Subject) -> None:
        while not self._ended.is_set():
            worker.proven = self._prove(worker)
            self._ended.wait(self._interval_s if worker.proven else 0.1)

    def _prove(self, worker: Subject) -> bool:
        """Return whether one proof went well; ends the worker if it is the worker's fault."""
        try:
            for artifacts in self._models.loaded:
                self._prove_version(worker, artifacts)
        except CertificateError as error:
            self.proofs["wrong"] += 1
            self._kill(worker, f"answered wrongly: {error}")
        except TimeoutError:
            self.proofs["unanswered"] += 1
            self._kill(worker, "does not answer")
        except (OSError, http.client.HTTPException, psutil.NoSuchProcess):
            # None listens, or it died at this: TorchServe starts another one.
            worker.pid = 0
        else:
            self.proofs["passed"] += 1
            worker.proven_at = time.monotonic()
            return True
        return False

    def _prove_version(self, worker: Subject, artifacts: Artifacts) -> None:
        """Compare the worker's answer with the certificate.

        Raises:
            CertificateError: It differs; not if the version was unloaded meanwhile.
            TimeoutError: There is none.
        """
        try:
            compare(self._ask(worker, artifacts), artifacts)
        except CertificateError:
            if artifacts in self._models.loaded:
                raise

    def _ask(self, worker: Subject, artifacts: Artifacts) -> bytes:
        """The worker's answer for all 16 images.

        Raises:
            TimeoutError: It hangs.
            CertificateError: It refuses.
        """
        connection = UnixConnection(proof_socket(self._sockets, worker.number), PATIENCE_S)
        with contextlib.closing(connection):
            path = f"/predictions/{artifacts.model}/{artifacts.version}"
            connection.request("POST", path, ALL_IMAGES, HEADERS)
            worker.pid = connection.peer()
            _wait(connection.sock, worker.pid)
            response = connection.getresponse()
            if response.status == http.client.SERVICE_UNAVAILABLE:
                raise http.client.HTTPException("overloaded")  # is no evidence of a fault
            if response.status != http.client.OK:
                raise CertificateError(f"status {response.status}", "200")
            digest = response.getheader("Flip-Model-Digest")
            if digest != artifacts.digest:
                raise CertificateError(f"model {digest} answered", artifacts.digest)
            device = response.getheader("Flip-Device")
            if self._device not in (None, device):
                raise CertificateError(
                    f"the answer was computed on {device}",
                    f"{self._device}, as REQUIRE_GPU=1 says",
                    "see whether torch.cuda.is_available(), or set REQUIRE_GPU=0",
                )
            return response.read()

    def _kill(self, worker: Subject, reason: str) -> None:
        logger.error("worker %d (process %d) %s: killed", worker.number, worker.pid, reason)
        self.fault = f"worker {worker.number} {reason}"
        self.killed += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)


def _wait(connection: socket.socket, pid: int) -> None:
    """Blocks until there is something to read.

    Raises:
        TimeoutError: Process ``pid`` does nothing that could lead there, or takes too long.
    """
    idle, worked = 0, _work_s(pid)
    for _ in range(int(BUSY_PATIENCE_S / PATIENCE_S)):
        if host.readable(connection, PATIENCE_S):
            return
        before, worked = worked, _work_s(pid)
        idle = idle + 1 if worked == before else 0
        if idle == 2:  # once could be this machine's own pause
            break
    raise TimeoutError


def _work_s(pid: int) -> float:
    """Processor time that a process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
