"""Ports: opened by the supervisor, or picked for a server that opens them later."""

from __future__ import annotations

import errno
import select
import socket
from pathlib import Path
from typing import Any

import pytest

from diagonalflip.errors import SettingError, StartError
from diagonalflip.server.settings import Settings
from diagonalflip.server.supervisor import ports
from diagonalflip.server.supervisor.ports import free_ports, listen, open_ports, take_no_more


def test_picked_ports_are_free_in_a_row_and_no_outgoing_connections() -> None:
    first = free_ports(8)
    assert 1_024 < first < 32_768 - 8
    for port in range(first, first + 8):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_a_name_may_have_an_ipv6_address_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    four, six = (socket.getaddrinfo(each, 0) for each in ("127.0.0.1", "::1"))
    for found, address in ((six, "::1"), (six + four, "127.0.0.1")):
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, found=found, **__: found)
        with listen(("six.invalid", 0)) as listener:
            assert listener.getsockname()[0] == address


def test_all_addresses_are_those_of_ipv4_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class AsOnBsd(socket.socket):
        """So it is on Linux with net.ipv6.bindv6only=1."""

        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)

    with monkeypatch.context() as system:
        system.setattr(socket, "socket", AsOnBsd)
        listener = listen(("::", 0))
    with listener, socket.create_connection(("127.0.0.1", listener.getsockname()[1])):
        listener.accept()[0].close()


@pytest.mark.parametrize("address", ["192.0.2.1", "fe80::1"])  # that one without a zone
def test_an_address_that_is_not_here_is_rejected(address: str) -> None:
    with pytest.raises(OSError, match=r"assign|Invalid") as caught:
        listen((address, 0))
    told = ports._cannot_listen("admin_port", Settings(admin_host=address), caught.value)
    assert f"FLIP_ADMIN_HOST={address} is no address" in str(told)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_whoever_came_before_the_end_is_accepted_and_nobody_else_connects(address: str) -> None:
    listener = listen((address, 0))
    with socket.create_connection(listener.getsockname()[:2]) as before:
        take_no_more(listener)
        with socket.socket(listener.family) as late:
            late.setblocking(False)
            assert late.connect_ex(listener.getsockname()[:2]) == errno.EINPROGRESS
            before.sendall(b"1")
            with listener.accept()[0] as accepted:
                assert accepted.recv(1) == b"1"
            with pytest.raises(BlockingIOError):
                listener.accept()
            listener.close()
            assert select.select([], [late], [], 30)[1]
            assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def test_a_system_without_filters_of_sockets_is_no_reason_to_fail() -> None:
    class Elsewhere(socket.socket):
        def setsockopt(self, *_: Any) -> None:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")

    with listen(("127.0.0.1", 0)) as opened, Elsewhere(fileno=opened.detach()) as listener:
        take_no_more(listener)
        with socket.create_connection(listener.getsockname()):
            listener.accept()[0].close()


@pytest.mark.parametrize("name", ["host", "admin_host"])
@pytest.mark.parametrize("address", ["x86_64-conda-linux-gnu", "no.such.host.invalid", "a" * 64])
def test_an_address_that_does_not_resolve_is_told_as_such(
    name: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"FLIP_{name.upper()}", address)
    told = f"^FLIP_{name.upper()}={address} in the environment does not resolve: "
    with pytest.raises(StartError, match=told):
        ports.require_addresses(Settings.from_environment())


def test_a_port_that_only_root_may_open_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def reject(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(ports, "listen", reject)
    monkeypatch.setenv("PORT", "80")
    with pytest.raises(StartError, match=r"^PORT=80 in the environment: user .* a port above 1023"):
        open_ports(Settings.from_environment())


def test_a_crash_does_not_keep_the_next_start_from_its_port() -> None:
    """A client that goes on holds its connection half open, a minute long on Linux."""
    with listen(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", number))
        listener.setblocking(True)
        listener.accept()[0].close()
    with client:
        settings, listeners = open_ports(Settings(port=number, admin_port=0))
        for name, each in listeners.items():
            with each:
                assert each.getsockname()[1] == getattr(settings, name) != 0
        assert (list(listeners), settings.port) == (["port", "admin_port"], number)


def test_a_port_that_somebody_listens_on_is_rejected() -> None:
    with listen(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(StartError, match=f"^FLIP_PORT={port}: .*\\. Expected a free port"):
            open_ports(Settings(port=port))


TOKENS, PEM = Path("tokens"), Path("x.pem")


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(host="127.0.0.2"),
        Settings(host="::1"),
        Settings(host="localhost", admin_host="::"),
        Settings(tokens_file=TOKENS),
        Settings(host="0.0.0.0", tokens_file=TOKENS, tls_cert=PEM, tls_key=PEM),
        Settings(host="0.0.0.0", tokens_file=TOKENS, plain_http=1),
    ],
)
def test_what_is_safe_may_start(settings: Settings) -> None:
    ports.require_addresses(settings)
    ports.reject_unsafe(settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (Settings(host="0.0.0.0"), "TOKENS_FILE"),
        (Settings(host="::", tls_cert=PEM, tls_key=PEM), "TOKENS_FILE"),
        (Settings(host="example.org", plain_http=1), "TOKENS_FILE"),
        (Settings(host="10.0.0.1", tokens_file=TOKENS), "TLS_CERT"),
        (Settings(tls_cert=PEM), "TLS_KEY"),
    ],
)
def test_what_is_not_safe_is_rejected(settings: Settings, told: str) -> None:
    with pytest.raises(SettingError, match=told):
        ports.reject_unsafe(settings)
