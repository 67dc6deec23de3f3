"""The files of one version of the model, as the export made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diagonalflip.errors import ArtifactError

REFERENCE = "reference.json"


@dataclass(frozen=True)
class Model:
    """One version of the model."""

    name: str
    version: str
    torchscript: bytes
    """The network for GPUs."""
    onnx: bytes
    """The same for CPUs, several images side by side."""
    reference: bytes
    """JSON with the predictions that every device must reproduce, and the weights."""

    @classmethod
    def read(cls, folder: Path, entry: Mapping[str, str]) -> Model:
        """Read an unpacked archive; ``entry`` is the object ``model`` of its manifest.

        Raises:
            ArtifactError: A file is missing.
        """
        torchscript = folder / entry["serializedFile"]
        try:
            return cls(
                entry["modelName"],
                entry["modelVersion"],
                torchscript.read_bytes(),
                torchscript.with_suffix(".x4.onnx").read_bytes(),
                (folder / REFERENCE).read_bytes(),
            )
        except OSError as error:
            got = f"{error.filename}: {error.strerror}"
            raise ArtifactError(got, "a file of the archive", "run `make export`") from error
