"""The files of one version of the model, as the export made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diagonalflip.errors import ArtifactError

REFERENCE = "reference.json"


@dataclass(frozen=True)
class Model:
    """One version of the model.

    Attributes:
        name: Model name, as in the URL.
        version: Model version.
        torchscript: The network for GPUs.
        onnx: The same for CPUs, several images side by side.
        reference: JSON with the predictions that every device must reproduce, and the weights.
    """

    name: str
    version: str
    torchscript: bytes
    onnx: bytes
    reference: bytes

    @classmethod
    def read(cls, folder: Path, entry: Mapping[str, str]) -> Model:
        """Read an unpacked archive.

        Args:
            folder: The archive.
            entry: The object ``model`` of its manifest.

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
            raise ArtifactError(
                f"{error.filename}: {error.strerror}", "a file of the archive", "run `make export`"
            ) from error
