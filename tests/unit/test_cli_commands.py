"""The command line: what each subcommand asks of a client, says, and exits with."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner, Result

from diagonalflip import errors
from diagonalflip.cli.app import app
from diagonalflip.cli.exits import ExitCode, UsageError, exit_code
from diagonalflip.client import ServerInfo
from diagonalflip.client._images import to_images
from diagonalflip.errors import DiagonalFlipError
from diagonalflip.wire import Images, to_pixels, unpack

Run = Callable[..., Result]
SERVER = ServerInfo(
    "1.0", 1, "ab" * 32, "1", 2, "cpu", "CPU", "table", 1 << 20, 4096, 2.5e-08, True
)


def predicted(numbers: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Predictions of the fake, ``float32[n, 4]``: other numbers for every image and pixel."""
    offsets = np.array([0.1, 0.25, -0.5, 0], np.float32)
    return np.asarray(numbers, np.float32)[:, None] + offsets


class FakeClient:
    """Predicts without a server, or fails as it is told."""

    def __init__(self, url: str = "", **settings: Any) -> None:
        self.made = {"url": url} | settings
        self.error: BaseException | None = None
        self.waited_s = 0.0

    def make(self, url: str, **settings: Any) -> Self:
        self.made = {"url": url} | settings
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error

    def predict(self, images: Any) -> npt.NDArray[np.float32]:
        self._fail()
        return predicted(unpack(to_images(images)))

    def predict_chunks(
        self, pieces: Iterable[bytes]
    ) -> Generator[npt.NDArray[np.float32], None, None]:
        held = b""
        for piece in pieces:  # as the real one: an answer comes after more was read
            if held:
                yield predicted(unpack(Images(held, 2 * len(held))))
            held = piece
        self._fail()
        yield predicted(unpack(Images(held, 2 * len(held))))

    def flip(self, images: Any) -> npt.NDArray[np.uint8]:
        self._fail()
        return to_pixels(unpack(to_images(images))).transpose(0, 2, 1)

    def info(self) -> ServerInfo:
        self._fail()
        return SERVER

    def wait_until_ready(self, timeout_s: float) -> None:
        self._fail()
        self.waited_s = timeout_s


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def run(client: FakeClient) -> Run:
    def invoke(*args: object, stdin: bytes = b"") -> Result:
        words = [str(arg) for arg in args]
        return CliRunner().invoke(app, words, input=stdin, obj=client.make)

    return invoke


def test_predict_as_json_is_a_line_an_image(run: Run) -> None:
    result = run("predict", "--json", "11", "0")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [entry["image"] for entry in found] == [11, 0]
    assert [entry["bits"] for entry in found] == ["1011", "0000"]
    got = np.array([entry["prediction"] for entry in found], np.float32)
    assert got.tobytes() == predicted([11, 0]).tobytes()


def test_info(run: Run) -> None:
    assert json.loads(run("info", "--json").stdout) == asdict(SERVER)
    printed = run("info").stdout.splitlines()
    assert [line.split()[-1] for line in printed] == [str(v) for v in asdict(SERVER).values()]


def test_wait(run: Run, client: FakeClient) -> None:
    result = run("wait", "http://here:1", "--timeout-s", "7")
    assert (result.exit_code, result.output) == (0, "")
    assert client.waited_s == 7
    assert client.made["url"] == "http://here:1"


def test_options_and_else_the_environment_reach_the_client(
    run: Run, client: FakeClient, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIAGONALFLIP_URL", "http://there:2")
    monkeypatch.setenv("DIAGONALFLIP_TOKEN", "secret")
    run("info")
    assert (client.made["url"], client.made["token"]) == ("http://there:2", "secret")
    ca = tmp_path / "ca.pem"
    ca.touch()
    run("--url", "https://h/", "--token", "t", "--ca", ca, "--deadline-s", "2", "predict", "1")
    settings = {"version": None, "deadline_s": 2.0, "token": "t", "verify": str(ca)}
    assert client.made == {"url": "https://h"} | settings


@pytest.mark.parametrize(
    ("error", "code"),
    [
        *((errors.ConnectionFailed("a", "b"), 3), (errors.DeadlineExceeded("a", "b"), 3)),
        *((errors.ServerOverloaded("a", "b"), 3), (errors.InvalidAnswer("a", "b"), 1)),
        *((errors.NotAuthorized("a", "b"), 1), (errors.ModelNotFound("a", "b"), 1)),
        *((errors.ModelMismatch("a", "b"), 1), (errors.InternalError("a", "b"), 1)),
        *((errors.ClientError("a", "b"), 2), (errors.InvalidImage("a", "b"), 2)),
        *((UsageError("a", "b"), 2), (OSError("A. Expected b."), 2), (KeyboardInterrupt(), 130)),
    ],
)
@pytest.mark.parametrize("command", [("predict", "1"), ("info",), ("wait",)])
def test_an_error_is_one_line_and_a_documented_code(
    run: Run, client: FakeClient, command: tuple[str, ...], error: BaseException, code: int
) -> None:
    client.error = error
    result = run(*command)
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("diagonalflip: ")
    assert ("interrupted" if code == 130 else "Expected b.") in line


def test_every_error_has_an_exit_code() -> None:
    def tree(kind: type[DiagonalFlipError]) -> list[type[DiagonalFlipError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in tree(child))]

    for kind in tree(DiagonalFlipError):
        assert exit_code(kind.__new__(kind)) in set(ExitCode) - {ExitCode.OK, ExitCode.INTERRUPTED}


@pytest.mark.parametrize(
    "words",
    [
        *("", "frobnicate", "predict", "predict --nonsense", "predict zz", "check nowhere"),
        *("predict 1 --output x.npy", "predict 1 --count 3", "predict 1 --input x.bin"),
        *("predict --input x.unknown", "predict --input -", "predict --input x.bin --json"),
        *("predict --input x.bin --output x.unknown", "predict --input x.bin --output x.png"),
        *("predict --input x.npy --count 3", "predict --input /no/such/file.bin"),
        *("--url ftp://h info", "--url http:// info", "--ca /no/such/file info"),
        *("wait --timeout-s 0", "model canary 1.0 101"),
        f"predict --as flips --input {__file__} --from packed",
    ],
)
def test_misuse_is_one_line_and_code_2(run: Run, client: FakeClient, words: str) -> None:
    result = run(*words.split())
    assert (result.exit_code, result.stdout, client.made) == (2, "", {"url": ""}), result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("diagonalflip: ")


@pytest.mark.parametrize("command", ["predict", "check", "wait", "info"])
def test_help(run: Run, command: str) -> None:
    assert "--help" in run(command, "--help").stdout
