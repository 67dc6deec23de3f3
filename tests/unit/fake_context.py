"""The part of ``ts.context.Context`` that a handler may use; tests/contract compares both."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class FakeContext:
    """One batch: headers in, statuses and content types out, by index."""

    folder: Path
    batch_size: int | None = 8
    request_headers: list[dict[str, Any]] = field(default_factory=list)
    statuses: dict[int, tuple[int, str]] = field(default_factory=dict)
    content_types: dict[int, str] = field(default_factory=dict)
    response_headers: dict[int, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    @property
    def system_properties(self) -> dict[str, Any]:
        """Folder of the unpacked archive, and the device assigned."""
        return {"model_dir": str(self.folder), "gpu_id": None, "batch_size": self.batch_size}

    @property
    def manifest(self) -> dict[str, Any]:
        """The archive's ``MAR-INF/MANIFEST.json``."""
        text = (self.folder / "MAR-INF/MANIFEST.json").read_text(encoding="utf-8")
        manifest: dict[str, Any] = json.loads(text)
        return manifest

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        """Headers by name as the client spelled them, and the body's type."""
        return self.request_headers[idx]

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Mind the order of arguments: TorchServe's own."""
        self.statuses[idx] = (code, phrase)

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Mind the order of arguments: TorchServe's own."""
        self.content_types[idx] = value

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Mind the order of arguments: TorchServe's own."""
        self.response_headers[idx][key] = value
