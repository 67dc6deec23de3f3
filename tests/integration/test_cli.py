"""The command as users run it: a process of its own, against the real server."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from requests.structures import CaseInsensitiveDict

from diagonalflip.cli.check import Verdict, verdicts
from diagonalflip.cli.target import Raw, Target
from diagonalflip.client._endpoint import Reply
from diagonalflip.wire import MAX_IMAGES, pack, to_pixels
from tests.integration.conftest import ROOT, Oracle, Server

TOLERANCE = 1e-6
KNOWN = [0.1, -0.1, -0.05, -0.25]
SLOW_S = 120


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "diagonalflip.cli", *map(str, args)]


def run(*args: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*args), cwd=ROOT, input=stdin, capture_output=True, timeout=SLOW_S, check=False
    )


def good(*args: object, stdin: bytes = b"") -> bytes:
    """Standard output of a run that must succeed and complain of nothing."""
    finished = run(*args, stdin=stdin)
    assert (finished.returncode, finished.stderr.decode()) == (0, "")
    return finished.stdout


def test_predict_words(server: Server) -> None:
    lines = good("--url", server.base, "predict", "1011", "0b0110", "11", "b6f0").decode()
    drawn = [line.split() for line in lines.splitlines() if line[:1] in ("0", "1")]
    assert [words[0] for words in drawn] == ["1011", "0110", "1011", "1011", "0110", "1111", "0000"]
    assert drawn[0][2:] == ["0.1000", "-0.1000"]


def test_predict_json(server: Server) -> None:
    found = json.loads(good("--url", server.base, "predict", "--json", "11"))
    assert found["prediction"] == pytest.approx(KNOWN, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["bin", "npy"])
@pytest.mark.parametrize("target", ["bin", "npy", "jsonl"])
def test_files_of_several_requests(
    server: Server, oracle: Oracle, tmp_path: Path, source: str, target: str
) -> None:
    numbers = np.random.default_rng(7).integers(0, 16, 200_001)
    images, output = tmp_path / f"in.{source}", tmp_path / f"out.{target}"
    more: list[object] = []
    if source == "npy":
        np.save(images, to_pixels(numbers))
    else:
        images.write_bytes(pack(numbers).packed)
        more = ["--count", len(numbers)]
    good("--url", server.base, "predict", "--input", images, "--output", output, *more)
    if target == "npy":
        got = np.load(output)
    elif target == "bin":
        got = np.fromfile(output, "<f4").reshape(-1, 4)
    else:
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        got = np.array(rows, np.float32)
    expected = oracle(numbers)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= TOLERANCE


def test_a_pipe_in_and_a_pipe_out(server: Server, oracle: Oracle) -> None:
    options = ("predict", "--input", "-", "--from", "jsonl", "--to", "float32")
    written = good("--url", server.base, *options, stdin=b'11\n"0110"\n[[1,1],[0,0]]\n')
    got = np.frombuffer(written, "<f4").reshape(-1, 4)
    assert np.abs(got - oracle([11, 6, 12])).max() <= TOLERANCE


@pytest.mark.parametrize("form", ["png", "pbm"])
def test_pictures(server: Server, oracle: Oracle, tmp_path: Path, form: str) -> None:
    sheet = np.block([[to_pixels([11])[0], to_pixels([6])[0]]])
    ink = sheet == (1 if form == "png" else 0)  # Pillow writes black as bit 1 of a PBM
    images = tmp_path / f"in.{form}"
    Image.fromarray(ink).save(images)
    url, output = server.base, tmp_path / "out"
    good("--url", url, "predict", "--input", images, "--output", output.with_suffix(".npy"))
    got = np.load(output.with_suffix(".npy"))
    assert np.abs(got - oracle([11, 6])).max() <= TOLERANCE
    good("--url", url, "predict", "--input", images, "--output", output.with_suffix(".png"))
    with Image.open(output.with_suffix(".png")) as picture:
        assert (picture.size, picture.mode) == ((4, 2), "L")
    lines = good("--url", url, "predict", "--input", images).splitlines()
    assert json.loads(lines[0]) == pytest.approx(KNOWN, abs=TOLERANCE)


def test_a_picture_that_the_server_rejects(server: Server, tmp_path: Path) -> None:
    output = tmp_path / "out.npy"
    options = ("--input", "-", "--from", "png", "--output", output)
    finished = run("--url", server.base, "predict", *options, stdin=b"no picture")
    assert finished.returncode == 2
    assert finished.stderr.count(b"\n") == 1
    assert not output.exists()


def test_a_terminal_gets_a_bar_and_a_pipe_does_not(server: Server, tmp_path: Path) -> None:
    """Through a pipe, standard error stays empty: ``good`` sees to that everywhere."""
    images, output = tmp_path / "in.bin", tmp_path / "out.bin"
    images.write_bytes(bytes(1000))
    impatient = (
        "import diagonalflip.cli as cli, diagonalflip.cli.progress as progress;"
        "progress.PATIENCE_S = -1; cli.main()"
    )
    options = ("--url", server.base, "predict", "--input", images, "--output", output)
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", impatient, *map(str, options)],
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(terminal, 1 << 16):
            shown += piece
    except OSError:
        pass  # Linux's way to say that the other side is closed
    os.close(terminal)
    assert process.wait(SLOW_S) == 0
    assert b"2,000 images" in shown
    assert output.stat().st_size == 16 * 2000


def test_a_reader_that_goes_away_is_no_traceback(server: Server, tmp_path: Path) -> None:
    images = tmp_path / "in.bin"
    images.write_bytes(bytes(1 << 18))
    with subprocess.Popen(
        command("--url", server.base, "predict", "--input", images),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(SLOW_S) == 1


def test_info_and_wait(server: Server) -> None:
    found = json.loads(good("info", server.base, "--json"))
    assert found["wire_version"] == "1"
    assert (found["workers"], found["max_images"]) == (2, MAX_IMAGES)
    assert good("wait", server.base, "--timeout-s", SLOW_S) == b""


@pytest.mark.both_ports
def test_check_passes(server: Server) -> None:
    report = json.loads(good("check", server.base, "--json"))
    assert [entry for entry in report["promises"] if not entry["passed"]] == []
    assert report["passed"] == len(report["promises"]) > 200
    names = [(entry["group"], entry["promise"]) for entry in report["promises"]]
    assert len(set(names)) == len(names)


class Tampering:
    """A server behind something that changes answers."""

    def __init__(self, url: str, change: Callable[[Reply], Reply]) -> None:
        self.url = url
        self._raw = Target(url, None, None, SLOW_S).raw()
        self._change = change

    def of(self, _: str | None) -> Tampering:
        """Its default version is the one that the vectors know."""
        return self

    def post(self, *args: Any, **kwargs: Any) -> Reply:
        """Do the same as ``Raw.post``."""
        return self._change(self._raw.post(*args, **kwargs))

    def broken(self) -> set[str]:
        """Promises of the contract that are not kept any more."""
        with self._raw:
            found: Iterator[Verdict] = verdicts(cast("Raw", self))
            return {entry.promise for entry in found if not entry.passed}


def test_check_sees_a_missing_header(server: Server) -> None:
    def change(answer: Reply) -> Reply:
        kept = CaseInsensitiveDict(answer.headers)
        kept.pop("Server-Timing", None)
        return Reply(answer.status, kept, answer.body)

    broken = Tampering(server.base, change).broken()
    assert broken == {"an answer has all promised headers, well-formed"}


def test_check_sees_one_bit_in_a_large_batch(server: Server) -> None:
    def change(answer: Reply) -> Reply:
        body = answer.body
        if len(body) == 16 * 65_537:
            body = body[:-4] + bytes([body[-4] ^ 1]) + body[-3:]
        return Reply(answer.status, answer.headers, body)

    broken = Tampering(server.base, change).broken()
    assert broken == {"65537 images in one request: as each alone"}
