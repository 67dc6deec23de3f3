"""Requests, output and exit codes of ``diagonalflip model`` and ``compare``, and of ``serve``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner, Result

from diagonalflip import errors
from diagonalflip.cli import check, model, target
from diagonalflip.cli.app import app
from diagonalflip.cli.exits import ExitCode
from diagonalflip.client import Client
from diagonalflip.errors import InvalidAnswer
from diagonalflip.message import Request
from tests.faults.conftest import Call, call, unused_url
from tests.faults.fake_server import DESCRIPTION, FakeServer, listening, read_request, response
from tests.unit.test_cli_commands import NOWHERE

__all__ = ["call", "unused_url"]  # fixtures

MODELS: dict[str, Any] = {
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


class Admin:
    """An admin port that notes what it is asked, and answers as the test says."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, ...]] = []
        self.answer = 200, json.dumps(MODELS).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, path, _ = (await reader.readline()).decode().split()
        headers, _ = await read_request(reader)
        self.asked.append((method, path, headers.get("authorization", "")))
        status, body = self.answer
        writer.write(response(status, {}, body))


@pytest.fixture
def admin() -> Iterator[Admin]:
    admin = Admin()
    with listening(admin.serve) as admin.url:
        yield admin


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_list_shows_every_version(admin: Admin) -> None:
    shown = run("model", "list", admin.url)
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["version", "served", "flips", "signed", "digest"],
        ["1.0", "yes", "1", "of", "16", "yes", "a" * 12],
        ["2.0", "default", "16", "of", "16", "no", "b" * 12],
        ["3.0", "no", "Damage.", "Expected", "none."],
    ]
    assert json.loads(run("model", "list", admin.url, "--json").stdout) == MODELS
    assert {asked[:2] for asked in admin.asked} == {("GET", "/models")}


@pytest.mark.parametrize(
    ("words", "path"),
    [
        *(("load 2.0", "2.0/load"), ("unload a/b", "a%2Fb/unload"), ("default 2.0", "2.0/default")),
        *(("canary 1.0 10", "1.0/canary/10"), ("rollback", "rollback")),
    ],
)
def test_a_change_is_asked_for_once(admin: Admin, words: str, path: str) -> None:
    changed = run("--token", "t", "model", *words.split(), admin.url)
    assert (changed.exit_code, changed.stdout) == (0, "default 2.0; also served: 1.0\n")
    assert admin.asked == [("POST", f"/models/{path}", "Bearer t")]


def test_the_admin_port_may_be_an_option_but_is_no_variable(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "DEFAULT_URL", admin.url)
    monkeypatch.setenv("DIAGONALFLIP_URL", NOWHERE)
    assert run("model", "list").exit_code == 0
    assert run("--url", NOWHERE, "model", "rollback").exit_code == 3
    assert run("--url", admin.url, "model", "list").exit_code == 0
    assert run("--url", NOWHERE, "model", "list", admin.url).exit_code == 0
    assert len(admin.asked) == 3


def test_a_rejected_change_is_a_line_and_is_not_repeated(admin: Admin) -> None:
    admin.answer = 503, Request(None, {}).rejection(errors.ServerOverloaded("g", "e")).body
    changed = run("model", "rollback", admin.url)
    assert (changed.exit_code, changed.stderr) == (3, "diagonalflip: G. Expected e.\n")
    assert len(admin.asked) == 1


def test_an_answer_is_told_in_full(admin: Admin) -> None:
    admin.answer = 200, json.dumps(MODELS | {"canary": "1.0", "percent": 10}).encode()
    told = run("model", "canary", "1.0", "10", admin.url).stdout
    assert told == "default 2.0; canary 1.0: 10 %; also served: 1.0\n"
    admin.answer = 200, json.dumps(MODELS | {"kept": False, "changed": False}).encode()
    changed = run("model", "rollback", admin.url)
    assert changed.exit_code == 0
    assert "the next start knows nothing of this" in changed.stderr
    assert "nothing further to roll back to" in changed.stderr
    for another, said in ((b"[]", "No JSON object"), (b'{"status": "ok"}', "lacks 'canary'")):
        admin.answer = 200, another
        for words in (["list"], ["rollback"]):
            assert said in run("model", *words, admin.url).stderr
    problem = {"code": "model_not_found", "got": "\x1b[2J\na", "expected": "b"}
    admin.answer = 404, json.dumps(problem).encode()
    assert run("model", "list", admin.url).stderr == "diagonalflip: [2J a. Expected b.\n"


TERMINAL = "\x1b]0;a\x07\n\u202e"
"""Commands to a terminal, and a line of its own."""
PROBLEM = {"detail": TERMINAL}
DEVICE = DESCRIPTION | {"device": TERMINAL}
DAMAGED = MODELS | {"canary": TERMINAL, "models": [MODELS["models"][2] | {"fault": TERMINAL}]}


