"""HTTP by ``requests``, with a deadline that also holds against a server that drips.

A timeout of ``requests`` begins anew with every byte that arrives, so a peer that sends one
now and then holds a call for ever (psf/requests#3099). Here the socket itself knows the
call's deadline: every read and write, of headers too, waits for what is left of it and no
longer. Only name resolution is out of reach; the operating system limits that.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from diagonalflip._deadline import Deadline
from diagonalflip._endpoint import LONGEST_PROBLEM_BYTES, Endpoint, Form, Reply
from diagonalflip.errors import ClientError, ConnectionFailed
from diagonalflip.wire import Images

POLL_S = 0.2
"""Longest delay until a blocked read notices that its call was cancelled."""

# urllib3 makes the connections, so the deadline of a thread's call reaches them this way.
_DEADLINE: ContextVar[Deadline] = ContextVar("diagonalflip_deadline")

_FRAMING = {"content-length", "transfer-encoding"}
"""Without either, a lost connection looks like an end: http.client even takes half a header."""


class _DeadlineReader(io.RawIOBase):
    """A socket's reading side, which ends with the call's deadline."""

    def __init__(self, sock: socket.socket, file: io.BufferedReader) -> None:
        self._socket = sock
        self._file = file.detach()  # it counts as a user of the socket until it is closed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            self._socket.settimeout(min(_DEADLINE.get().check(), POLL_S))
            try:
                return self._socket.recv_into(buffer)
            except TimeoutError:
                continue

    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_DeadlineReader(sock, self.fp))

    def _read_status(self) -> tuple[str, int, str]:
        """Skip interim responses, of which http.client knows but 100 (RFC 9110, section 15.2)."""
        while True:
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if not 100 <= found[1] < 200 or found[1] == 101:
                return found
            http.client.parse_headers(self.fp)


class _Connection(HTTPConnection):
    response_class = _Response

    def send(self, data: Any) -> None:
        if self.sock is not None:
            self.sock.settimeout(_DEADLINE.get().check())
        super().send(data)


class _SecureConnection(_Connection, HTTPSConnection):
    """The same over TLS."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    """The adapter of ``requests`` on connections that know deadlines."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return manager


class _Bearer(requests.auth.AuthBase):
    """A token, or none. As ``auth``, because ~/.netrc would replace a mere header."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Transport:
    """Sends requests on kept connections; any number of threads, each with one of its own.

    Args:
        endpoint: Where to, and what to say.
        verify: As in ``requests``: whether to check certificates, or a CA bundle's path.
        cert: As in ``requests``: the client's certificate, and its key if in another file.
    """

    def __init__(
        self, endpoint: Endpoint, verify: bool | str, cert: str | tuple[str, str] | None
    ) -> None:
        self._endpoint = endpoint
        # Given with every request: $REQUESTS_CA_BUNDLE wins over a session's (requests#3829).
        self._options: dict[str, Any] = {"verify": endpoint.trusted(verify), "cert": cert}
        if endpoint.is_loopback:
            self._options["proxies"] = {"no_proxy": "*"}
        self._idle: deque[requests.Session] = deque()
        self._process = os.getpid()
        self._closed = False

    def close(self) -> None:
        """Closes idle connections at once, and those in use after their answers."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def exchange(self, images: Images, form: Form, deadline: Deadline) -> Reply:
        """Asks for predictions, once; raises what ``send`` does, and ``Endpoint.checked``."""
        headers = self._endpoint.headers(images, form)
        most = form.length_bytes(images.count) + 1
        url, body = self._endpoint.url, bytes(images.packed)
        return self._endpoint.checked(self.send(url, body, headers, deadline, most))

    def send(  # noqa: PLR0913 - what a request is
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, Any],
        deadline: Deadline,
        most: int,
        *,
        method: str = "POST",
    ) -> Reply:
        """Sends one request and reads its whole answer, or ``most`` bytes, whatever that is.

        Raises:
            ConnectionFailed: The connection failed before a whole answer.
            DeadlineExceeded: The deadline passed before a whole answer.
            ClientError: The request cannot be sent: TLS, or a malformed URL or header; or
                the client is closed.
        """
        if self._closed:
            raise ClientError("the client is closed", "an open one", "make another Client")
        session = self._lease()
        token = _DEADLINE.set(deadline)
        try:
            with session.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=deadline.check(),
                stream=True,
                allow_redirects=False,  # a POST would become a GET
                **self._options,
            ) as response:
                return _reply(session, response, most)
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise deadline.exceeded() from error
        except (requests.ConnectionError, urllib3.exceptions.HTTPError) as error:
            if deadline.left_s() <= 0:
                raise deadline.exceeded() from error
            reason = _reason(error)
            told = str(reason) or type(reason).__name__
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise ClientError(told, "a trusted certificate", "check verify") from error
            told = f"{self._endpoint.shown}: {told}"
            raise ConnectionFailed(told, "a whole answer", "check the server") from error
        except (requests.RequestException, OSError) as error:
            raise ClientError(f"{error}", "a request", "check the client's settings") from error
        finally:
            _DEADLINE.reset(token)
            self._idle.append(session)
            if self._closed:
                self.close()

    def _lease(self) -> requests.Session:
        """An idle session, or a new one: a session serves one thread at a time."""
        if self._process != os.getpid():
            # After a fork: answers to both processes would come on the same connection.
            self._idle, self._process = deque(), os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            session = requests.Session()
            for scheme in ("http://", "https://"):
                session.mount(scheme, _Adapter(pool_connections=1, pool_maxsize=1))
            if self._endpoint.token is not None or self._endpoint.is_loopback:
                session.auth = _Bearer(self._endpoint.token)
            return session


def _reply(session: requests.Session, response: requests.Response, most: int) -> Reply:
    is_answer = response.status_code == requests.codes.ok
    if not is_answer:
        most = LONGEST_PROBLEM_BYTES
    elif not _FRAMING & {name.lower() for name in response.headers}:
        raise ConnectionFailed("the answer has no length", "a header Content-Length")
    body = _read(response.raw, most)
    if not is_answer:
        session.close()  # so does TorchServe, maybe just when the next request is under way
    return Reply(response.status_code, response.headers, body)


def _read(raw: Any, most: int) -> bytes:
    """The body, or ``most`` bytes of it.

    Only the read after the last byte tells a connection that was lost from a short body.
    """
    body: bytes = raw.read(most)
    while len(body) < most and (part := raw.read(most - len(body))):
        body += part
    return body


def _reason(error: BaseException) -> BaseException:
    """Return the system's own error from the two libraries' errors around it."""
    inner: BaseException | None = error
    while inner is not None:
        is_wrapper = isinstance(inner, requests.RequestException)
        if isinstance(inner, OSError | http.client.HTTPException) and not is_wrapper:
            return inner
        inner = inner.__cause__ or inner.__context__
    return error
