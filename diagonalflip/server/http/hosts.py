"""Check which host a request names, against DNS rebinding.

A web page's own name may resolve to 127.0.0.1. Then a browser lets the page read the responses of
this host's ports, and sends the page's name in ``Host``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

from diagonalflip.errors import MisdirectedRequest, SettingError

NAME = re.compile(r"[\w-]+(\.[\w-]+)*|\*", re.ASCII)
PORT = re.compile(r":\d*\Z", re.ASCII)
ANY = "*"


class Hosts:
    """The values of ``Host`` that one listener accepts.

    It accepts names of this host, and a request of HTTP/1.0 without ``Host``. What else it accepts
    depends on the listener:

    - one for this host: the allowed names;
    - a public one: any name; or, if names are configured, these, and any address, because probes
      ask by address, and a web page's name is never an address.

    Args:
        allowed: Names and addresses in lower case, without ports; ``*`` allows any.
        is_public: Whether the listener is for other hosts too.
    """

    def __init__(self, allowed: Iterable[str], *, is_public: bool) -> None:
        self._allowed, self._is_public = frozenset(allowed), is_public
        self._takes_any = ANY in self._allowed or (self._is_public and not self._allowed)
        self.rejection = lru_cache(maxsize=64)(self._rejection)

    def _rejection(self, value: str | None) -> MisdirectedRequest | None:
        """Return the error for a value of ``Host``; None if it is accepted."""
        host = _plain(PORT.sub("", value or ""))
        if not host or self._takes_any or host in self._allowed or is_this_host(host):
            return None
        if self._is_public and _address(host) is not None:
            return None
        return MisdirectedRequest(
            f"Host {host[:100]!r}",
            "localhost, or a name in FLIP_ALLOWED_HOSTS",
            "use such a name, or have that setting list yours",
        )


def read_names(text: str) -> list[str]:
    """Return the names of a comma-separated list, in lower case.

    Raises:
        SettingError: An element is no name or address; it may have a port or a scheme.
    """
    names = [_plain(each.strip()) for each in text.split(",") if each.strip()]
    for name in names:
        if not NAME.fullmatch(name) and _address(name) is None:
            raise SettingError(
                f"FLIP_ALLOWED_HOSTS lists {name[:100]!r}",
                "names or addresses, without scheme and port, with commas between them; or *",
            )
    return names


def is_this_host(name: str) -> bool:
    """Return whether a name or address always means this host (RFC 6761, section 6.3)."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    mapped = getattr(address, "ipv4_mapped", None)  # a socket may listen on IPv4 and IPv6
    return address is not None and (mapped or address).is_loopback


def _plain(host: str) -> str:
    """Return a name or address in the form in which it is compared."""
    return host.lower().removesuffix(".").removeprefix("[").removesuffix("]")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(_plain(host).partition("%")[0])
    except ValueError:
        return None
