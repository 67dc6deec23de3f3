"""What every worker is to serve."""

from __future__ import annotations

import itertools
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from diagonalflip.errors import ParityError
from diagonalflip.server import health
from diagonalflip.server.models.store import Artifacts


class Desired:
    """What every worker is to serve.

    Args:
        versions: Served ones.
        choice: ``default``, ``canary`` and ``percent``.

    Attributes:
        number: Grows with each.
        versions: By name.
        content: As the channel carries it.
    """

    _numbers = itertools.count(1)

    def __init__(self, versions: Mapping[str, Artifacts], choice: Mapping[str, Any]) -> None:
        self.number = next(self._numbers)
        self.versions = dict(versions)
        self.content = {**choice, "versions": [_carried(each) for each in versions.values()]}

    def check(self, answers: Mapping[str, Any], device: str | None) -> None:
        """Compare the answers of a health check, by version, with the certificates.

        Raises:
            ParityError: A version is missing, or an answer is wrong.
        """
        if answers.keys() != self.versions.keys():
            raise ParityError(f"versions {list(answers)}", str(list(self.versions)))
        for version, artifacts in self.versions.items():
            health.check(answers[version], artifacts, device)


def _carried(artifacts: Artifacts) -> dict[str, str]:
    """Return a version as the channel carries it."""
    files = {name: b64encode(content).decode() for name, content in artifacts.files.items()}
    return {"name": artifacts.model, "version": artifacts.version, **files}
