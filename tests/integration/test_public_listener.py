"""The public listener: TLS, tokens, limits, and the same answers."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import requests

from benchmarks.running import certify
from diagonalflip import Client
from diagonalflip.errors import NotAuthorized, TokenRevoked
from diagonalflip.server.supervisor import tokens
from tests.integration.conftest import PATH, Server, run_command, run_server

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")

RATE = 2000


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@dataclass
class PublicListener:
    """A running public listener: a token it takes, one it does not any more, and its CA."""

    token: str
    revoked: str
    authority: str
    server: Server

    @property
    def url(self) -> str:
        return self.server.public

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.url.rpartition(":")[2])

    def ask(self, method: str = "GET", path: str = PATH, **more: object) -> requests.Response:
        """Send with the good token, unless ``headers`` are given."""
        more.setdefault("headers", bearer(self.token))
        url = self.url + path
        return requests.request(method, url, timeout=30, verify=self.authority, **more)  # type: ignore[arg-type]

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self.authority)
        context.set_alpn_protocols(["h2", "http/1.1"])
        plain = socket.create_connection(self.address, 30)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")


def public(folder: Path) -> dict[str, str]:
    """Settings of a server with a public listener, whose certificate and tokens are in a folder."""
    certificate, key = map(str, certify(folder))
    files = {"TOKENS_FILE": str(folder / "tokens"), "TLS_CERT": certificate, "TLS_KEY": key}
    return files | {"HOST": "0.0.0.0"}


@pytest.fixture(scope="module")
def listener(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PublicListener]:
    folder = tmp_path_factory.mktemp("listener")
    settings = public(folder)
    good, revoked = tokens.add(folder / "tokens", "good"), tokens.add(folder / "tokens", "bad")
    text = (folder / "tokens").read_text().replace(" bad", " revoked")
    (folder / "tokens").write_text(text)
    with run_server(artifacts, folder / "logs", **settings, TOKEN_RATE=str(RATE)) as server:
        yield PublicListener(good, revoked, str(folder / "certificate.pem"), server)


def test_the_conformance_kit_passes_through_it(listener: PublicListener) -> None:
    words = ("--url", listener.url, "--token", listener.token, "--ca", listener.authority)
    run_command(*words, "check")


def test_tls_1_3_is_spoken_and_nothing_older(listener: PublicListener) -> None:
    with listener.connect() as connection:
        assert connection.version() == "TLSv1.3"
        assert connection.selected_alpn_protocol() == "http/1.1"
    old = ssl.create_default_context(cafile=listener.authority)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(listener.address, 30) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain, server_hostname="127.0.0.1")
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(listener.url + PATH, timeout=30)  # which knows nothing of this authority


def test_the_client_tells_the_two_rejections_apart(listener: PublicListener) -> None:
    for token, error in ((listener.token[1:], NotAuthorized), (listener.revoked, TokenRevoked)):
        with (
            Client(listener.url, token=token, verify=listener.authority) as client,
            pytest.raises(error),
        ):
            client.predict([1])


def test_a_token_may_not_send_more_than_its_rate(listener: PublicListener) -> None:
    head = f"PATCH {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {listener.token}\r\n\r\n"
    received = b""
    while b"HTTP/1.1 429 " not in received:  # a slow machine may need more than one try
        with listener.connect() as connection:
            connection.sendall(head.encode() * 2 * RATE)
            received = b""
            while received.count(b"HTTP/1.1 ") < 2 * RATE and (part := connection.recv(1 << 16)):
                received += part
    assert b"HTTP/1.1 405 " in received
    assert b"retry-after: 1\r\n" in received.lower()


def test_what_it_rejected_is_among_the_metrics(listener: PublicListener) -> None:
    listener.ask(headers={})
    while not listener.server.metric('rejected_total{code="not_authorized"'):
        pass  # it is published every second; the test's own time limit ends this


def test_files_change_while_it_serves_and_useless_ones_do_nothing(listener: PublicListener) -> None:
    """Also not for a worker that starts again meanwhile, and no connection is lost."""
    file = Path(listener.authority).with_name("tokens")
    good = file.read_text()
    with requests.Session() as kept:
        ask = partial(kept.get, listener.url + PATH, timeout=30, verify=listener.authority)
        headers = bearer(listener.token)
        assert ask(headers=headers).status_code == requests.codes.ok
        other = tokens.add(file, "other")
        while not ask(headers=bearer(other)).ok:
            pass
        file.write_text("rubbish")
        file.with_name("key.pem").write_text("rubbish")
        listener.server.read_until("goes on with what it had")
        assert ask(headers=headers).status_code == requests.codes.ok
    for worker in listener.server.workers:
        worker.kill()
    assert listener.ask().status_code == requests.codes.ok
    assert listener.ask(headers=bearer(other)).status_code == requests.codes.ok
    file.write_text(good)
