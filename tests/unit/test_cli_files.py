"""``diagonalflip predict --input``: every form in and out, and nothing half-done left."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pytest

from diagonalflip import errors
from diagonalflip.cli import inputs, progress
from diagonalflip.cli.inputs import JsonLinesReader, NpyReader, PackedReader, Reader
from diagonalflip.cli.progress import ImageProgress
from diagonalflip.wire import pack, to_pixels
from tests.unit.test_cli_commands import FakeClient, Run, client, predicted, run

__all__ = ["client", "run"]  # fixtures

MANY = np.random.default_rng(1).integers(0, 16, inputs.PIECE_IMAGES + 3)


def write_input(path: Path, numbers: npt.NDArray[Any]) -> None:
    pixels = to_pixels(numbers)
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".jsonl":
        forms = (int, lambda n: f"{n:04b}", lambda n: to_pixels([n])[0].tolist())
        lines = (json.dumps(forms[i % 3](n)) for i, n in enumerate(numbers.tolist()))
        path.write_text("\n".join(lines) + "\n\n")
    else:
        path.write_bytes(pack(numbers).packed)


def read_output(form: str, content: bytes) -> npt.NDArray[np.float32]:
    if form == "npy":
        return np.asarray(np.load(io.BytesIO(content)))
    if form == "jsonl":
        return np.array([json.loads(line) for line in content.splitlines()], np.float32)
    return np.frombuffer(content, "<f4").reshape(-1, 4)


def npy(array: npt.NDArray[Any], *, cut: int = 0) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()[: len(file.getvalue()) - cut]


@pytest.mark.parametrize("count", [1, 2, 5, len(MANY)])
@pytest.mark.parametrize("source", [".bin", ".npy", ".jsonl"])
@pytest.mark.parametrize("target", [".bin", ".npy", ".jsonl"])
def test_every_form_in_and_out(
    run: Run, tmp_path: Path, source: str, target: str, count: int
) -> None:
    images, output = tmp_path / f"in{source}", tmp_path / f"out{target}"
    write_input(images, MANY[:count])
    more = ["--count", count] if source == ".bin" else []
    result = run("predict", "--input", images, "--output", output, *more)
    assert (result.exit_code, result.output) == (0, "")
    got = read_output(target[1:], output.read_bytes())
    assert got.dtype == np.float32
    assert got.tobytes() == predicted(MANY[:count]).tobytes()
    assert sorted(tmp_path.iterdir()) == sorted([images, output])


@pytest.mark.parametrize(
    ("source", "stdin", "numbers"),
    [
        ("packed", b"\xb0", [11, 0]),
        ("jsonl", b'11\n"0110"\n3', [11, 6, 3]),
        ("npy", npy(to_pixels([11, 6]).reshape(2, 4)), [11, 6]),
    ],
)
@pytest.mark.parametrize("target", ["float32", "npy", "jsonl"])
def test_pipes(run: Run, source: str, stdin: bytes, numbers: list[int], target: str) -> None:
    to = ["--to", target] if target != "jsonl" else []
    result = run("predict", "--input", "-", "--from", source, *to, stdin=stdin)
    assert (result.exit_code, result.stderr) == (0, "")
    assert read_output(target, result.stdout_bytes).tobytes() == predicted(numbers).tobytes()


def test_a_summary_for_machines(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.bin").write_bytes(b"\xb6")
    output = tmp_path / "out.bin"
    result = run("predict", "--json", "--input", tmp_path / "in.bin", "--output", output)
    summary = json.loads(result.stdout)
    assert summary.keys() == {"images", "seconds", "output"}
    assert (summary["images"], summary["output"]) == (2, str(output))


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (errors.ConnectionFailed("a", "b"), 3)]
)
@pytest.mark.parametrize("suffix", [".bin", ".npy", ".jsonl"])
def test_a_job_that_ends_early_leaves_what_was_there(  # noqa: PLR0913, PLR0917
    run: Run, client: FakeClient, tmp_path: Path, suffix: str, error: BaseException, code: int
) -> None:
    images, output = tmp_path / "in.bin", tmp_path / f"out{suffix}"
    images.write_bytes(bytes(inputs.PIECE_IMAGES))
    output.write_bytes(b"before")
    client.error = error
    assert run("predict", "--input", images, "--output", output).exit_code == code
    assert output.read_bytes() == b"before"
    assert sorted(tmp_path.iterdir()) == [images, output]


@pytest.mark.parametrize(
    ("reader", "content", "message"),
    [
        (NpyReader, b"\xb6", r"not a \.npy"),
        (NpyReader, npy(np.zeros((3, 4))), r"float64\[3, 4\]"),
        (NpyReader, npy(np.zeros((3, 3), np.uint8)), r"uint8\[3, 3\]"),
        (NpyReader, npy(np.zeros(4, np.uint8)), r"uint8\[4\]"),
        (NpyReader, npy(np.zeros((3, 4), np.uint8, order="F")), "Fortran"),
        (NpyReader, npy(np.array([[0, 1, 1, 0], [0, 1, 2, 0]], np.uint8)), "Pixel 2 in image 1"),
        (NpyReader, npy(np.zeros((3, 4), np.uint8), cut=5), "ends in image 1"),
        (NpyReader, npy(np.zeros((0, 4), np.uint8)), "has no images"),
        (JsonLinesReader, b"", "has no images"),
        (JsonLinesReader, b"11\n\n16\n", "Line 3: 16"),
        (JsonLinesReader, b'"1011"\n"111"\n', 'Line 2: "111"'),
        (JsonLinesReader, b"11\n{", "Line 2 is not JSON"),
        (JsonLinesReader, b"11\n[[1,0],[1,2]]", "Line 2: "),
        (JsonLinesReader, b"true", "Line 1: true"),
        (partial(PackedReader, total=None), b"", "has no images"),
        (partial(PackedReader, total=3), b"\xb6", "1 bytes for --count 3"),
        (partial(PackedReader, total=2), b"\xb6\x00", "2 bytes for --count 2"),
        (partial(PackedReader, total=1), b"\xb6", "0xb6"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(
    reader: Callable[[BinaryIO], Reader], content: bytes, message: str
) -> None:
    with pytest.raises(errors.InvalidPayload, match=message):
        list(reader(io.BytesIO(content)))


def test_the_size_of_a_file_is_known_before_anything_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "in.bin"
    path.write_bytes(b"\xb6\x00")
    with path.open("rb") as file:
        assert PackedReader(file, None).total == 4
        assert PackedReader(file, 3).total == 3
        with pytest.raises(errors.InvalidPadding):
            PackedReader(file, 5)
    assert PackedReader(io.BytesIO(b"\xb6"), None).total is None
    assert NpyReader(io.BytesIO(npy(np.zeros((3, 4), np.uint8)))).total == 3


def test_a_bar_shows_only_for_long_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for visible, patience_s in ((True, progress.PATIENCE_S), (False, -1.0)):
        monkeypatch.setattr(progress, "PATIENCE_S", patience_s)
        with ImageProgress(10, visible=visible) as bar:
            bar.update(5)
        assert capsys.readouterr().err == ""
    with ImageProgress(10, visible=True) as bar:
        bar.update(5)
        bar.update(10)
    shown = capsys.readouterr().err
    assert "10 images" in shown
    assert "left" in shown
