"""HTTP by aiohttp, with deadlines by asyncio's timeouts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
from aiohttp.connector import NEEDS_CLEANUP_CLOSED

from diagonalflip.client._deadline import Deadline
from diagonalflip.client._endpoint import LONGEST_PROBLEM_BYTES, Endpoint, Form, Reply, shown
from diagonalflip.client._sender import Answer, Sender
from diagonalflip.errors import ClientError, ConnectionFailed
from diagonalflip.wire import Images

_OF_PARENTS: list[aiohttp.ClientSession] = []
"""Sessions from before a fork, kept open: closing them would unregister the parent's connections,
because parent and child share what the kernel watches for their event loops."""


class AsyncTransport(Sender):
    """Sends requests on kept connections of the running event loop; further requests wait."""

    def __init__(self, endpoint: Endpoint, connections: int) -> None:
        super().__init__(endpoint, connections)
        if endpoint.proxy and not endpoint.proxy.startswith(("http://", "https://")):
            raise ClientError(f"the proxy {shown(endpoint.proxy)}", "one of http or https")
        self._session: aiohttp.ClientSession | None = None
        self._owner: tuple[int, asyncio.AbstractEventLoop]
        self._waiting: set[asyncio.Timeout] = set()

    async def close(self) -> None:
        """Close all connections; calls that are running raise ClientError."""
        self._closed = True
        for scope in self._waiting:
            with suppress(RuntimeError):  # it is over already
                scope.reschedule(0)  # a moment in the past
        await asyncio.sleep(0)  # let the timeouts take effect
        if (session := self._dropped()) is not None:
            await session.close()

    def _dropped(self) -> aiohttp.ClientSession | None:
        """Forget the session; return it if it is to be closed, unlike that of a parent."""
        session, self._session = self._session, None
        if session is not None and self._owner[0] != os.getpid():
            _OF_PARENTS.append(session)
            return None
        return session

    @asynccontextmanager
    async def waiting(self, seconds: float | None = None) -> AsyncIterator[None]:
        """Wait until the client is closed, or for some seconds.

        Raises:
            ClientError: The client is closed.
            TimeoutError: The seconds are over.
        """
        if self._closed:
            raise _closed()
        try:
            async with asyncio.timeout(seconds) as scope:
                self._waiting.add(scope)
                try:
                    yield
                finally:
                    self._waiting.discard(scope)
        except TimeoutError as error:
            if self._closed:
                raise _closed() from error
            raise

    async def _exchange(
        self, images: Images, form: Form, deadline: Deadline, _: Answer | None
    ) -> Reply:
        try:
            async with (
                self.waiting(deadline.check()),
                (await self._connected()).post(
                    self.endpoint.url,
                    data=bytes(images.packed),
                    headers=self.endpoint.headers(images, form) | self.endpoint.authorization,
                    skip_auto_headers=("Content-Type",),
                    allow_redirects=False,
                    proxy=self.endpoint.proxy,
                ) as response,
            ):
                is_answer = response.status == 200
                most = form.length_bytes(images.count) + 1 if is_answer else LONGEST_PROBLEM_BYTES
                body = bytearray()
                while len(body) < most and (part := await response.content.read(most - len(body))):
                    body += part
                return Reply(response.status, response.headers, body)
        except TimeoutError as error:
            raise deadline.exceeded() from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise ClientError(f"{error}", "a trusted certificate", "check verify") from error
        except (aiohttp.InvalidURL, ValueError) as error:
            raise ClientError(shown(error), "a request", "check the client's settings") from error
        except (aiohttp.ClientError, OSError) as error:
            told = f"{self.endpoint.place}: {str(error) or repr(error)}"
            raise ConnectionFailed(told, "a whole answer", "check the server") from error
        except RuntimeError as error:  # at the interpreter's exit, no thread can resolve names
            expected = "one event loop at a time, before the program's exit"
            raise ClientError(f"{error}", expected) from error

    async def _sleep(self, seconds: float, _: Deadline) -> None:
        async with self.waiting():
            await asyncio.sleep(seconds)

    async def _connected(self) -> aiohttp.ClientSession:
        """Return the session of this process and its running event loop."""
        owner = os.getpid(), asyncio.get_running_loop()
        session = self._session
        if session is None or self._owner != owner:
            dropped, self._owner = self._dropped(), owner
            # Before anything is waited for: other tasks take this one.
            self._session = session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self.connections,
                    ssl=self.endpoint.tls or True,
                    enable_cleanup_closed=NEEDS_CLEANUP_CLOSED,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(),  # none: there is the deadline
                auto_decompress=False,
            )
            if dropped is not None:
                await dropped.close()
        return session


def _closed() -> ClientError:
    return ClientError("the client is closed", "an open one", "make another AsyncClient")
