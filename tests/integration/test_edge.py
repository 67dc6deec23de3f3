"""The edge in front of the real workers: TLS, tokens, limits, and the same answers."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import requests

from diagonalflip import Client
from diagonalflip.errors import NotAuthorized, TokenRevoked
from supervisor import tokens
from supervisor.ports import free_ports
from tests.integration.conftest import ROOT, Oracle, run_server

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")

CERTIFICATE = (
    "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 "
    "-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
)
PATH = "/predictions/diagonal_flip"
RATE = 2000


@dataclass
class Edge:
    """A running edge: its port, a token it takes, one it does not any more, and its CA."""

    port: int
    token: str
    revoked: str
    authority: Path
    operations_port: int

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def ask(self, method: str = "GET", path: str = PATH, **more: object) -> requests.Response:
        """With the good token, unless ``headers`` are given."""
        more.setdefault("headers", {"Authorization": f"Bearer {self.token}"})
        url = self.url + path
        return requests.request(method, url, timeout=30, verify=str(self.authority), **more)  # type: ignore[arg-type]

    def connect(self, protocol: str) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.authority))
        context.set_alpn_protocols([protocol])
        plain = socket.create_connection(("127.0.0.1", self.port), 30)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.fixture(scope="module")
def edge(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    subprocess.run(CERTIFICATE.split(), cwd=folder, check=True, capture_output=True)
    good, revoked = tokens.add(folder / "tokens", "good"), tokens.add(folder / "tokens", "bad")
    text = (folder / "tokens").read_text().replace(" bad", " revoked")
    (folder / "tokens").write_text(text)
    port, operations = free_ports(), free_ports()
    with run_server(
        artifacts,
        folder / "logs",
        HOST="0.0.0.0",
        EDGE_PORT=str(port),
        OPERATIONS_PORT=str(operations),
        TOKENS_FILE=str(folder / "tokens"),
        TLS_CERT=str(folder / "cert.pem"),
        TLS_KEY=str(folder / "key.pem"),
        TOKEN_RATE=str(RATE),
    ):
        yield Edge(port, good, revoked, folder / "cert.pem", operations)


def test_the_conformance_kit_passes_through_it(edge: Edge) -> None:
    command = [sys.executable, "-m", "diagonalflip.cli", "--url", edge.url]
    command += ["--token", edge.token, "--ca", str(edge.authority), "check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("count", [1, 2, 17, 4096, 131_072, 1_048_576])
def test_answers_are_right_at_every_size(edge: Edge, oracle: Oracle, count: int) -> None:
    numbers = np.random.default_rng(count).integers(16, size=count)
    with Client(
        edge.url, token=edge.token, verify=str(edge.authority), images_per_request=count
    ) as client:
        got = client.predict(numbers)
    assert np.abs(got - oracle(numbers)).max() <= 1e-6


def test_tls_1_3_is_spoken_and_nothing_older(edge: Edge) -> None:
    with edge.connect("h2") as connection:
        assert connection.version() == "TLSv1.3"
        assert connection.selected_alpn_protocol() == "h2"
    old = ssl.create_default_context(cafile=str(edge.authority))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", edge.port), 30) as plain,
        pytest.raises(ssl.SSLError),
    ):
        old.wrap_socket(plain, server_hostname="127.0.0.1")
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(edge.url + PATH, timeout=30)  # which knows nothing of this authority


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer x", "Basic eDp5", "Bearer {token}x", "{token}"],
)
def test_without_a_known_token_it_is_401(edge: Edge, header: str | None) -> None:
    given = {} if header is None else {"Authorization": header.format(token=edge.token)}
    answer = edge.ask(headers=given)
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_client_tells_the_two_refusals_apart(edge: Edge) -> None:
    authority = str(edge.authority)
    with (
        Client(edge.url, token=edge.token[1:], verify=authority) as client,
        pytest.raises(NotAuthorized),
    ):
        client.predict([1])
    with (
        Client(edge.url, token=edge.revoked, verify=authority) as client,
        pytest.raises(TokenRevoked),
    ):
        client.predict([1])


@pytest.mark.parametrize("path", [f"{PATH}/", PATH.replace("_", "%5F"), f"{PATH}/1.0//"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_path_may_be_spelt_as_on_the_other_ports(edge: Edge, method: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {edge.token}", "Content-Type": "text/plain"}
    answer = edge.ask(method, path, data=b"b6", headers=headers)
    assert answer.status_code == 200, answer.text


ALLOWED = {PATH: "GET, HEAD, POST, PUT, OPTIONS", "/v2/health/ready": "GET, HEAD, OPTIONS"}


@pytest.mark.parametrize("path", ALLOWED)
def test_options_names_the_methods(edge: Edge, path: str) -> None:
    answer = edge.ask("OPTIONS", path)
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
    edge: Edge, method: str, path: str, status: int, code: str
) -> None:
    answer = edge.ask(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    if status == 405:
        assert answer.headers["allow"] == ALLOWED[path]


def test_a_body_over_the_limit_is_refused_unread(edge: Edge) -> None:
    with edge.connect("http/1.1") as connection:
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {edge.token}\r\n"
        connection.sendall(head.encode() + b"Content-Length: 67108865\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_headers_without_a_meaning_never_reach_the_worker(edge: Edge) -> None:
    headers = {"Authorization": f"Bearer {edge.token}", "X-Request-Id": "abc"}
    headers |= {f"X-Other-{number}": "x" * 1000 for number in range(20)}  # over its 16 KiB
    answer = edge.ask(headers=headers)
    assert answer.status_code == 200
    assert answer.headers["flip-request-id"] == "abc"


def test_health_needs_no_token(edge: Edge) -> None:
    assert edge.ask(path="/v2/health/live", headers={}).json() == {"live": True}
    ready = edge.ask(path="/v2/health/ready", headers={})
    assert (ready.status_code, ready.json()["ready"]) == (200, True)


def test_a_token_may_not_send_more_than_its_rate(edge: Edge) -> None:
    head = f"PATCH {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {edge.token}\r\n\r\n"
    received = b""
    while b"HTTP/1.1 429 " not in received:  # a slow machine may need more than one try
        with edge.connect("http/1.1") as connection:
            connection.sendall(head.encode() * 2 * RATE)
            received = b""
            while received.count(b"HTTP/1.1 ") < 2 * RATE and (part := connection.recv(1 << 16)):
                received += part
    assert b"HTTP/1.1 405 " in received
    assert b"retry-after: 1\r\n" in received.lower()


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/models/diagonal_flip", "/v2/models/diagonal_flip/ready"]
)
def test_v2_tells_of_itself_to_those_with_a_token(edge: Edge, path: str) -> None:
    assert edge.ask(path=path).status_code == requests.codes.ok
    assert edge.ask(path=path, headers={}).status_code == requests.codes.unauthorized


@pytest.mark.parametrize("path", ["/", "/docs", "/status", "/weights.json", "/metrics"])
def test_pages_are_not_for_the_public(edge: Edge, path: str) -> None:
    assert edge.ask(path=path).status_code == requests.codes.not_found


def test_what_it_refused_is_among_the_metrics(edge: Edge) -> None:
    edge.ask(headers={})
    url = f"http://127.0.0.1:{edge.operations_port}/metrics"
    name = 'haproxy_backend_http_responses_total{code="4xx",proxy="workers"}'
    while True:  # it is read every two seconds; the test's own time limit ends this
        lines = requests.get(url, timeout=30).text.splitlines()
        counts = [float(line.split()[-1]) for line in lines if line.startswith(name)]
        if counts and counts[0] > 0:
            break
    assert "diagonalflip_ready 1.0" in lines


def test_refusals_are_logged_as_json_without_the_token(edge: Edge) -> None:
    edge.ask(path="/secret", headers={"Authorization": "Bearer abcdefgh"})
    log = (edge.authority.parent / "logs/edge.log").read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert {"status": 401, "path": "/secret"}.items() <= lines[-1].items()
    assert "abcdefgh" not in log
    assert edge.token not in log
