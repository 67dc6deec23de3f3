"""The public listener: TLS, tokens, limits, and the same answers."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import requests

from diagonalflip import Client
from diagonalflip.errors import NotAuthorized, TokenRevoked
from diagonalflip.server.supervisor import tokens
from tests.integration.conftest import ROOT, Oracle, Server, run_server

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")

CERTIFICATE = (
    "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 "
    "-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
)
PATH = "/predictions/diagonal_flip"
RATE = 2000


@dataclass
class PublicListener:
    """A running public listener: a token it takes, one it does not any more, and its CA."""

    token: str
    revoked: str
    authority: Path
    server: Server

    @property
    def url(self) -> str:
        return self.server.public

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def ask(self, method: str = "GET", path: str = PATH, **more: object) -> requests.Response:
        """Send with the good token, unless ``headers`` are given."""
        more.setdefault("headers", {"Authorization": f"Bearer {self.token}"})
        url = self.url + path
        return requests.request(method, url, timeout=30, verify=str(self.authority), **more)  # type: ignore[arg-type]

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.authority))
        context.set_alpn_protocols(["h2", "http/1.1"])
        plain = socket.create_connection(("127.0.0.1", self.port), 30)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")


def public(folder: Path) -> dict[str, str]:
    """Settings of a server with a public listener, whose certificate and tokens are in a folder."""
    subprocess.run(CERTIFICATE.split(), cwd=folder, check=True, capture_output=True)
    files = {"TOKENS_FILE": "tokens", "TLS_CERT": "cert.pem", "TLS_KEY": "key.pem"}
    return {"HOST": "0.0.0.0"} | {name: str(folder / file) for name, file in files.items()}


@pytest.fixture(scope="module")
def listener(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PublicListener]:
    folder = tmp_path_factory.mktemp("listener")
    settings = public(folder)
    good, revoked = tokens.add(folder / "tokens", "good"), tokens.add(folder / "tokens", "bad")
    text = (folder / "tokens").read_text().replace(" bad", " revoked")
    (folder / "tokens").write_text(text)
    with run_server(artifacts, folder / "logs", **settings, TOKEN_RATE=str(RATE)) as server:
        yield PublicListener(good, revoked, folder / "cert.pem", server)


def test_the_conformance_kit_passes_through_it(listener: PublicListener) -> None:
    command = [sys.executable, "-m", "diagonalflip.cli", "--url", listener.url]
    command += ["--token", listener.token, "--ca", str(listener.authority), "check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("count", [1, 2, 17, 4096, 131_072, 1_048_576])
def test_answers_are_right_at_every_size(
    listener: PublicListener, oracle: Oracle, count: int
) -> None:
    numbers = np.random.default_rng(count).integers(16, size=count)
    with Client(
        listener.url, token=listener.token, verify=str(listener.authority), images_per_request=count
    ) as client:
        got = client.predict(numbers)
    assert np.abs(got - oracle(numbers)).max() <= 1e-6


def test_tls_1_3_is_spoken_and_nothing_older(listener: PublicListener) -> None:
    with listener.connect() as connection:
        assert connection.version() == "TLSv1.3"
        assert connection.selected_alpn_protocol() == "http/1.1"
    old = ssl.create_default_context(cafile=str(listener.authority))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", listener.port), 30) as plain,
        pytest.raises(ssl.SSLError),
    ):
        old.wrap_socket(plain, server_hostname="127.0.0.1")
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(listener.url + PATH, timeout=30)  # which knows nothing of this authority


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer x", "Basic eDp5", "Bearer {token}x", "{token}"],
)
def test_without_a_known_token_it_is_401(listener: PublicListener, header: str | None) -> None:
    given = {} if header is None else {"Authorization": header.format(token=listener.token)}
    answer = listener.ask(headers=given)
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_client_tells_the_two_rejections_apart(listener: PublicListener) -> None:
    authority = str(listener.authority)
    with (
        Client(listener.url, token=listener.token[1:], verify=authority) as client,
        pytest.raises(NotAuthorized),
    ):
        client.predict([1])
    with (
        Client(listener.url, token=listener.revoked, verify=authority) as client,
        pytest.raises(TokenRevoked),
    ):
        client.predict([1])


@pytest.mark.parametrize("path", [f"{PATH}/", PATH.replace("_", "%5F"), f"{PATH}/1.0//"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_path_may_be_spelt_as_on_the_other_ports(
    listener: PublicListener, method: str, path: str
) -> None:
    headers = {"Authorization": f"Bearer {listener.token}", "Content-Type": "text/plain"}
    answer = listener.ask(method, path, data=b"b6", headers=headers)
    assert answer.status_code == 200, answer.text


ALLOWED = {PATH: "GET, HEAD, POST, PUT, OPTIONS", "/v2/health/ready": "GET, HEAD, OPTIONS"}


@pytest.mark.parametrize("path", ALLOWED)
def test_options_names_the_methods(listener: PublicListener, path: str) -> None:
    answer = listener.ask("OPTIONS", path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["allow"] == ALLOWED[path]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "model_not_found"),
        ("GET", "/models", 404, "model_not_found"),
        ("POST", "/workflows?url=x", 404, "model_not_found"),
        ("GET", "/predictions/other", 404, "model_not_found"),
        ("GET", "/predictions/diagonal_flip/../../models", 404, "model_not_found"),
        ("GET", "/metrics", 404, "model_not_found"),
        ("GET", "/%00%0a%3F%25%", 404, "model_not_found"),
        ("GET", "/%" + "2f" * 2000, 404, "model_not_found"),
        ("PATCH", PATH, 405, "method_not_allowed"),
        ("DELETE", PATH, 405, "method_not_allowed"),
        ("POST", "/v2/health/ready", 405, "method_not_allowed"),
    ],
)
def test_only_our_routes_and_methods_get_through(
    listener: PublicListener, method: str, path: str, status: int, code: str
) -> None:
    answer = listener.ask(method, path)
    told = answer.json()
    found = told["code"] if "code" in told else told["error"].partition(":")[0]  # V2's
    assert (answer.status_code, found) == (status, code)
    kind = "problem+json" if "code" in told else "json"
    assert answer.headers["content-type"] == f"application/{kind}"
    if status == 405:
        assert answer.headers["allow"] == ALLOWED[path]


def test_a_body_over_the_limit_is_rejected_unread(listener: PublicListener) -> None:
    with listener.connect() as connection:
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {listener.token}\r\n"
        connection.sendall(head.encode() + b"Content-Length: 67108865\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_longer_headers_than_anybody_needs_are_431(listener: PublicListener) -> None:
    headers = {"Authorization": f"Bearer {listener.token}"}
    headers |= {f"X-Other-{number}": "x" * 1000 for number in range(20)}
    answer = listener.ask(headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")


def test_who_asks_for_the_end_gets_it_with_the_answer(listener: PublicListener) -> None:
    with listener.connect() as connection:
        connection.settimeout(4)  # less than a server waits for a client to go
        head = f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {listener.token}\r\n"
        connection.sendall(head.encode() + b"Connection: close\r\n\r\n")
        received = b"".join(iter(partial(connection.recv, 1 << 16), b""))
        assert received.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in received


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\0" * 600, b""])
def test_who_speaks_no_tls_is_turned_away(listener: PublicListener, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", listener.port), 30) as plain:
        plain.sendall(said)
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(1000):
            pass
    assert listener.ask().status_code == requests.codes.ok
    log = (listener.server.logs / "worker.log").read_text()
    assert "Traceback" not in log
    assert "never retrieved" not in log


def test_health_needs_no_token(listener: PublicListener) -> None:
    assert listener.ask(path="/v2/health/live", headers={}).json() == {"live": True}
    ready = listener.ask(path="/v2/health/ready", headers={})
    assert (ready.status_code, ready.json()["ready"]) == (200, True)


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


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/models/diagonal_flip", "/v2/models/diagonal_flip/ready"]
)
def test_v2_tells_of_itself_to_those_with_a_token(listener: PublicListener, path: str) -> None:
    assert listener.ask(path=path).status_code == requests.codes.ok
    assert listener.ask(path=path, headers={}).status_code == requests.codes.unauthorized


@pytest.mark.parametrize("path", ["/", "/docs", "/status", "/weights.json", "/metrics"])
def test_pages_are_not_for_the_public(listener: PublicListener, path: str) -> None:
    assert listener.ask(path=path).status_code == requests.codes.not_found


def test_what_it_rejected_is_among_the_metrics(listener: PublicListener) -> None:
    listener.ask(headers={})
    while not listener.server.metric('rejected_total{code="not_authorized"'):
        pass  # it is published every second; the test's own time limit ends this


def test_rejections_are_logged_as_json_without_the_token(listener: PublicListener) -> None:
    while True:  # others may have used up this second's lines; the test's time limit ends this
        listener.ask(path="/secret", headers={"Authorization": "Bearer abcdefgh"})
        log = (listener.server.logs / "worker.log").read_text()
        lines = [line.partition(" rejected: ")[2] for line in log.splitlines()]
        told = [json.loads(line) for line in lines if "/secret" in line]
        if told:
            break
    expected = {"status": 401, "path": "/secret", "method": "GET", "token": ""}
    assert expected.items() <= told[0].items()
    assert "abcdefgh" not in log
    assert listener.token not in log


def test_files_change_while_it_serves_and_useless_ones_change_nothing(
    listener: PublicListener,
) -> None:
    """Also not for a worker that starts again meanwhile, and no connection is lost."""
    file = listener.authority.parent / "tokens"
    good = file.read_text()
    with requests.Session() as kept:
        ask = partial(kept.get, listener.url + PATH, timeout=30, verify=str(listener.authority))
        headers = {"Authorization": f"Bearer {listener.token}"}
        assert ask(headers=headers).status_code == requests.codes.ok
        other = tokens.add(file, "other")
        while ask(headers={"Authorization": f"Bearer {other}"}).status_code != requests.codes.ok:
            pass
        file.write_text("rubbish")
        (listener.authority.parent / "key.pem").write_text("rubbish")
        listener.server.read_until("goes on with what it had")
        assert ask(headers=headers).status_code == requests.codes.ok
    for worker in listener.server.workers:
        worker.kill()
    assert listener.ask().status_code == requests.codes.ok
    assert (
        listener.ask(headers={"Authorization": f"Bearer {other}"}).status_code == requests.codes.ok
    )
    file.write_text(good)
