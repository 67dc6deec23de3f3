"""DiagonalFlipNet's wire format and errors, for clients and servers alike.

Names are imported when they are first used (PEP 562), so that ``diagonalflip.errors``
needs nothing but the standard library and the archive carries only what a worker runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diagonalflip.errors import DiagonalFlipError
    from diagonalflip.wire import MAX_IMAGES, WIRE_VERSION, Images, pack, to_pixels, unpack

__all__ = [
    "MAX_IMAGES",
    "WIRE_VERSION",
    "DiagonalFlipError",
    "Images",
    "pack",
    "to_pixels",
    "unpack",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'diagonalflip' has no attribute {name!r}")
    home = "errors" if name == "DiagonalFlipError" else "wire"
    return getattr(import_module(f"diagonalflip.{home}"), name)
