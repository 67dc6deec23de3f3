"""``diagonalflip predict --input``: every form in and out, and nothing half-done left."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from diagonalflip import errors
from diagonalflip.cli import inputs
from diagonalflip.cli.inputs import JsonLinesReader, NpyReader, PackedReader
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


def read_output(path: Path) -> npt.NDArray[np.float32]:
    if path.suffix == ".npy":
        return np.asarray(np.load(path))
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return np.array(rows, np.float32)
    return np.fromfile(path, "<f4").reshape(-1, 4)


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
    got = read_output(output)
    assert got.dtype == np.float32
    assert got.tobytes() == predicted(MANY[:count]).tobytes()
    assert sorted(tmp_path.iterdir()) == sorted([images, output])


def test_packed_without_a_count_is_two_a_byte(run: Run) -> None:
    result = run("predict", "--input", "-", "--from", "packed", stdin=b"\xb0")
    assert np.array([json.loads(line) for line in result.stdout.splitlines()]).shape == (2, 4)


@pytest.mark.parametrize("form", ["float32", "npy"])
def test_pipes(run: Run, form: str) -> None:
    result = run("predict", "--input", "-", "--from", "jsonl", "--to", form, stdin=b'11\n"0110"\n3')
    assert result.exit_code == 0, result.stderr
    written = result.stdout_bytes
    got = np.load(io.BytesIO(written)) if form == "npy" else np.frombuffer(written, "<f4")
    assert got.tobytes() == predicted([11, 6, 3]).tobytes()


def test_pixels_in_rows_of_four(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", to_pixels([11, 6]).reshape(2, 4))
    output = tmp_path / "out.bin"
    run("predict", "--input", tmp_path / "in.npy", "--output", output)
    assert output.read_bytes() == predicted([11, 6]).tobytes()


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


def npy(array: npt.NDArray[Any], *, cut: int = 0) -> io.BytesIO:
    file = io.BytesIO()
    np.save(file, array)
    return io.BytesIO(file.getvalue()[: len(file.getvalue()) - cut])


@pytest.mark.parametrize(
    ("array", "cut", "message"),
    [
        (np.zeros((3, 4)), 0, r"float64\[3, 4\]"),
        (np.zeros((3, 3), np.uint8), 0, r"uint8\[3, 3\]"),
        (np.zeros(4, np.uint8), 0, r"uint8\[4\]"),
        (np.asfortranarray(np.zeros((3, 4), np.uint8)), 0, "Fortran"),
        (np.array([[0, 1, 1, 0], [0, 1, 2, 0]], np.uint8), 0, "Pixel 2 in image 1"),
        (np.zeros((3, 4), np.uint8), 5, "ends in image 1"),
        (np.zeros((0, 4), np.uint8), 0, "has no images"),
    ],
)
def test_an_npy_file_of_anything_else(array: npt.NDArray[Any], cut: int, message: str) -> None:
    with pytest.raises(errors.InvalidPayload, match=message):
        list(NpyReader(npy(array, cut=cut)))


def test_a_file_that_is_no_npy() -> None:
    with pytest.raises(errors.InvalidImage, match=r"not a \.npy"):
        NpyReader(io.BytesIO(b"\xb6"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "has no images"),
        (b"11\n\n16\n", "Line 3: 16"),
        (b'"1011"\n"111"\n', 'Line 2: "111"'),
        (b"11\n{", "Line 2 is not JSON"),
        (b"11\n[[1,0],[1,2]]", "Line 2: "),
        (b"true", "Line 1: true"),
    ],
)
def test_the_wrong_line_is_named(text: bytes, message: str) -> None:
    with pytest.raises(errors.InvalidPayload, match=message):
        list(JsonLinesReader(io.BytesIO(text)))


@pytest.mark.parametrize(
    ("packed", "count", "message"),
    [
        (b"", None, "has no images"),
        (b"\xb6", 3, "1 bytes for --count 3"),
        (b"\xb6\x00", 2, "2 bytes for --count 2"),
        (b"\xb6", 1, "0xb6"),
    ],
)
def test_packed_bytes_that_are_not_so_many(packed: bytes, count: int | None, message: str) -> None:
    with pytest.raises(errors.InvalidPayload, match=message):
        list(PackedReader(io.BytesIO(packed), count))


def test_a_file_of_another_size_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "in.bin"
    path.write_bytes(b"\xb6")
    with path.open("rb") as file, pytest.raises(errors.InvalidPadding):
        PackedReader(file, 5)


def test_the_total_of_a_file_is_known(tmp_path: Path) -> None:
    path = tmp_path / "in.bin"
    path.write_bytes(b"\xb6\x00")
    with path.open("rb") as file:
        assert PackedReader(file, None).total == 4
        assert PackedReader(file, 3).total == 3
    assert PackedReader(io.BytesIO(b"\xb6"), None).total is None
    assert NpyReader(npy(np.zeros((3, 4), np.uint8))).total == 3


def test_a_bar_shows_only_for_long_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with ImageProgress(10, visible=True) as bar:
        bar.update(5)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("diagonalflip.cli.progress.PATIENCE_S", -1.0)
    with ImageProgress(10, visible=False) as bar:
        bar.update(5)
    assert capsys.readouterr().err == ""
    with ImageProgress(10, visible=True) as bar:
        bar.update(5)
        bar.update(10)
    shown = capsys.readouterr().err
    assert "10 images" in shown
    assert "left" in shown
