"""``diagonalflip predict --input``: every form in and out, and nothing half-done left."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from diagonalflip.cli import inputs, progress
from diagonalflip.cli.app import app
from diagonalflip.cli.outputs import Output, OutputForm
from diagonalflip.wire import OCTETS, pack, to_pixels
from tests.faults.fake_server import TABLE, listening, read_request, response
from tests.unit.test_cli_commands import MAX_IMAGES, NOWHERE, Run, run, run_at, url

__all__ = ["run", "url"]  # fixtures

MANY = np.random.default_rng(1).integers(0, 16, max(inputs.PIECE_IMAGES, MAX_IMAGES) + 3)
"""So many that they are read in several pieces, and sent in several requests."""


def npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def written(form: str, numbers: npt.NDArray[Any]) -> bytes:
    if form == "npy":
        pixels = to_pixels(numbers)
        return npy(pixels if len(numbers) % 2 else pixels.reshape(-1, 4).astype(bool))
    if form == "jsonl":
        forms = (int, lambda n: f"{n:04b}", lambda n: to_pixels([n])[0].tolist())
        lines = (json.dumps(forms[i % 3](n)) for i, n in enumerate(numbers.tolist()))
        return "\n".join([*lines, "", ""]).encode()
    return bytes(pack(numbers).packed)


def read(form: str, content: bytes) -> npt.NDArray[np.float32]:
    if form == "npy":
        return np.asarray(np.load(io.BytesIO(content)))
    if form == "jsonl":
        return np.array([json.loads(line) for line in content.splitlines()], np.float32)
    return np.frombuffer(content, "<f4").reshape(-1, 4)


@pytest.mark.parametrize("count", [1, 2, 5, len(MANY)])
@pytest.mark.parametrize("source", ["bin", "npy", "jsonl"])
@pytest.mark.parametrize(
    ("target", "to"), [("bin", ["--to", "float32"]), ("npy", ["--to", "npy"]), ("jsonl", [])]
)
def test_every_form_in_and_out(  # noqa: PLR0913, PLR0917 - both ends, and fixtures
    run: Run, tmp_path: Path, source: str, target: str, to: list[str], count: int
) -> None:
    images, output = tmp_path / f"in.{source}", tmp_path / f"out.{target}"
    images.write_bytes(written(source, MANY[:count]))
    more = ["--count", count] if source == "bin" else []
    result = run("predict", "--input", images, "--output", output, *more)
    assert (result.exit_code, result.output) == (0, "")
    got = read(target, output.read_bytes())
    assert got.dtype == np.float32
    assert got.tobytes() == TABLE[MANY[:count]].tobytes()
    assert sorted(tmp_path.iterdir()) == sorted([images, output])
    more += ["--from", inputs.SUFFIXES[images.suffix], *to]
    piped = run("predict", "--input", "-", *more, stdin=images.read_bytes())
    assert (piped.exit_code, piped.stderr) == (0, "")
    assert piped.stdout_bytes == output.read_bytes()


def test_a_summary_for_machines(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(b"\xb6")
    output = tmp_path / "out.bin"
    result = run("predict", "--json", "--input", tmp_path / "in.bin", "--output", output)
    summary = json.loads(result.stdout)
    assert summary.pop("seconds") >= 0
    assert summary == {"images": 2, "output": str(output)}


def test_images_are_not_replaced_by_their_predictions(tmp_path: Path) -> None:
    images, link = tmp_path / "in.bin", tmp_path / "link.bin"
    images.write_bytes(b"\xb6")
    link.symlink_to(images)
    result = run_at(NOWHERE, "predict", "--input", images, "--output", link)
    assert (result.exit_code, images.read_bytes()) == (2, b"\xb6")
    assert result.stderr == "diagonalflip: An output that is the input. Expected another file.\n"


@pytest.mark.parametrize(
    ("form", "content", "message"),
    [
        ("npy", b"\xb6", "file is not a .npy"),
        ("npy", header(b"{'': ("), "file is not a .npy"),
        ("npy", header(b"{[]: 1}"), "file is not a .npy"),
        ("npy", header(b"a\n  b\n c"), "file is not a .npy"),
        ("npy", npy(np.zeros((3, 4))), "float64[3, 4]"),
        ("npy", npy(np.zeros((3, 3), np.uint8)), "uint8[3, 3]"),
        ("npy", npy(np.zeros(4, np.uint8)), "uint8[4]"),
        ("npy", npy(np.zeros((3, 4), np.uint8, order="F")), "Fortran"),
        ("npy", npy(np.array([[0, 1, 1, 0], [0, 1, 2, 0]], np.uint8)), "Pixel 2 in image 1"),
        ("npy", npy(np.zeros((3, 4), np.uint8))[:-5], "ends in image 1"),
        ("npy", npy(np.zeros((0, 4), np.uint8)), "has no images"),
        ("jsonl", b"", "has no images"),
        ("jsonl", b"11\n\n16\n", "Line 3: 16"),
        ("jsonl", b'"1011"\n"111"\n', 'Line 2: "111"'),
        ("jsonl", b"11\n{", "Line 2 is not JSON"),
        ("jsonl", b"11\n[[1,0],[1,2]]", "Line 2: "),
        ("jsonl", b"true", "Line 1: true"),
        ("packed", b"", "has no images"),
        ("packed --count 3", b"\xb6", "1 bytes for 3 images"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(form: str, content: bytes, message: str) -> None:
    result = run_at(NOWHERE, "predict", "--input", "-", "--from", *form.split(), stdin=content)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


PROBLEM = b'{"code": "invalid_picture", "got": "a", "expected": "b"}'


@pytest.mark.parametrize(
    ("status", "headers", "body", "code", "said"),
    [
        (400, {}, PROBLEM, 2, "A. Expected b."),
        (413, {"Flip-Max-Images": "9"}, PROBLEM, 2, "A. Expected at most 9 images."),
        (413, {}, b"{}", 2, "A picture that is too large. Expected at most 32 MiB"),
        (200, {"Content-Type": OCTETS}, b"{}", 1, f"2 bytes of {OCTETS} for no images"),
        (200, {"Content-Type": "a/b", "Flip-Images": "1"}, b"{}", 1, "of a/b for 1 images"),
    ],
)
def test_a_picture_without_predictions_is_an_error(  # noqa: PLR0913, PLR0917 - of an answer
    tmp_path: Path, status: int, headers: dict[str, str], body: bytes, code: int, said: str
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        await read_request(reader)
        writer.write(response(status, headers, body))

    asked: list[bytes] = []
    images, output = tmp_path / "in.png", tmp_path / "out.bin"
    images.write_bytes(b"any")
    words = ("--model-version", "a/b", "predict", "--input", images, "--output", output)
    with listening(answer) as url:
        result = run_at(url, *words)
    assert asked == [b"POST /predictions/diagonal_flip/a%2Fb HTTP/1.1\r\n"]
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
    assert list(tmp_path.iterdir()) == [images]


class Narrow(io.BytesIO):
    """Takes a few bytes at a time, as an unbuffered file may."""

    def write(self, data: Any, /) -> int:
        return super().write(data[:3])


@pytest.mark.parametrize("form", ["jsonl", "float32"])
def test_all_is_written(form: OutputForm) -> None:
    narrow = Narrow()
    Output(narrow, form).write(TABLE)
    assert read(form, narrow.getvalue()).tobytes() == TABLE.tobytes()


def test_an_array_gets_into_a_pipe(run: Run, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.npy"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        content = pool.submit(pipe.read_bytes)
        source = ("--input", "-", "--from", "packed")
        assert run("predict", *source, "--output", pipe, stdin=b"\xb6").exit_code == 0
        assert read("npy", content.result(10)).tobytes() == TABLE[[11, 6]].tobytes()


def test_the_size_of_a_file_is_known_before_anything_is_sent(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(b"\xb6\x00")
    result = run_at(NOWHERE, "predict", "--input", tmp_path / "in.bin", "--count", 5)
    assert (result.exit_code, "2 bytes for 5 images" in result.stderr) == (2, True)
    result = run("predict", "--input", "/dev/zero", "--from", "packed", "--count", 3)
    assert "Expected 2 bytes" in result.stderr, "a device has no size"


def test_a_terminal_gets_no_bytes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with pytest.raises(SystemExit, match="2"):
        app(["predict", "--input", __file__, "--from", "packed", "--to", "npy"])
    assert "Npy cannot be shown in a terminal" in capsys.readouterr().err


def test_a_bar_shows_only_for_long_work_and_for_people(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.bin").write_bytes(bytes(1000))
    words = f"--url {url} predict --input {tmp_path}/in.bin --output {tmp_path}/out.bin"
    monkeypatch.setenv("COLUMNS", "200")
    for is_terminal, show_after_s in ((True, 60), (False, -1), (True, -1)):
        monkeypatch.setattr("sys.stderr.isatty", lambda shown=is_terminal: shown)
        monkeypatch.setattr(progress, "SHOW_AFTER_S", show_after_s)
        with pytest.raises(SystemExit, match="0"):
            app(words.split())
        shown = capsys.readouterr().err
        assert bool(shown) == (is_terminal and show_after_s < 0)
    assert all(part in shown for part in ("2,000 images", "images/s", "left"))


def test_images_are_not_appended_to(tmp_path: Path) -> None:
    images = tmp_path / "in.bin"
    images.write_bytes(b"\xb6")
    command = [sys.executable, "-m", "diagonalflip.cli", "--url", NOWHERE, "predict", "--input"]
    with images.open("rb") as stdin, images.open("ab") as stdout:
        for source, form in ((str(images), ["--to", "float32"]), ("-", ["--from", "packed"])):
            finished = subprocess.run(
                [*command, source, *form],
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            assert (finished.returncode, images.read_bytes()) == (2, b"\xb6"), finished.stderr
            assert "An output that is the input" in finished.stderr
