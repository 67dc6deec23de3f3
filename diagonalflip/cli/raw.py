"""Plain HTTP, for what the client hides: headers, forms of answers, refusals, pictures."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

import requests
import urllib3

from diagonalflip._endpoint import Reply, is_loopback
from diagonalflip.errors import ClientError, ConnectionFailed, DeadlineExceeded

PREDICTIONS = "/predictions/diagonal_flip"
PIECE_BYTES = 1 << 16


class Raw:
    """POSTs on kept connections, one for each thread, and nothing sent twice.

    Args:
        url: Of the server, without a path of ours.
        token: For ``Authorization: Bearer``, or None.
        verify: As in ``requests``.
        timeout_s: Seconds until a request is given up.
    """

    def __init__(self, url: str, token: str | None, verify: bool | str, timeout_s: float) -> None:
        self.url = url
        self._verify = verify
        self._timeout_s = timeout_s
        # What is None here, requests leaves out instead of sending its own.
        self._headers: dict[str, Any] = {"Accept": None, "Accept-Encoding": "identity"}
        self._token = token
        self._proxies = {"no_proxy": "*"} if is_loopback(urlsplit(url).hostname or "") else {}
        self._threads = threading.local()
        self._sessions: list[requests.Session] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for session in self._sessions:
            session.close()

    def post(
        self,
        body: bytes,
        headers: Mapping[str, str],
        path: str = PREDICTIONS,
        timeout_s: float | None = None,
    ) -> Reply:
        """Sends one request, with these headers and no other ``Content-Type`` or ``Accept``.

        Raises:
            ConnectionFailed: There was no connection, or it was lost.
            DeadlineExceeded: The whole answer took longer.
            ClientError: The request cannot be sent.
        """
        patience_s = min(self._timeout_s, timeout_s or self._timeout_s)
        try:
            return self._post(body, headers, path, patience_s)
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise DeadlineExceeded(f"no whole answer after {patience_s:g} s", "one") from error
        except requests.exceptions.SSLError as error:
            raise ClientError(f"{error}", "a TLS connection", "check --ca") from error
        except (requests.ConnectionError, urllib3.exceptions.HTTPError) as error:
            raise ConnectionFailed(f"{error}", "an answer", "check the URL") from error
        except (requests.RequestException, OSError) as error:
            raise ClientError(f"{error}", "a request", "check the options") from error

    def _post(self, body: bytes, headers: Mapping[str, str], path: str, patience_s: float) -> Reply:
        end = time.monotonic() + patience_s
        session = self._session()
        with session.post(
            f"{self.url}{path}",
            data=body,
            headers=self._headers | dict(headers),
            timeout=patience_s,
            stream=True,
            allow_redirects=False,
            verify=self._verify,
            proxies=self._proxies,
        ) as response:
            pieces = []
            while piece := response.raw.read1(PIECE_BYTES):
                pieces.append(piece)
                if time.monotonic() > end:  # requests' timeout begins anew with every byte
                    raise requests.Timeout
        if response.status_code != requests.codes.ok:
            session.close()  # so does TorchServe, maybe just when the next request is under way
        return Reply(response.status_code, response.headers, b"".join(pieces))

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._threads, "session", None)
        if session is None:
            session = self._threads.session = requests.Session()
            self._sessions.append(session)
            if self._token is not None or self._proxies:
                session.auth = self._authorize  # ~/.netrc would replace a mere header
        return session

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request
