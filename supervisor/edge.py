"""The edge: HAProxy in front of the workers, for every address that is not loopback.

It ends TLS, asks for a token, limits rate, size, time and connections, lets only our routes
and methods through, sends a request that died with a worker to another one, and drains.
HAProxy rather than nginx, which is as fast as a plain proxy of W2 to W4, because it checks each
worker, queues for them, limits by token, compares digests and reloads without losing a connection,
all in one file; rather than Caddy, because that passes on a third to a half of W2 and W3.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from string import Template

from diagonalflip import errors
from diagonalflip.errors import DiagonalFlipError, SettingError
from diagonalflip.message import v2_paths, verbs
from diagonalflip.wire import MAX_BODY_BYTES, MAX_CONNECTIONS, PROBLEM
from supervisor import host, logs, tokens
from supervisor.settings import Settings, refuse_unsafe
from supervisor.store import Artifacts
from worker.limits import BATCH_REQUESTS
from worker.listener import PROBES
from worker.routes import CALLS, worker_socket

TEMPLATE = Template(Path(__file__).with_name("haproxy.cfg").read_text(encoding="utf-8"))

CONNECTIONS_OF_AN_ADDRESS = 2048
"""Half of all: no single client can take every connection."""

SPARE_FILES = 100
"""Open files of the edge beside two per connection."""

MAX_QUEUE = 1024
"""Requests waiting for a worker to have room; further ones are refused at once."""

HEADERS = (
    *("host", "connection", "content-length", "transfer-encoding", "content-type", "expect"),
    *("accept", "content-encoding", "if-match", "inference-header-content-length"),
    *("x-request-id", "traceparent"),
)
"""Request headers that have a meaning here; the worker need not parse others."""

METHODS = ", ".join([*CALLS, "OPTIONS"])
RETRY = "hdr Retry-After 1"

REFUSALS: tuple[tuple[DiagonalFlipError, str], ...] = (
    (errors.InvalidRequest("no HTTP request", "HTTP/1.1 or 2"), ""),
    (
        errors.NotAuthorized("no token that is known", "Authorization: Bearer TOKEN", "add it"),
        "hdr WWW-Authenticate Bearer",
    ),
    (errors.TokenRevoked("a token that was revoked", "a valid one", "ask for a new token"), ""),
    (errors.ModelNotFound("another path", "/predictions/MODEL", "see the wire format"), ""),
    (errors.MethodNotAllowed("another method", METHODS), f'hdr Allow "{METHODS}"'),
    (errors.RequestTimeout("half a request", "a whole one", "send it faster"), ""),
    (errors.RequestTooLarge("a longer body", f"at most {MAX_BODY_BYTES} bytes", "send fewer"), ""),
    (errors.RateLimited("more requests than this token may send", "fewer", "wait"), RETRY),
    (errors.InternalError("a failure of the edge", "an answer", "send it again"), ""),
    (errors.ServerOverloaded("no worker that is free in time", "one", "send it again"), RETRY),
)
"""What the edge answers by itself: an error, whose status it is for, and a further header."""


class Edge:
    """HAProxy with our configuration.

    Args:
        settings: As ``ports.resolve`` returned them.
        tokens_file: Who may ask.
        artifacts: Whose model the paths name.
        sockets: Folder of the workers' and the supervisor's sockets; takes the edge's own files.

    Raises:
        SettingError: The settings are unsafe, or HAProxy cannot run with them.
    """

    def __init__(
        self, settings: Settings, tokens_file: Path, artifacts: Artifacts, sockets: Path
    ) -> None:
        self._settings, self._tokens, self._folder = settings, tokens_file, sockets
        self._served = artifacts.model, artifacts.version
        self._binary = host.find_haproxy()
        self._files = [
            path for path in (tokens_file, settings.tls_cert, settings.tls_key) if path is not None
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._seen: list[tuple[int, int, int]] = []
        self._write()

    def start(self) -> None:
        """Starts it; its port is open a moment later."""
        self._seen = self._stamps()
        with logs.output_of("edge", self._settings) as output:
            self._process = subprocess.Popen(
                [self._binary, "-W", "-db", "-f", str(self._folder / "haproxy.cfg")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=host.die_with_parent,  # noqa: PLW1509 - it only makes a system call
            )

    @property
    def pid(self) -> int:
        """Its process; 0 before it was started."""
        return self._process.pid if self._process is not None else 0

    @property
    def ended(self) -> bool:
        """Whether it was started and runs no more."""
        return self._process is not None and self._process.poll() is not None

    def follow_files(self) -> bool:
        """Takes over changed tokens and certificates, without losing a connection.

        Returns:
            Whether there was a change.

        Raises:
            SettingError: They cannot be used; the edge goes on with what it had.
        """
        stamps = self._stamps()
        if stamps == self._seen or self._process is None:
            return False
        self._seen = stamps
        self._write()
        self._process.send_signal(signal.SIGUSR2)
        return True

    def forget_files(self) -> None:
        """Makes ``follow_files`` see a change."""
        self._seen = []

    def drain(self, timeout_s: float) -> None:
        """Closes the port, lets what was accepted end, and ends."""
        self._end(signal.SIGUSR1, timeout_s)

    def stop(self) -> None:
        """Ends at once."""
        self._end(signal.SIGTERM, 2.0)

    def _end(self, number: signal.Signals, timeout_s: float) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _stamps(self) -> list[tuple[int, int, int]]:
        stamps = []
        for path in self._files:
            with contextlib.suppress(OSError):
                status = path.stat()
                stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return stamps

    def _write(self) -> None:
        """Writes HAProxy's files and has it check them."""
        settings = self._settings
        refuse_unsafe(settings)
        names = tokens.read(self._tokens)
        lines = "".join(f"{digest} {name}\n" for digest, name in names.items())
        _write_privately(self._folder / "tokens.map", lines)
        if settings.tls_cert is not None and settings.tls_key is not None:
            _write_privately(self._folder / "edge.pem", _pem(settings.tls_cert, settings.tls_key))
        candidate = self._folder / "haproxy.new.cfg"
        _write_privately(candidate, self._configuration())
        checked = subprocess.run(
            [self._binary, "-c", "-f", str(candidate)],
            capture_output=True,
            text=True,
            check=False,
        )
        if checked.returncode != 0:
            told = " ".join(checked.stderr.split())[-500:]
            raise SettingError(f"HAProxy's refusal: {told}", "settings of the edge that it takes")
        candidate.replace(self._folder / "haproxy.cfg")

    def _configuration(self) -> str:
        settings, folder = self._settings, self._folder
        address = f"[{settings.host}]" if ":" in settings.host else settings.host
        return TEMPLATE.substitute(
            threads=min(4, host.count_cores()),
            stop_s=settings.stop_s,
            connections=min(MAX_CONNECTIONS, (host.allow_many_files() - SPARE_FILES) // 2),
            errors="\n    ".join(_error_lines(folder)),
            address=f"{address}:{settings.edge_port}",
            tls=f"ssl crt {folder / 'edge.pem'} alpn h2,http/1.1" if settings.tls_cert else "",
            connections_of_an_address=CONNECTIONS_OF_AN_ADDRESS,
            tokens=folder / "tokens.map",
            token_rate=settings.token_rate,
            paths=" ".join([*verbs(*self._served), *v2_paths(*self._served)]),
            max_body_bytes=MAX_BODY_BYTES,
            max_queue=MAX_QUEUE,
            headers="|".join(HEADERS),
            methods=METHODS,
            probes=", ".join([*PROBES, "OPTIONS"]),
            problem=PROBLEM,
            refused_method=folder / f"{errors.MethodNotAllowed.status}.json",
            requests_of_a_worker=2 * BATCH_REQUESTS,  # one batch is answered, the next arrives
            workers="\n    ".join(
                f"server worker-{number} unix@{worker_socket(folder, number)}"
                for number in range(settings.workers)
            ),
            operations=folder / "operations.sock",
            metrics=folder / "edge-metrics.sock",
        )


def _pem(certificate: Path, key: Path) -> str:
    try:
        return f"{certificate.read_text().strip()}\n{key.read_text().strip()}\n"
    except (OSError, UnicodeError) as error:
        raise SettingError(
            f"TLS_CERT={certificate}, TLS_KEY={key}: {error}", "PEM files"
        ) from error


def _error_lines(folder: Path) -> Iterator[str]:
    """A directive for each status that the edge answers by itself."""
    for error, header in REFUSALS:
        path = folder / f"{error.status}.json"
        body = json.dumps(error.problem())
        _write_privately(path, body)
        told = f"status {error.status} content-type {PROBLEM} file {path} {header}"
        yield f"http-error {told}".rstrip()
    # The last one is 503. A worker that was lost, or is slow, is no other answer to a client.
    lost = (
        f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: {PROBLEM}\r\n"
        f"content-length: {len(body)}\r\nretry-after: 1\r\n\r\n{body}"
    )
    for status in (502, 504):
        path = folder / f"{status}.http"
        _write_privately(path, lost)
        yield f"errorfile {status} {path}"


def _write_privately(path: Path, content: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)
