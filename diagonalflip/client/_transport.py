"""HTTP by ``requests``, and urllib3 below it, with deadlines that hold against a server that drips.

What does not change from request to request is found out once, by ``requests``: proxies,
certificates, headers, and what ``~/.netrc`` says. Deadlines bound everything but name resolution,
which the operating system limits.
"""

from __future__ import annotations

import http.client
import os
import ssl
import threading
from collections.abc import Mapping
from typing import Any

import requests
import urllib3

from diagonalflip.client._connection import THREAD, WATCHDOG, Call, Connection
from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import LONGEST_PROBLEM_BYTES, Endpoint, Form, Reply
from diagonalflip.errors import ClientError, ConnectionFailed
from diagonalflip.wire import Images

FRAMING = {"content-length", "transfer-encoding"}
"""Without either, a lost connection looks like an end: http.client even takes half a header."""


class _Bearer(requests.auth.AuthBase):
    """A token, or none. As ``auth``, because ~/.netrc would replace a mere header."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Transport:
    """Sends requests on kept connections; any number of threads, each on one of its own.

    Args:
        endpoint: Where to, and what to say.
        verify: As in ``requests``: whether to check certificates, or a CA bundle's path.
        cert: As in ``requests``: the client's certificate, and its key if in another file.
        connections: How many to keep.

    Raises:
        ClientError: A setting cannot be used.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        verify: bool | str,
        cert: str | tuple[str, str] | None,
        connections: int = 1,
    ) -> None:
        self._endpoint, self._connections = endpoint, connections
        self._verify, self._cert = endpoint.trusted(verify), cert
        self._closed, self._process, self._opening = False, 0, threading.Lock()

    def close(self) -> None:
        """Closes idle connections at once, and those in use after their answers."""
        self._closed = True
        if self._process == os.getpid():
            self._pool.close()

    def exchange(self, images: Images, form: Form, deadline: Deadline, out: Any = None) -> Reply:
        """Asks for predictions, once; raises what ``send`` does, and ``Endpoint.checked``.

        Args:
            images: What to send.
            form: Of the answer.
            deadline: Of the call.
            out: Array for an answer of that form, if its bytes are as in the answer.
        """
        headers = self._endpoint.headers(images, form)
        most = form.length_bytes(images.count) + 1
        into = None if out is None else memoryview(out).cast("B")
        url, body = self._endpoint.url, bytes(images.packed)
        return self._endpoint.checked(self.send(url, body, headers, deadline, most, into=into))

    def send(  # noqa: PLR0913 - what a request is
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        deadline: Deadline,
        most: int,
        *,
        method: str = "POST",
        into: memoryview | None = None,
    ) -> Reply:
        """Sends one request and reads its whole answer, or ``most`` bytes, whatever that is.

        Args:
            url: Below the endpoint's.
            body: Of the request.
            headers: Besides the token.
            deadline: Of the call.
            most: Bytes that are wanted of an answer with status 200.
            method: Of the request.
            into: Takes the body of an answer with status 200, if it has that length.

        Raises:
            ConnectionFailed: The connection failed before a whole answer.
            DeadlineExceeded: The deadline passed before a whole answer.
            ClientError: The request cannot be sent: TLS, or a malformed URL or header; or
                the client is closed.
        """
        if self._closed:
            raise ClientError("the client is closed", "an open one", "make another Client")
        call = THREAD.call = Call(deadline)
        try:
            if self._process != os.getpid():
                self._open()
            left_s = deadline.check()
            with WATCHDOG.watching(call):
                response = self._pool.urlopen(
                    method,
                    self._prefix + url.removeprefix(self._endpoint.base),
                    body,
                    self._headers | dict(headers),
                    retries=False,
                    redirect=False,  # a POST would become a GET
                    assert_same_host=False,
                    timeout=urllib3.Timeout(connect=left_s, read=left_s),
                    preload_content=False,
                    decode_content=False,
                )
                return _reply(response, call.response, most, into)
        except ConnectionFailed as error:
            raise (deadline.exceeded() if deadline.left_s() <= 0 else error) from error.__cause__
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise self._failure(error, deadline) from error
        except (requests.RequestException, ValueError) as error:
            raise ClientError(f"{error}", "a request", "check the client's settings") from error
        finally:
            THREAD.call = None

    def _open(self) -> None:
        """Find out what all requests share. A process has connections of its own.

        Raises:
            requests.RequestException: The URL, or a proxy's, cannot be used.
            ClientError: A certificate's file cannot.
        """
        with self._opening:
            if self._process == os.getpid():
                return
            endpoint, session = self._endpoint, requests.Session()
            if endpoint.token is not None or endpoint.is_loopback:
                session.auth = _Bearer(endpoint.token)
            request = session.prepare_request(requests.Request("POST", endpoint.base))
            proxies: Any = {"no_proxy": "*"} if endpoint.is_loopback else {}
            proxies = session.merge_environment_settings(
                endpoint.base, proxies, None, self._verify, self._cert
            )["proxies"]
            adapter = requests.adapters.HTTPAdapter(pool_maxsize=self._connections)
            pool: Any = adapter.get_connection_with_tls_context(
                request, self._verify, proxies, self._cert
            )
            try:
                adapter.cert_verify(pool, request.url, self._verify, self._cert)  # type: ignore[no-untyped-call]
            except OSError as error:
                raise ClientError(f"{error}", "a file that is there", "check cert") from error
            pool.ConnectionCls = type("Connection", (Connection, pool.ConnectionCls), {})
            kept = {"user-agent", "authorization"}
            self._headers = {
                name: value for name, value in request.headers.items() if name.lower() in kept
            }
            # A path; for a proxy, a whole URL.
            self._prefix = adapter.request_url(request, proxies).rstrip("/")
            self._pool, self._process = pool, os.getpid()

    def _failure(self, error: Exception, deadline: Deadline) -> ClientError:
        """Return what a failed request is to the caller."""
        is_late = isinstance(error, urllib3.exceptions.TimeoutError | TimeoutError)
        is_late &= not isinstance(error, urllib3.exceptions.NewConnectionError)
        if deadline.left_s() <= 0 or is_late:
            return deadline.exceeded()
        reason = _reason(error)
        told = f"{self._endpoint.shown}: {str(reason) or type(reason).__name__}"
        if isinstance(reason, ssl.SSLCertVerificationError):
            return ClientError(told, "a trusted certificate", "check verify")
        if isinstance(error, urllib3.exceptions.LocationValueError):
            return ClientError(told, "a URL", "check the client's settings")
        return ConnectionFailed(told, "a whole answer", "check the server")


