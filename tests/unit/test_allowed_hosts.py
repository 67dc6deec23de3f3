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
def test_names_of_this_host_are_always_taken(allowed: list[str], *, is_public: bool) -> None:
    assert not any(map(Hosts(allowed, is_public=is_public).rejection, LOCAL))


def test_a_port_for_this_host_takes_only_the_names_that_are_allowed() -> None:
    for allowed in ([], ["flip.example"]):
        hosts = Hosts(allowed, is_public=False)
        for each in [*NAMES, *ADDRESSES]:
            rejection = hosts.rejection(each)
            assert rejection is not None
            assert rejection.status == 421
            assert "FLIP_ALLOWED_HOSTS" in str(rejection)
    listed = "Flip.example, 10.0.0.1,[2001:db8::1],2001:db8::2, whole.example."
    hosts = Hosts(read_names(listed), is_public=False)
    taken = ["flip.example", "FLIP.example.:80", "10.0.0.1:1", "[2001:db8::1]:443"]
    taken += ["[2001:DB8::2]", "whole.example", "whole.example.:1"]
    assert not any(map(hosts.rejection, taken))


def test_a_public_port_takes_any_name_unless_some_are_allowed() -> None:
    assert not any(map(Hosts([], is_public=True).rejection, [*NAMES, *ADDRESSES]))
    hosts = Hosts(["flip.example"], is_public=True)
    assert all(map(hosts.rejection, NAMES))
    assert not any(map(hosts.rejection, [*ADDRESSES, "flip.example:8443"]))


@pytest.mark.parametrize("is_public", [False, True])
def test_a_star_allows_any(*, is_public: bool) -> None:
    hosts = Hosts(read_names("*"), is_public=is_public)
    assert not any(map(hosts.rejection, [*NAMES, *ADDRESSES]))


@pytest.mark.parametrize("text", ["a:80", "https://a", "a b", "a/b", "*.a", "a;b"])
def test_a_list_that_is_no_list_of_names_is_an_error(text: str) -> None:
    with pytest.raises(SettingError, match="FLIP_ALLOWED_HOSTS"):
        read_names(f"ok.example, {text}")
    assert read_names(" , a.b,,C ") == ["a.b", "c"]
