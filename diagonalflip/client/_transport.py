"""HTTP by ``requests`` and its urllib3, with deadlines that hold even if a server sends slowly.

Deadlines bound everything except name resolution, which the operating system limits.
"""

from __future__ import annotations

import http.client
import os
import ssl
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import urllib3
from requests.adapters import HTTPAdapter

from diagonalflip.client._connection import THREAD, Connection
from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import (
    LONGEST_PROBLEM_BYTES,
    PREDICTIONS,
    Endpoint,
    Form,
    Reply,
    shown,
)
from diagonalflip.client._sender import Answer, Sender, run
from diagonalflip.errors import ClientError, ConnectionFailed
from diagonalflip.wire import Images

KEPT_CONNECTIONS = 64
"""Least connections that are kept open: many threads may share a client."""


class Transport(Sender):
    """Sends requests on kept connections; each thread uses one of its own."""

    def __init__(self, endpoint: Endpoint, connections: int = 1) -> None:
        super().__init__(endpoint, connections)
        self._process = 0
        self._opening: dict[int, threading.Lock] = {}  # by process: a fork may copy a locked one

    def close(self) -> None:
        """Close idle connections now, and others after their answers."""
        self._closed = True
        if self._process == os.getpid():
            self._pool.close()

    def ask(
        self, images: Images, form: Form, deadline: Deadline, out: Answer | None = None
    ) -> Answer:
        """Return the answers for one chunk, in ``out`` if given."""
        return run(self.answer(images, form, deadline, out))

    async def _exchange(
        self, images: Images, form: Form, deadline: Deadline, out: Answer | None
    ) -> Reply:
        headers = self.endpoint.headers(images, form)
        most = form.length_bytes(images.count) + 1
        into = None
        if form is PREDICTIONS:  # as many bytes as in the body
            array: Any = np.empty((images.count, *form.shape), form.dtype) if out is None else out
            into = memoryview(array).cast("B")
        return self.send(self.endpoint.url, images.packed, headers, deadline, most, into=into)

    async def _sleep(self, seconds: float, deadline: Deadline) -> None:
        deadline.sleep(seconds)

    def send(  # noqa: PLR0913 - what a request is
        self,
        url: str,
        body: bytes | bytearray,
        headers: Mapping[str, str],
        deadline: Deadline,
        most: int,
        *,
        method: str = "POST",
        into: memoryview | None = None,
    ) -> Reply:
        """Send one request to a URL below the endpoint's, and read its answer, of any status.

        ``headers`` are without the token. At most ``most`` bytes of an answer with status 200 are
        read, into ``into`` if it has the answer's length.

        Raises:
            ConnectionFailed, DeadlineExceeded, ClientError: As ``Sender._exchange``.
        """
        if self._closed:
            raise ClientError("the client is closed", "an open one", "make another Client")
        left_s = deadline.check()
        outer = getattr(THREAD, "deadline", deadline)  # of a call that a signal interrupted
        THREAD.deadline = deadline
        try:
            if self._process != os.getpid():
                self._open()
            response = self._pool.urlopen(
                method,
                self._prefix + url.removeprefix(self.endpoint.base),
                bytes(body),
                self._headers | dict(headers),
                retries=False,
                redirect=False,  # a POST would become a GET
                assert_same_host=False,
                timeout=urllib3.Timeout(connect=left_s, read=left_s),
                preload_content=False,
                decode_content=False,
            )
            return _reply(response, most, into)
        except ValueError as error:  # requests' and urllib3's as well: a malformed URL or proxy
            raise ClientError(shown(error), "a request", "check the client's settings") from error
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise self._failure(error, deadline) from error
        finally:
            THREAD.deadline = outer

    def _open(self) -> None:
        """Make this process's pool of connections; after a fork, the old one is the parent's."""
        with self._opening.setdefault(os.getpid(), threading.Lock()):
            if self._process == os.getpid():
                return
            endpoint = self.endpoint
            kept = max(self.connections, KEPT_CONNECTIONS)
            adapter, proxies = HTTPAdapter(pool_maxsize=kept), endpoint.proxies
            checks = endpoint.tls is None or endpoint.tls.verify_mode != ssl.CERT_NONE
            if endpoint.proxy and endpoint.proxy.startswith("https:"):
                # The adapter will use this manager.
                adapter.proxy_manager_for(endpoint.proxy, proxy_ssl_context=endpoint.tls)
            pool: Any = adapter.get_connection_with_tls_context(endpoint.request, checks, proxies)
            if endpoint.tls is not None:  # or each connection would read the files again
                pool.conn_kw["ssl_context"] = tls = endpoint.tls
                # urllib3 1 does not pass the server's name if it is an address.
                named = partial(tls.wrap_socket, server_hostname=pool.host)
                tls.wrap_socket = named  # type: ignore[method-assign]
            pool.host = pool.host.replace("%25", "%")  # as in ``base``
            pool.ConnectionCls = type("Connection", (Connection, pool.ConnectionCls), {})
            agent = {"User-Agent": endpoint.request.headers["User-Agent"]}
            self._headers = agent | endpoint.authorization
            # A path; for a proxy, a whole URL.
            self._prefix = adapter.request_url(endpoint.request, proxies).rstrip("/")
            self._pool, self._process = pool, os.getpid()

    def _failure(self, error: Exception, deadline: Deadline) -> ClientError:
        """Return the client's error for a library's."""
        is_late = isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError)
        is_late &= not isinstance(error, urllib3.exceptions.NewConnectionError)
        if deadline.left_s() <= 0 or is_late:
            return deadline.exceeded()
        reason = _reason(error)
        told = f"{self.endpoint.place}: {str(reason) or type(reason).__name__}"
        if isinstance(reason, ssl.SSLCertVerificationError):
            return ClientError(told, "a trusted certificate", "check verify")
        return ConnectionFailed(told, "a whole answer", "check the server")


def _reply(response: Any, most: int, into: memoryview | None) -> Reply:
    """Read a response, and return its connection to the pool."""
    raw: http.client.HTTPResponse = response._original_response  # noqa: SLF001
    body: bytes | memoryview
    is_answer, is_whole = response.status == 200, False
    try:
        if not is_answer:
            most, into = LONGEST_PROBLEM_BYTES, None
        if into is not None and raw.length == len(into):
            body = into[: raw.readinto(into)]
        else:
            body = raw.read(most)
        if len(body) < most and raw.length:
            raise http.client.IncompleteRead(b"", raw.length)
        is_whole = raw.isclosed() or raw.length == 0
        return Reply(response.status, response.headers, body)
    finally:
        # TorchServe closes it after an error, possibly while the next request is being sent.
        if not (is_answer and is_whole):
            response.close()
        response.release_conn()


def _reason(error: BaseException) -> BaseException:
    """Return the operating system's error that caused a library's."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError | http.client.HTTPException):
            return inner
        inner = inner.__cause__ or inner.__context__
    return error
