"""The versions that every worker is to serve."""

from __future__ import annotations

import itertools
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from diagonalflip.errors import ParityError
from diagonalflip.server import health
from diagonalflip.server.models.choice import Choice
from diagonalflip.server.models.store import Artifacts


class Desired:
    """The versions that every worker is to serve, and which of them is default and canary.

    There is no canary if it is not among the versions.

    Attributes:
        number: Unique and ascending.
        content: The message of the control channel.
    """

    _numbers = itertools.count(1)

    def __init__(self, versions: Mapping[str, Artifacts], choice: Choice) -> None:
        self.number = next(self._numbers)
        if choice.canary not in versions:
            choice = replace(choice, canary=None, percent=0)
        self.versions, self.choice = dict(versions), choice
        carried = [
            {"name": each.model, "version": each.version}
            | {name: b64encode(content).decode() for name, content in each.files.items()}
            for each in versions.values()
        ]
        self.content = asdict(choice) | {"versions": carried}

    def check(self, answers: Mapping[str, Any], device: str | None) -> None:
        """Compare a worker's answers to a health check with the parity reports.

        Args:
            answers: By version, as in ``http.routes.Answers``.
            device: ``cuda`` if a GPU is required; None accepts any.

        Raises:
            ParityError: A version is missing, or an answer is wrong.
        """
        if answers.keys() != self.versions.keys():
            raise ParityError(f"versions {list(answers)}", str(list(self.versions)))
        for version, artifacts in self.versions.items():
            answer = answers[version]
            if answer["status"] != 200:
                raise ParityError(f"status {answer['status']}", "200")
            if answer["digest"] != artifacts.digest:
                raise ParityError(f"model {answer['digest']} answered", artifacts.digest)
            if device not in (None, answer["device"]):
                raise ParityError(
                    f"the answer was computed on {answer['device']}",
                    f"{device}, as FLIP_REQUIRE_GPU=1 says",
                    "see whether torch.cuda.is_available(), or set FLIP_REQUIRE_GPU=0",
                )
            health.compare(bytes.fromhex(answer["predictions"]), artifacts)
