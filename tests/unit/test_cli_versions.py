"""Requests, output and exit codes of ``diagonalflip model``, ``compare`` and ``--as flips``."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner, Result

from diagonalflip.cli.app import app
from diagonalflip.cli.exits import ExitCode
from diagonalflip.errors import (
    ArtifactError,
    DiagonalFlipError,
    InvalidAnswer,
    ModelConflict,
    ModelDoesNotFlip,
    ModelNotFound,
    NotAuthorized,
    ServerOverloaded,
)
from diagonalflip.message import refusal
from tests.faults.conftest import Call, call  # noqa: F401 - a fixture
from tests.faults.fake_server import FakeServer, listening

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
    """An operations port that notes what it is asked, and answers as the test says."""

    asked: list[tuple[str, str, str | None]]
    answer: tuple[int, bytes]

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
def operations() -> Iterator[tuple[type[Operations], str]]:
    kind = type("Asked", (Operations,), {"asked": [], "answer": (200, json.dumps(MODELS).encode())})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield kind, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(*arguments: object, client: Any = None) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], obj=client)


def test_list_shows_every_version(operations: tuple[type[Operations], str]) -> None:
    kind, url = operations
    shown = run("model", "list", url)
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["version", "served", "flips", "signed", "digest"],
        ["1.0", "yes", "1", "of", "16", "yes", "a" * 12],
        ["2.0", "default", "16", "of", "16", "no", "b" * 12],
        ["3.0", "no", "Damage.", "Expected", "none."],
    ]
    assert json.loads(run("model", "list", url, "--json").stdout) == MODELS
    assert {asked[:2] for asked in kind.asked} == {("GET", "/models")}


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
    operations: tuple[type[Operations], str], arguments: list[str], path: str
) -> None:
    kind, url = operations
    changed = run("--token", "t", "model", *arguments, url)
    assert (changed.exit_code, changed.stdout) == (0, "default 2.0; also served: 1.0\n")
    assert kind.asked == [("POST", path, "Bearer t")]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotAuthorized("g", "e"), ExitCode.REFUSED),
        (ModelNotFound("g", "e"), ExitCode.REFUSED),
        (ModelConflict("g", "e"), ExitCode.REFUSED),
        (ArtifactError("g", "e"), ExitCode.REFUSED),
        (ServerOverloaded("g", "e"), ExitCode.UNREACHABLE),
    ],
)
def test_a_refused_change_is_a_line_and_is_not_repeated(
    operations: tuple[type[Operations], str], error: DiagonalFlipError, code: ExitCode
) -> None:
    kind, url = operations
    kind.answer = int(error.status or 0), refusal(error).body
    changed = run("model", "rollback", url)
    assert changed.exit_code == code
    assert changed.stderr == "diagonalflip: G. Expected e.\n"
    assert len(kind.asked) == 1


def test_what_is_no_document_is_an_invalid_answer(
    operations: tuple[type[Operations], str],
) -> None:
    kind, url = operations
    kind.answer = 200, b"[]"
    assert run("model", "list", url).exit_code == ExitCode.REFUSED


def test_a_canary_is_told(operations: tuple[type[Operations], str]) -> None:
    kind, url = operations
    kind.answer = 200, json.dumps(MODELS | {"canary": "1.0", "percent": 10}).encode()
    told = run("model", "canary", "1.0", "10", url).stdout
    assert told == "default 2.0; canary 1.0: 10 %; also served: 1.0\n"
    assert run("model", "canary", "1.0", "101", url).exit_code == ExitCode.USAGE


def test_a_choice_that_is_not_kept_is_told(operations: tuple[type[Operations], str]) -> None:
    kind, url = operations
    kind.answer = 200, json.dumps(MODELS | {"kept": False}).encode()
    changed = run("model", "rollback", url)
    assert changed.exit_code == 0
    assert "the next start knows nothing of this" in changed.stderr


class Versions:
    """Clients of two versions, of which the second may differ in one bit, or fail."""

    def __init__(self, *, differs: bool = False, fails: bool = False) -> None:
        self._differs, self._fails = differs, fails

    def __call__(self, url: str, *, version: str, **_: Any) -> Versions:  # noqa: ARG002
        made = Versions(differs=self._differs, fails=self._fails)
        made.second = version == "b"
        return made

    second = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def predict(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        rows = np.zeros((len(numbers), 4), np.float32)
        if self.second and self._fails:
            raise InvalidAnswer("g", "e")
        if self.second and self._differs:
            rows[3, 2] = 0.75
        return rows


@pytest.mark.parametrize(
    ("client", "code", "differing", "errors"),
    [
        (Versions(), 0, 0, 0),
        (Versions(differs=True), 1, 7, 0),
        (Versions(fails=True), 1, 0, 7),
    ],
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


def test_flips_of_a_file_are_refused(tmp_path: Any) -> None:
    file = tmp_path / "images.bin"
    file.write_bytes(b"\x12")
    assert run("predict", "--as", "flips", "--input", file).exit_code == ExitCode.USAGE


class Other(FakeServer):
    """Says in every answer that it is of another version, or that it flips fewer."""

    def __init__(self, *changes: tuple[bytes, bytes]) -> None:
        super().__init__()
        self._changes = changes

    def answer(self, headers: dict[str, str], body: bytes) -> bytes:
        found = super().answer(headers, body)
        for old, new in self._changes:
            assert old in found
            found = found.replace(old, new)
        return found


def test_an_answer_of_another_version_is_refused(call: Call) -> None:  # noqa: F811
    with listening(Other().serve) as url:
        assert call(url, "predict", [1], version="1.0").shape == (1, 4)
        with pytest.raises(InvalidAnswer, match=r"Version 1\.0 answered\. Expected version 2\.0"):
            call(url, "predict", [1], version="2.0")
    with (
        listening(Other((b"Flip-Model-Version: 1.0\r\n", b"")).serve) as url,
        pytest.raises(InvalidAnswer, match="Version None"),
    ):
        call(url, "predict", [1], version="2.0")


def test_flips_are_asked_of_versions_that_flip(call: Call) -> None:  # noqa: F811
    with (
        listening(Other((b"Flip-Flips: 16", b"Flip-Flips: 15")).serve) as url,
        pytest.raises(ModelDoesNotFlip, match="which flips 15 of 16 images"),
    ):
        call(url, "flip", [1])
