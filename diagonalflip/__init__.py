"""DiagonalFlipNet's wire format and errors, for clients and servers alike.

Names are imported when they are first used (PEP 562), so that ``diagonalflip.errors`` needs only
the standard library, and the archive contains only what a worker runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diagonalflip.client import Client, ServerInfo
    from diagonalflip.client.aio import AsyncClient
    from diagonalflip.errors import DiagonalFlipError
    from diagonalflip.predictor import Predictor
    from diagonalflip.wire import MAX_IMAGES, WIRE_VERSION, Images, pack, to_pixels, unpack

__version__ = "1.0.0"

__all__ = [
    "MAX_IMAGES",
    "WIRE_VERSION",
    "AsyncClient",
    "Client",
    "DiagonalFlipError",
    "Images",
    "Predictor",
    "ServerInfo",
    "pack",
    "to_pixels",
    "unpack",
]

_HOMES = {
    "AsyncClient": "client.aio",
    "Client": "client",
    "DiagonalFlipError": "errors",
    "Predictor": "predictor",
    "ServerInfo": "client",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'diagonalflip' has no attribute {name!r}")
    return getattr(import_module(f"diagonalflip.{_HOMES.get(name, 'wire')}"), name)
