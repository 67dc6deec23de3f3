"""``python -m export``: writes TorchScript, ONNX, archive and manifest to a folder."""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from diagonalflip.errors import DiagonalFlipError
from diagonalflip.wire import WIRE_VERSION
from export import report, verify
from export.archive import MODEL_NAME, digest, write_archive
from export.artifacts import write_onnx, write_torchscript
from export.net import WEIGHTS_FILE, load_net

MANIFEST = "manifest.json"


def export(output: Path, weights_file: Path, version: str) -> dict[str, Any]:
    """Writes every artifact to ``output`` and returns the manifest.

    Files appear under their names only when all of them are proven; until then an
    earlier archive is gone, so that nobody serves what a failed export left behind.

    Raises:
        ArtifactError: The weights cannot be used.
        CertificateError: The artifacts do not agree.
    """
    output.mkdir(parents=True, exist_ok=True)
    names = [f"{MODEL_NAME}.pt", f"{MODEL_NAME}.onnx", f"{MODEL_NAME}.mar"]
    for name in [*names, MANIFEST]:
        (output / name).unlink(missing_ok=True)
    net = load_net(weights_file)
    with tempfile.TemporaryDirectory(dir=output, prefix=".export-") as folder:
        torchscript, onnx_file, archive = (Path(folder) / name for name in names)
        write_torchscript(net, torchscript)
        write_onnx(net, onnx_file)
        forwards = verify.engines(net, torchscript, onnx_file)
        certificate = verify.certify(forwards, verify.reference(net))
        print(report.network_table(net, forwards["torchscript"]))
        print(f"\nCertificate\n{report.certificate_lines(certificate)}")
        members = write_archive(archive, version, torchscript, onnx_file, _json(certificate))
        manifest = _manifest(version, [torchscript, onnx_file, archive], members, certificate)
        for path in (torchscript, onnx_file, archive):
            path.rename(output / path.name)
    (output / MANIFEST).write_bytes(_json(manifest))
    print(f"\nWritten to {output}\n{report.file_lines(manifest['artifacts'])}")
    return manifest


def _manifest(
    version: str, artifacts: list[Path], members: dict[str, bytes], certificate: dict[str, Any]
) -> dict[str, Any]:
    return {
        "model": {"name": MODEL_NAME, "version": version},
        "wire_version": WIRE_VERSION,
        "versions": {
            "torch": torch.__version__.partition("+")[0],
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "artifacts": {path.name: digest(path.read_bytes()) for path in artifacts},
        "archive_members": {name: digest(members[name]) for name in sorted(members)},
        "certificate": certificate,
    }


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode() + b"\n"


def main() -> int:
    """Exports as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("model_store"), help="folder to fill")
    parser.add_argument("--weights", type=Path, default=WEIGHTS_FILE, help="weights to load")
    parser.add_argument("--model-version", type=_version, default="1.0", help="as clients see it")
    arguments = parser.parse_args()
    try:
        export(arguments.output, arguments.weights, arguments.model_version)
    except DiagonalFlipError as error:
        print(f"export failed: {error}", file=sys.stderr)
        return 1
    return 0


def _version(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._-]{0,31}", text):
        raise argparse.ArgumentTypeError(f"{text!r}; expected letters, digits, '.', '_' and '-'")
    return text


if __name__ == "__main__":
    sys.exit(main())
