"""Write TorchScript, ONNX, archive and manifest to a folder: ``python -m export``."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from diagonalflip.errors import ParityError
from diagonalflip.inference.model import REFERENCE
from diagonalflip.wire import MODEL, WIRE_VERSION
from export import ending, summary, verify
from export.archive import digest, write_archive
from export.net import WEIGHTS_FILE, DiagonalFlipNet, load_net, side_by_side
from export.write import write_onnx, write_torchscript

MANIFEST = "manifest.json"
NAMES = (f"{MODEL}.pt", f"{MODEL}.onnx", f"{MODEL}.x4.onnx", f"{MODEL}.mar", REFERENCE, MANIFEST)


def export(output: Path, weights_file: Path, version: str) -> None:
    """Write every artifact to ``output``.

    They appear under their names only after all have been checked; each replaces an earlier one
    atomically. If a check fails, earlier artifacts are removed, so that they are not served.

    Raises:
        ArtifactError: The weights cannot be used.
        ParityError: The artifacts do not agree.
        OSError: ``output`` cannot be written.
    """
    net = load_net(weights_file)
    output.mkdir(parents=True, exist_ok=True)
    with _alone_in(output):
        for left in output.glob(".export-*"):  # of one that was killed
            shutil.rmtree(left)
        try:
            with tempfile.TemporaryDirectory(dir=output, prefix=".export-") as folder:
                artifacts = _write(net, version, Path(folder))
                for name in NAMES:
                    (Path(folder) / name).replace(output / name)
        except ParityError:
            for name in NAMES:
                (output / name).unlink(missing_ok=True)
            raise
    print(f"\nWritten to {output}\n{summary.file_lines(artifacts)}")


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait for other exports to ``folder``, and let none begin meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(net: DiagonalFlipNet, version: str, folder: Path) -> dict[str, Any]:
    """Write and compare all artifacts; return their sizes and digests."""
    # torch warns about its own internals, and about TorchScript, which TorchServe needs.
    warnings.simplefilter("ignore")
    *files, manifest_file = (folder / name for name in NAMES)
    torchscript, onnx_file, x4_file, archive, reference_file = files
    write_torchscript(net, torchscript)
    write_onnx(net, onnx_file)
    write_onnx(side_by_side(net, 4), x4_file)
    forwards = verify.engines(net, torchscript, onnx_file, x4_file)
    reference = verify.reference(net)
    parity_report = verify.parity_report(forwards, reference)
    print(summary.network_table(net, forwards["torchscript"]))
    print(f"\nParity report\n{summary.parity_report_lines(parity_report)}")
    # The archive has no measurements, so it is the same on every machine.
    checked_by = {
        "predictions": reference.tolist(),
        "weights": {name: tensor.tolist() for name, tensor in net.state_dict().items()},
        "flips": parity_report["flips"],
    }
    _write_json(checked_by, reference_file)
    members = write_archive(archive, version, [torchscript, x4_file, reference_file])
    artifacts = {path.name: digest(path.read_bytes()) for path in files}
    manifest = {
        "model": {
            "name": MODEL,
            "version": version,
            "hidden": net.layer1.out_features,
            "parameters": sum(tensor.numel() for tensor in net.parameters()),
        },
        "wire_version": WIRE_VERSION,
        "versions": {
            "torch": torch.__version__.partition("+")[0],
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "artifacts": artifacts,
        "archive_members": {name: digest(members[name]) for name in sorted(members)},
        "parity_report": parity_report,
    }
    _write_json(manifest, manifest_file)
    return artifacts


def _write_json(document: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Export as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("model_store"), help="folder to fill")
    parser.add_argument("--weights", type=Path, default=WEIGHTS_FILE, help="weights to load")
    parser.add_argument(
        "--model-version", type=model_version, default="1.0", help="as clients see it"
    )
    arguments = parser.parse_args()
    with ending("export"):
        try:
            export(arguments.output, arguments.weights, arguments.model_version)
        except OSError as error:  # an error while writing names no file
            sys.exit(f"export failed: {error.filename or arguments.output}: {error.strerror}")


def model_version(text: str) -> str:
    """Return ``text`` if it can be a model's version.

    Raises:
        ArgumentTypeError: It is not one.
    """
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._-]{0,31}", text):
        raise argparse.ArgumentTypeError(f"{text!r}; expected letters, digits, '.', '_' and '-'")
    return text


if __name__ == "__main__":
    main()
