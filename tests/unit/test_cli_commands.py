"""The command line: what each subcommand asks of a server, says, and exits with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from diagonalflip import __version__, errors
from diagonalflip.cli import target
from diagonalflip.cli.app import app
from diagonalflip.cli.exits import UsageError
from diagonalflip.cli.notation import BLOCKS, draw, draw_flip
from diagonalflip.client import Client, ServerInfo
from tests.faults.fake_server import DESCRIPTION, TABLE, FakeServer, expected_flips, listening

Run = Callable[..., Result]
NOWHERE = "http://127.0.0.1:1"
MAX_IMAGES = 1 << 16


def run_at(url: str, *arguments: object, stdin: bytes = b"") -> Result:
    words = ["--url", url, *map(str, arguments)]
    return CliRunner().invoke(app, words, input=stdin)


@pytest.fixture
def url() -> Iterator[str]:
    """A server that predicts from ``TABLE``."""
    with listening(FakeServer(MAX_IMAGES).serve) as url:
        yield url


@pytest.fixture
def run(url: str) -> Run:
    """The command, asking that server."""
    return partial(run_at, url)


def test_the_command_tells_its_version_without_a_server() -> None:
    assert run_at(NOWHERE, "--version").stdout == f"diagonalflip {__version__}\n"


def test_predict_shows_an_image_after_another(run: Run) -> None:
    words, numbers = ("predict", "1011", "0b0110", "11", "b6f0"), [11, 6, 11, 11, 6, 15, 0]
    bits = [f"{number:04b}" for number in numbers]
    flips = ["".join(map(str, flip.flat)) for flip in expected_flips(numbers)]
    found = [json.loads(line) for line in run(*words, "--json").stdout.splitlines()]
    assert [(entry["image"], entry["bits"]) for entry in found] == [
        *zip(numbers, bits, strict=True)
    ]
    got = np.array([entry["prediction"] for entry in found], np.float32)
    assert got.tobytes() == TABLE[numbers].tobytes()
    drawn = [draw(*each, BLOCKS) for each in zip(bits, TABLE[numbers], strict=True)]
    assert run(*words).stdout == "\n\n".join([*drawn, ""])
    drawn = [draw_flip(*each, BLOCKS) for each in zip(bits, flips, strict=True)]
    assert run(*words, "--as", "flips").stdout == "\n\n".join([*drawn, ""])
    found = [
        json.loads(line) for line in run(*words, "--as", "flips", "--json").stdout.splitlines()
    ]
    assert [entry["flip"] for entry in found] == flips


def test_info_and_wait(run: Run, url: str) -> None:
    server = asdict(ServerInfo(**DESCRIPTION | {"max_images": MAX_IMAGES}))
    assert json.loads(run("info", "--json").stdout) == server
    printed = run("info").stdout.splitlines()
    assert [line.split()[0] for line in printed] == [name.split("_")[0] for name in server]
    assert all(line.endswith(str(v)) for line, v in zip(printed, server.values(), strict=True))
    waited = run_at(NOWHERE, "wait", url, "--timeout-s", "7")
    assert (waited.exit_code, waited.output) == (0, "")


def test_options_and_variables_are_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    def note(url: str, **settings: Any) -> None:
        made.append({"url": url} | settings)
        raise UsageError("noted", "nothing")

    monkeypatch.setattr(target, "Client", note)
    monkeypatch.setenv("DIAGONALFLIP_URL", "http://there:2")
    monkeypatch.setenv("DIAGONALFLIP_TOKEN", "secret")
    ca = tmp_path / "ca.pem"
    ca.touch()
    CliRunner().invoke(app, ["info"])
    run_at("https://h", "--token", "t", "--ca", ca, "--deadline-s", "2", "predict", "1")
    usual = {"version": None, "deadline_s": 60.0, "token": "secret", "verify": True}
    given = {"version": None, "deadline_s": 2.0, "token": "t", "verify": str(ca)}
    assert made == [{"url": "http://there:2"} | usual, {"url": "https://h"} | given]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((errors.ConnectionFailed("a", "b"), 3), (errors.DeadlineExceeded("a", "b"), 3)),
        *((errors.ServerOverloaded("a", "b"), 3), (errors.InvalidAnswer("a", "b"), 1)),
        *((errors.NotAuthorized("a", "b"), 1), (errors.ModelNotFound("a", "b"), 1)),
        *((errors.ModelMismatch("a", "b"), 1), (errors.InternalError("a", "b"), 1)),
        *((errors.ClientError("a", "b"), 2), (errors.InvalidImage("a", "b"), 2)),
        *((errors.ModelConflict("a", "b"), 1), (errors.ArtifactError("a", "b"), 1)),
        *((UsageError("a", "b"), 2), (OSError("A. Expected b."), 2)),
    ],
)
def test_an_error_is_one_line_and_a_documented_code(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def fail(_: Client) -> None:
        raise error

    monkeypatch.setattr(Client, "info", fail)
    result = run_at(NOWHERE, "info")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == "diagonalflip: A. Expected b.\n"


@pytest.mark.parametrize(
    "words",
    [
        *("", "frobnicate", "predict", "predict --nonsense", "predict zz", "check nowhere"),
        *("predict 1 --output x.npy", "predict 1 --count 3", "predict 1 --input x.bin"),
        *("predict --input x.unknown", "predict --input -", "predict --input x.bin --json"),
        *("predict --input x.bin --output x.unknown", "predict --input x.bin --output x.png"),
        *("predict --input x.npy --count 3", "predict --input /no/such/file.bin"),
        *("info ftp://h", "info http://", "info http://[::1", "model rollback http://[::1"),
        *("--ca /no/such/file info", f"--ca {__file__} info https://127.0.0.1:1"),
        *("wait --timeout-s 0", "model canary 1.0 101", "serve PORT", "serve =1"),
        f"predict --as flips --input {__file__} --from packed",
    ],
)
def test_misuse_is_one_line_and_code_2(words: str) -> None:
    """The code would be 3 if a server were asked: there is none."""
    result = run_at(NOWHERE, *words.split())
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("diagonalflip: ")
