"""Loads versions of the model from what the control channel brings."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from diagonalflip.inference.devices import pick_device
from diagonalflip.inference.model import Model
from diagonalflip.inference.service import Service
from diagonalflip.server.http.routes import Served

FILES = ("torchscript", "onnx", "reference")


def load(
    desired: Mapping[str, Any], loaded: Mapping[str, Any], number: int, workers: int
) -> Served:
    """Load the desired versions that are missing, and check each on this worker's device.

    Args:
        desired: ``default``, ``canary`` and ``percent``; and ``versions``, each with ``name``,
            ``version`` and, in base64, ``FILES``.
        loaded: Services that are there already, by version.
        number: The worker's, which chooses its device.
        workers: How many there are.

    Raises:
        ArtifactError: A version cannot be loaded, or its predictions are wrong.
    """
    services = {}
    for each in desired["versions"]:
        version = each["version"]
        if version not in loaded:
            files = {name: b64decode(each[name]) for name in FILES}
            model = Model(each["name"], version, **files)
            services[version] = Service(model, pick_device(number), workers)
        else:
            services[version] = loaded[version]
    return Served(services, desired["default"], desired["canary"], desired["percent"])
