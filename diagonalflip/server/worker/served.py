"""The versions of the model that one worker serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Served:
    """Versions that a worker serves.

    Attributes:
        services: By version.
        default: The version that answers where none is named.
        canary: The version that answers some of these instead, if any.
        percent: Its share of them.
    """

    services: Mapping[str, Any]
    default: str
    canary: str | None = None
    percent: int = 0