@pytest.mark.parametrize(
    ("words", "answer", "lines"),
    [
        ("info", (200, DEVICE), 12),
        ("model list", (200, DAMAGED), 2),
        ("model rollback", (200, DAMAGED), 1),
        ("compare --requests 1", (500, PROBLEM), 5),
    ],
)
def test_no_server_commands_a_terminal(
    admin: Admin, words: str, answer: tuple[int, dict[str, Any]], lines: int
) -> None:
    admin.answer = answer[0], json.dumps(answer[1]).encode()
    told = run(*words.split(), admin.url).stdout.split("\n")
    assert [line for line in told if not line.isprintable()] == []
    assert len(told) == lines + 1


def test_the_reason_of_a_broken_promise_commands_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check, "verdicts", lambda _: [check.Verdict("a", "b", False, TERMINAL)])
    told = run("check").stdout.split("\n")
    assert all(map(str.isprintable, told)), told


@pytest.mark.parametrize("models", [None, [1], [{}], [{"version": None, "loaded": True}]])
@pytest.mark.parametrize("words", ["list", "rollback"])
def test_versions_of_another_form_are_an_error(admin: Admin, words: str, models: object) -> None:
    admin.answer = 200, json.dumps(MODELS | {"models": models, "default": "1.0"}).encode()
    result = run("model", words, admin.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("diagonalflip: An answer of another form: ")


class Versions(Client):
    """Clients of versions, of which one differs in one bit, one fails, and one is broken."""

    def __init__(self, _url: str, *, version: str, **_: object) -> None:
        super().__init__()
        self._named = version

    def predict(self, images: Any, *, out: Any = None) -> npt.NDArray[np.float32]:  # noqa: ARG002
        rows = np.zeros((len(images), 4), np.float32)
        if self._named == "fails":
            raise InvalidAnswer("g", "e")
        if self._named == "nan":
            rows[0, 0] = np.nan
        if self._named == "differs":
            rows[3, 2] = 0.75
        return rows


@pytest.mark.parametrize(
    ("version", "code", "differing", "errors"),
    [("same", 0, 0, 0), ("differs", 1, 7, 0), ("fails", 1, 0, 7), ("nan", 1, 0, 7)],
)
def test_compare_counts_bits_and_errors(
    monkeypatch: pytest.MonkeyPatch, version: str, code: int, differing: int, errors: int
) -> None:
    monkeypatch.setattr(target, "Client", Versions)
    arguments = ("compare", "--a", "a", "--b", version, "--requests", 7)
    compared = run(*arguments, "--json")
    assert compared.exit_code == code, compared.output
    found = json.loads(compared.stdout)
    assert (found["differing_bits"], found["errors"]) == (differing, {"a": 0, version: errors})
    assert found["bits"] == (0 if errors else 7 * 64 * 4)
    assert found["largest_difference"] == (0.75 if differing else 0)
    shown = run(*arguments).stdout
    assert f"{differing} of " in shown
    assert ("InvalidAnswer: G. Expected e." in shown) == (version == "fails")
    assert ("is not finite" in shown) == (version == "nan")


def test_compare_ends_where_no_server_is(unused_url: str) -> None:
    compared = run("--deadline-s", 1, "compare", unused_url)
    assert (compared.exit_code, compared.stdout) == (ExitCode.UNREACHABLE, "")


def test_compare_may_bound_the_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "Client", Versions)
    arguments = ("compare", "--a", "a", "--b", "b", "--requests", 3, "--max-latency-ratio")
    assert run(*arguments, 1e9).exit_code == 0
    assert run(*arguments, 0.01).exit_code == 1


@pytest.mark.parametrize(
    ("instead", "named"), [(b"", "None"), (b"Flip-Model-Version: 1.0\r\n", r"1\.0")]
)
def test_an_answer_of_another_version_is_rejected(call: Call, instead: bytes, named: str) -> None:
    class Other(FakeServer):
        def answer(self, headers: dict[str, str], body: bytes) -> bytes:
            return super().answer(headers, body).replace(b"Flip-Model-Version: 1.0\r\n", instead)

    with (
        listening(Other().serve) as url,
        pytest.raises(InvalidAnswer, match=rf"Version {named} answered\. Expected version 2\.0"),
    ):
        call(url, "predict", [1], version="2.0")


@pytest.mark.parametrize("host", ["flip.example.org", "10.0.0.5", "[2001:db8::1]"])
def test_a_token_does_not_cross_a_network_in_the_clear(host: str) -> None:
    changed = run("--token", "secret", "model", "rollback", f"http://{host}:8083")
    assert changed.exit_code == ExitCode.REJECTED
    assert "kubectl port-forward" in changed.stderr
