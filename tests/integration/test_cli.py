"""The command as users run it: a process of its own, against the real server."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diagonalflip.wire import to_pixels
from tests.conftest import execute
from tests.integration.conftest import Oracle, Server, run_command
from tests.integration.test_predictions import assert_close


def test_a_pipe_in_and_a_pipe_out(server: Server, oracle: Oracle) -> None:
    options = ("predict", "--input", "-", "--from", "jsonl", "--to", "float32")
    written = run_command("--url", server.base, *options, stdin=b'11\n"0110"\n[[1,1],[0,0]]\n')
    got = np.frombuffer(written, "<f4").reshape(-1, 4)
    assert_close(got, oracle([11, 6, 12]))


@pytest.mark.parametrize("form", ["png", "pbm"])
def test_pictures(server: Server, oracle: Oracle, tmp_path: Path, form: str) -> None:
    sheet = np.block([[to_pixels([11])[0], to_pixels([6])[0]]])
    ink = sheet == (1 if form == "png" else 0)  # Pillow writes black as bit 1 of a PBM
    images = tmp_path / f"in.{form}"
    Image.fromarray(ink).save(images)
    words = ("--url", server.base, "predict", "--input", images)
    run_command(*words, "--output", tmp_path / "out.npy")
    assert_close(np.load(tmp_path / "out.npy"), oracle([11, 6]))
    run_command(*words, "--output", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert (picture.size, picture.mode) == ((4, 2), "L")
    rows = [json.loads(line) for line in run_command(*words).splitlines()]
    assert_close(np.array(rows), oracle([11, 6]))


def test_a_reader_that_goes_away_is_no_traceback(server: Server, tmp_path: Path) -> None:
    images = tmp_path / "in.bin"
    images.write_bytes(bytes(1 << 18))
    command = '"$0" -m diagonalflip.cli --url "$1" predict --input "$2"'
    until = f"{command} | head -n 1; exit ${{PIPESTATUS[0]}}"
    finished = execute("bash", "-c", until, sys.executable, server.base, images)
    assert (finished.returncode, finished.stderr) == (1, "")


@pytest.mark.both_ports
def test_check_passes(server: Server) -> None:
    report = json.loads(run_command("check", server.base, "--json"))
    assert [entry for entry in report["promises"] if not entry["passed"]] == []
    assert report["passed"] == len(report["promises"]) > 200
    names = [(entry["group"], entry["promise"]) for entry in report["promises"]]
    assert len(set(names)) == len(names)
