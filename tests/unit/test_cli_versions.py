"""Requests, output and exit codes of ``diagonalflip model``, ``compare`` and ``--as flips``."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner, Result

from diagonalflip import errors
from diagonalflip.cli.app import app
from diagonalflip.cli.exits import ExitCode
from diagonalflip.errors import InvalidAnswer, ModelDoesNotFlip
from diagonalflip.message import rejection
from tests.conftest import ROOT
from tests.faults.conftest import Call, call
from tests.faults.fake_server import FakeServer, listening
from tests.unit.test_cli_commands import FakeClient

__all__ = ["call"]  # a fixture

MODELS = {
    "default": "2.0",
    "previous": "1.0",
    "canary": None,
    "percent": 0,
    "kept": True,
    "models": [
        {"version": "1.0", "loaded": True, "digest": "a" * 64, "flips": 1, "signed": True},
        {"version": "2.0", "loaded": True, "digest": "b" * 64, "flips": 16, "signed": False},
        {"version": "3.0", "loaded": False, "fault": "Damage. Expected none."},
    ],
}


class Operations(BaseHTTPRequestHandler):
    """An admin port that notes what it is asked, and answers as the test says."""

    url: str
    asked: list[tuple[str, str, str | None]]
    answer: tuple[int, bytes]

    @classmethod
    def answers(cls, **changes: object) -> None:
        cls.answer = 200, json.dumps(MODELS | changes).encode()

    def do_GET(self) -> None:
        self.asked.append((self.command, self.path, self.headers["Authorization"]))
        status, body = self.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the name is http.server's

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def operations() -> Iterator[type[Operations]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Operations) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        Operations.url, Operations.asked = f"http://127.0.0.1:{server.server_port}", []
        Operations.answers()
        yield Operations
        server.shutdown()
        thread.join()


def run(*arguments: object, client: Any = None) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], obj=client)


def test_list_shows_every_version(operations: type[Operations]) -> None:
    shown = run("model", "list", operations.url)
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["version", "served", "flips", "signed", "digest"],
        ["1.0", "yes", "1", "of", "16", "yes", "a" * 12],
        ["2.0", "default", "16", "of", "16", "no", "b" * 12],
        ["3.0", "no", "Damage.", "Expected", "none."],
    ]
    assert json.loads(run("model", "list", operations.url, "--json").stdout) == MODELS
    assert {asked[:2] for asked in operations.asked} == {("GET", "/models")}


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (["load", "2.0"], "/models/2.0/load"),
        (["unload", "a/b"], "/models/a%2Fb/unload"),
        (["default", "2.0"], "/models/2.0/default"),
        (["canary", "1.0", "10"], "/models/1.0/canary/10"),
        (["rollback"], "/models/rollback"),
    ],
)
def test_a_change_is_asked_for_once_with_the_token(
    operations: type[Operations], arguments: list[str], path: str
) -> None:
    changed = run("--token", "t", "model", *arguments, operations.url)
    assert (changed.exit_code, changed.stdout) == (0, "default 2.0; also served: 1.0\n")
    assert operations.asked == [("POST", path, "Bearer t")]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        *((errors.NotAuthorized, ExitCode.REJECTED), (errors.ModelNotFound, ExitCode.REJECTED)),
        *((errors.ModelConflict, ExitCode.REJECTED), (errors.ArtifactError, ExitCode.REJECTED)),
        (errors.ServerOverloaded, ExitCode.UNREACHABLE),
    ],
)
def test_a_rejected_change_is_a_line_and_is_not_repeated(
    operations: type[Operations], kind: type[errors.DiagonalFlipError], code: ExitCode
) -> None:
    operations.answer = int(kind.status or 0), rejection(kind("g", "e")).body
    changed = run("model", "rollback", operations.url)
    assert (changed.exit_code, changed.stderr) == (code, "diagonalflip: G. Expected e.\n")
    assert len(operations.asked) == 1


def test_an_answer_is_told_in_full(operations: type[Operations]) -> None:
    operations.answers(canary="1.0", percent=10)
    told = run("model", "canary", "1.0", "10", operations.url).stdout
    assert told == "default 2.0; canary 1.0: 10 %; also served: 1.0\n"
    operations.answers(kept=False)
    changed = run("model", "rollback", operations.url)
    assert changed.exit_code == 0
    assert "the next start knows nothing of this" in changed.stderr
    operations.answer = 200, b"[]"
    assert run("model", "list", operations.url).exit_code == ExitCode.REJECTED


class Versions(FakeClient):
    """Clients of two versions, of which the second may differ in one bit, or fail."""

    def __init__(self, *, differs: bool = False, fails: bool = False) -> None:
        self._differs, self._fails = differs, fails

    def __call__(self, url: str, *, version: str, **_: Any) -> Versions:  # noqa: ARG002
        return self if version == "b" else Versions()

    def predict(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        rows = np.zeros((len(numbers), 4), np.float32)
        if self._fails:
            raise InvalidAnswer("g", "e")
        if self._differs:
            rows[3, 2] = 0.75
        return rows


@pytest.mark.parametrize(
    ("client", "code", "differing", "errors"),
    [(Versions(), 0, 0, 0), (Versions(differs=True), 1, 7, 0), (Versions(fails=True), 1, 0, 7)],
)
def test_compare_counts_bits_and_errors(
    client: Versions, code: int, differing: int, errors: int
) -> None:
    arguments = ("compare", "--a", "a", "--b", "b", "--requests", 7)
    compared = run(*arguments, "--json", client=client)
    assert compared.exit_code == code, compared.output
    found = json.loads(compared.stdout)
    assert (found["differing_bits"], found["errors"]) == (differing, {"a": 0, "b": errors})
    assert found["bits"] == (0 if errors else 7 * 64 * 4)
    assert found["largest_difference"] == (0.75 if differing else 0)
    assert f"{differing} of " in run(*arguments, client=client).stdout


def test_compare_may_bound_the_latency() -> None:
    arguments = ("compare", "--a", "a", "--b", "b", "--requests", 3, "--max-latency-ratio")
    assert run(*arguments, 1e9, client=Versions()).exit_code == 0
    assert run(*arguments, 0.01, client=Versions()).exit_code == 1


class Other(FakeServer):
    """Says something else in every answer."""

    def __init__(self, said: bytes, instead: bytes) -> None:
        super().__init__()
        self._said, self._instead = said, instead

    def answer(self, headers: dict[str, str], body: bytes) -> bytes:
        found = super().answer(headers, body)
        assert self._said in found
        return found.replace(self._said, self._instead)


@pytest.mark.parametrize(
    ("line", "named"), [(b"", r"1\.0"), (b"Flip-Model-Version: 1.0\r\n", "None")]
)
def test_an_answer_of_another_version_is_rejected(call: Call, line: bytes, named: str) -> None:
    with listening(FakeServer().serve) as url:
        assert call(url, "predict", [1], version="1.0").shape == (1, 4)
    with (
        listening(Other(line, b"").serve) as url,
        pytest.raises(InvalidAnswer, match=rf"Version {named} answered\. Expected version 2\.0"),
    ):
        call(url, "predict", [1], version="2.0")


def test_flips_are_asked_of_versions_that_flip(call: Call) -> None:
    with (
        listening(Other(b"Flip-Flips: 16", b"Flip-Flips: 15").serve) as url,
        pytest.raises(ModelDoesNotFlip, match="which flips 15 of 16 images"),
    ):
        call(url, "flip", [1])


@pytest.mark.parametrize("host", ["flip.example.org", "10.0.0.5", "[2001:db8::1]"])
def test_a_token_does_not_cross_a_network_in_the_clear(host: str) -> None:
    changed = run("--token", "secret", "model", "rollback", f"http://{host}:8083")
    assert changed.exit_code == ExitCode.REJECTED
    assert "kubectl port-forward" in changed.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["PORT"], "'PORT' is not NAME=VALUE"),
        (["=1"], "'=1' is not NAME=VALUE"),
        (["PORTS=1"], "the nearest is FLIP_PORT"),
        (["FLIP_WORKERS=none"], "FLIP_WORKERS=none"),
    ],
)
def test_serve_names_a_setting_that_cannot_be_used(words: list[str], said: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "diagonalflip.cli", "serve", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2, finished.stderr
    [line] = finished.stderr.splitlines()
    assert said in line
