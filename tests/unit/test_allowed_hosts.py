"""Hosts that a request may name, so that no web page reaches a port of this host."""

from __future__ import annotations

import pytest

from diagonalflip.errors import SettingError
from diagonalflip.server.http.hosts import Hosts, read_names

LOCAL: list[str | None] = ["localhost", "LocalHost:8080", "127.0.0.1", "127.1.2.3:1", "[::1]:8080"]
LOCAL += ["a.localhost", "localhost.", "[::ffff:127.0.0.1]", "", None]
NAMES = ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example"]
NAMES += ["localhost@evil.example", "xlocalhost", "0x7f.1", "2130706433", "a%20b"]
ADDRESSES = ["10.0.0.1:8083", "[2001:db8::1]", "192.168.1.1"]


@pytest.mark.parametrize("is_public", [False, True])
@pytest.mark.parametrize("allowed", [[], ["flip.example"], ["*"]])
def test_names_that_a_port_takes(allowed: list[str], *, is_public: bool) -> None:
    """Names of this host always, and addresses wherever others may come."""
    hosts = Hosts(allowed, is_public=is_public)
    takes_all = allowed == ["*"] or (is_public and not allowed)
    assert not any(map(hosts.rejection, LOCAL))
    for each in [*NAMES, *ADDRESSES]:
        rejection = hosts.rejection(each)
        assert (rejection is None) == (takes_all or (is_public and each in ADDRESSES))
        assert rejection is None or rejection.status == 421
        assert rejection is None or "FLIP_ALLOWED_HOSTS" in str(rejection)


@pytest.mark.parametrize("is_public", [False, True])
def test_a_list_is_of_names_and_addresses(*, is_public: bool) -> None:
    listed = "Flip.example, 10.0.0.1,[2001:db8::1],2001:db8::2, whole.example."
    hosts = Hosts(read_names(listed), is_public=is_public)
    taken = ["flip.example", "FLIP.example.:80", "10.0.0.1:1", "[2001:db8::1]:443"]
    taken += ["[2001:DB8::2]", "whole.example", "whole.example.:1"]
    assert not any(map(hosts.rejection, taken))


@pytest.mark.parametrize("text", ["a:80", "https://a", "a b", "a/b", "*.a", ".a", "a;b"])
def test_a_list_that_is_no_list_of_names_is_an_error(text: str) -> None:
    with pytest.raises(SettingError, match="FLIP_ALLOWED_HOSTS"):
        read_names(f"ok.example, {text}")
    assert read_names(" , a.b,,C ") == ["a.b", "c"]
