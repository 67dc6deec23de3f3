"""Every golden vector that the package ships, against the running server.

That wrong answers do not pass is shown in ``tests/unit/test_cli_check.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from diagonalflip.cli import vectors
from diagonalflip.cli.target import Target
from tests.integration.conftest import Server

VECTORS = list(vectors.vectors())


@pytest.mark.both_ports
@pytest.mark.parametrize(
    ("file", "vector"),
    [pytest.param(file, vector, id=f"{name}: {vector['name']}") for name, file, vector in VECTORS],
)
def test_vector(server: Server, file: Mapping[str, Any], vector: vectors.Vector) -> None:
    with Target(server.base, token=None, ca=None, deadline_s=60).raw() as raw:
        vectors.check(raw, file, vector)


def test_vectors_promise_each_thing_once() -> None:
    names = Counter((name, vector["name"]) for name, _, vector in VECTORS)
    assert names.most_common(1)[0][1] == 1


def test_every_error_that_a_client_can_provoke_has_a_vector() -> None:
    codes = {vector["response"].get("code") for name, _, vector in VECTORS if name == "predictions"}
    assert codes - {None} == {
        "empty_payload",
        "invalid_padding",
        "invalid_json",
        "invalid_image",
        "invalid_text",
        "invalid_picture",
        "not_acceptable",
        "model_mismatch",
        "too_many_images",
        "unsupported_media_type",
        "unsupported_coding",
    }
