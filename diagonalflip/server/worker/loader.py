"""Loads versions of the model from messages of the control channel."""

from __future__ import annotations

import logging
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from diagonalflip.inference.devices import pick_device
from diagonalflip.inference.model import Model
from diagonalflip.inference.service import Service
from diagonalflip.server.http.routes import Served

FILES = ("torchscript", "onnx", "reference")

logger = logging.getLogger(__name__)


def load(
    desired: Mapping[str, Any], loaded: Mapping[str, Any], number: int, workers: int
) -> tuple[Served, dict[str, str]]:
    """Load the desired versions that are missing, and check each on this worker's device.

    Args:
        desired: ``default``, ``canary`` and ``percent``; and ``versions``, each with ``name``,
            ``version`` and, in base64, ``FILES``.
        loaded: Services that are loaded already, by version.
        number: The worker's number, which selects its device.
        workers: Number of workers.

    Returns:
        What can be served; and by version, why one cannot be loaded or predicts wrongly.
    """
    services, faults = dict[str, Any](), dict[str, str]()
    for each in desired["versions"]:
        version = each["version"]
        try:
            if version not in loaded:
                files = {name: b64decode(each[name]) for name in FILES}
                model = Model(each["name"], version, **files)
                services[version] = Service(model, pick_device(number), workers)
            else:
                services[version] = loaded[version]
        except Exception as error:
            logger.exception("version %s cannot be served", version)
            faults[version] = f"version {version}: {type(error).__name__}: {error}"
    return Served(services, desired["default"], desired["canary"], desired["percent"]), faults
