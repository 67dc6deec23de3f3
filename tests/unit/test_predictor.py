"""Predictions without a server are ONNX Runtime's, whatever their number."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from diagonalflip import Predictor
from diagonalflip.cli.app import app
from diagonalflip.errors import ArtifactError, ClientError, ModelDoesNotFlip, ModelNotFound
from diagonalflip.predictor import CHUNK_IMAGES
from diagonalflip.server.settings import PACKAGED
from diagonalflip.wire import Images, pack, to_pixels, unpack
from export.package import package_files
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def flipping() -> Predictor:
    return Predictor("2.0", device="cpu")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_the_package_holds_the_exports(version: str, artifacts: Path, exported_2_0: Path) -> None:
    """After a change of weights or of the export: make package-data."""
    wanted = package_files(artifacts if version == "1.0" else exported_2_0)
    found = {path.name: path.read_bytes() for path in (PACKAGED / version).iterdir()}
    assert found == wanted


@pytest.mark.parametrize("first", ["diagonalflip.inference", "export"])
def test_onnx_runtime_tells_nobody_what_it_runs(tmp_path: Path, first: str) -> None:
    """Its telemetry would begin with an id and a database in this folder, at the import."""
    command = [sys.executable, "-c", f"import {first}, onnxruntime"]
    subprocess.run(command, env={"HOME": str(tmp_path)}, cwd=ROOT, check=True)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("count", [1, 2, 17, CHUNK_IMAGES, CHUNK_IMAGES + 1, 2 * CHUNK_IMAGES + 3])
def test_predictions_are_those_of_onnx_runtime(count: int, artifacts: Path) -> None:
    numbers = np.random.default_rng(count).integers(16, size=count)
    with Predictor(device="cpu") as predictor:
        assert predictor.version == "1.0"
        predictions = predictor.predict(numbers)
    assert predictions.shape == (count, 4)
    session = onnxruntime.InferenceSession(
        artifacts / "diagonal_flip.onnx", providers=["CPUExecutionProvider"]
    )
    pixels = to_pixels(numbers).reshape(-1, 4).astype(np.float32)
    [wanted] = session.run(None, {"pixels": pixels})
    assert np.abs(predictions - wanted).max() <= 1e-6


@pytest.mark.parametrize("count", [1, 16, CHUNK_IMAGES + 1])
def test_flips_are_flips(flipping: Predictor, count: int) -> None:
    numbers = np.random.default_rng(count).integers(16, size=count)
    flipped = to_pixels(numbers).transpose(0, 2, 1)
    assert (flipping.flip(numbers) == flipped).all()
    packed = flipping.flip_packed(pack(numbers).packed, count)
    assert (to_pixels(unpack(Images(packed, count))) == flipped).all()


def test_a_version_that_does_not_flip_says_so() -> None:
    with pytest.raises(ModelDoesNotFlip, match="1 of 16"):
        Predictor("1.0").flip([3])


def test_predictions_are_written_where_they_are_wanted(flipping: Predictor) -> None:
    out = np.full((3, 4), np.nan, np.float32)
    assert flipping.predict([1, 2, 3], out=out) is out
    assert (out == flipping.predict([1, 2, 3])).all()
    with pytest.raises(ClientError, match=r"float32\[2, 4\]"):
        flipping.predict([1, 2], out=out)


def test_threads_do_not_disturb_each_other(flipping: Predictor) -> None:
    numbers = [np.random.default_rng(seed).integers(16, size=1001) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(flipping.predict, numbers))
    table = flipping.predict(range(16))
    for each, answer in zip(numbers, answers, strict=True):
        assert np.abs(answer - table[each]).max() <= 1e-6


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_waits_for_none_of_its_parents_threads(flipping: Predictor) -> None:
    flipping.predict([1])
    with flipping._locks[os.getpid()]:
        child = os.fork()
        if not child:
            signal.alarm(10)
            os._exit(len(flipping.predict([1, 2, 3])))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_a_file_of_any_length_is_predicted(flipping: Predictor, tmp_path: Path) -> None:
    numbers = np.random.default_rng(5).integers(16, size=70_001)
    (tmp_path / "images.bin").write_bytes(pack(numbers).packed)
    output = io.BytesIO()
    assert flipping.predict_file(tmp_path / "images.bin", output, count=70_001) == 70_001
    rows = np.frombuffer(output.getvalue(), "<f4").reshape(-1, 4)
    assert np.abs(rows - flipping.predict(numbers)).max() <= 1e-6


def test_what_cannot_be_loaded_is_an_error(versions: Path) -> None:
    for unknown in ("3.0", "", 2.0):
        with pytest.raises(ModelNotFound, match=rf"{unknown!r}.*one of '1\.0', '2\.0'"):
            Predictor(unknown)  # type: ignore[arg-type]
    (versions / "2.0/diagonal_flip.x4.onnx").write_bytes(b"")
    assert Predictor("1.0", model_store=str(versions)).version == "1.0"
    for device in ("tpu", "cuda:99"):
        with pytest.raises(ArtifactError, match=f"Device '{device}' cannot load it"):
            Predictor(device=device)
    with pytest.raises(ArtifactError, match="SHA-256"):
        Predictor("2.0", model_store=versions)
    shutil.rmtree(versions / "2.0")
    with pytest.raises(ModelNotFound):
        Predictor("2.0", model_store=versions)


def test_the_command_predicts_without_a_server(tmp_path: Path, flipping: Predictor) -> None:
    run = CliRunner().invoke
    nowhere = ["--url", "http://127.0.0.1:9", "--model-version", "2.0", "predict", "--local"]
    named = run(app, [*nowhere, "--as", "flips", "--json", "2"])
    assert (named.exit_code, '"flip": "0100"' in named.stdout) == (0, True), named.output
    (tmp_path / "in.bin").write_bytes(bytes(range(256)))
    output = tmp_path / "out.npy"
    files = run(app, [*nowhere, "--input", str(tmp_path / "in.bin"), "--output", str(output)])
    assert files.exit_code == 0, files.output
    wanted = flipping.predict_packed(bytes(range(256)))
    assert np.abs(np.load(output) - wanted).max() <= 1e-6
    picture = run(app, [*nowhere, "--input", "picture.png", "--output", str(output)])
    assert (picture.exit_code, "--local with a picture" in picture.output) == (2, True)


def test_an_interrupted_call_keeps_nobody_waiting(
    flipping: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("diagonalflip.predictor.encode_flips", interrupted)
    try:
        flipping.flip_packed(b"\xb6")
    except KeyboardInterrupt:  # whose traceback has all frames
        assert not flipping._locks[os.getpid()].locked()
    else:
        pytest.fail("it was not interrupted")
