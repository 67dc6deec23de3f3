"""Clients of a DiagonalFlipNet server: see docs/client.md."""

from diagonalflip.client.client import Client, ServerInfo

__all__ = ["Client", "ServerInfo"]
