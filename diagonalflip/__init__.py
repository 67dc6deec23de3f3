"""DiagonalFlipNet's wire format and errors, for clients and servers alike."""

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
