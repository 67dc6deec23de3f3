"""One batch of requests on its way through the handler, whichever port they came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Item:
    """One request, and what the handler has set for its answer.

    Attributes:
        request_id: TorchServe's; empty for requests that came directly.
        headers: In the client's spelling.
        inputs: ``body``, or the named inputs of a form or a gRPC request.
    """

    request_id: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, bytes] = field(default_factory=dict)
    status: int = 200
    phrase: str = "OK"
    content_type: str = ""
    response_headers: dict[str, str] = field(default_factory=dict)


Answer = Callable[[Sequence[Item]], list[bytes]]
"""Answers a batch: sets statuses and headers on its items, and returns their bodies."""


class BatchContext:
    """A batch as the handler sees it: the part of ``ts.context.Context`` that ours uses."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def get_all_request_header(self, index: int) -> dict[str, str]:
        """Request headers in the client's spelling."""
        return self._items[index].headers

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        """HTTP status of one answer."""
        self._items[idx].status, self._items[idx].phrase = code, phrase

    def set_response_content_type(self, idx: int, value: str) -> None:
        """``Content-Type`` of one answer."""
        self._items[idx].content_type = value
        self._items[idx].response_headers["content-type"] = value

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """A header of one answer."""
        self._items[idx].response_headers[key] = value