def _reply(response: Any, raw: Any, most: int, into: memoryview | None) -> Reply:
    """Read a response, and give its connection back."""
    body: bytes | memoryview
    is_answer, is_whole = response.status == 200, False
    try:
        if not is_answer:
            most, into = LONGEST_PROBLEM_BYTES, None
        elif not FRAMING & {name.lower() for name in response.headers}:
            raise ConnectionFailed("the answer has no length", "a header Content-Length")
        if into is not None and raw.length == len(into):
            body = _read_into(raw, into)
        else:
            body = _read(raw, most)
        if len(body) < most and raw.length:
            raise http.client.IncompleteRead(b"", raw.length)
        is_whole = raw.isclosed() or raw.length == 0
        return Reply(response.status, response.headers, body)
    finally:
        # After an error TorchServe closes it too, maybe just when the next request is under way.
        if not (is_answer and is_whole):
            response.close()
        response.release_conn()


def _read_into(raw: http.client.HTTPResponse, into: memoryview) -> memoryview:
    """Fill memory with a body; return what came of it."""
    done = 0
    while done < len(into) and (count := raw.readinto(into[done:])):
        done += count
    return into[:done]


def _read(raw: http.client.HTTPResponse, most: int) -> bytes:
    """The body, or ``most`` bytes of it.

    Only the read after the last byte tells a connection that was lost from a short body.
    """
    body = raw.read(most)
    while len(body) < most and (part := raw.read(most - len(body))):
        body += part
    return body


def _reason(error: BaseException) -> BaseException:
    """Return the system's own error from those of the libraries around it."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError | http.client.HTTPException):
            return inner
        inner = inner.__cause__ or inner.__context__
    return error
