"""Each error is a well-formed problem."""

from __future__ import annotations

import ast
import json
import pickle
import re
from collections.abc import Iterator

import pytest

from diagonalflip import errors
from diagonalflip.errors import DiagonalFlipError
from tests.conftest import ROOT


def real(kind: type[DiagonalFlipError] = DiagonalFlipError) -> Iterator[type[DiagonalFlipError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from real(child)


KINDS = list(real())


def test_every_error_is_found_by_its_code() -> None:
    assert {kind.code: kind for kind in KINDS[1:]}.items() <= errors.KINDS.items()
    assert len({kind.code for kind in KINDS}) == len(KINDS) == 39
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code) for kind in KINDS)


MAY_PASS = {errors.InternalError, errors.ConnectionFailed}
MAY_PASS |= {errors.RateLimited, errors.RequestTimeout, errors.ServerOverloaded}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", ["", "do better"])
def test_a_problem_is_an_rfc_9457_object(kind: type[DiagonalFlipError], action: str) -> None:
    error = pickle.loads(pickle.dumps(kind("this", "that", action)))  # noqa: S301 - our own bytes
    assert type(error) is kind
    problem = json.loads(json.dumps(error.problem()))
    assert problem["type"] == f"urn:diagonalflip:problem:{kind.code}"
    assert problem["title"].lower().replace(" ", "_") == kind.code
    assert problem["status"] == (kind.status or 500)
    assert problem["detail"] == str(error)
    assert problem["code"] == kind.code
    assert (problem["got"], problem["expected"]) == ("this", "that")
    assert problem.get("action", "") == action
    assert kind.retryable == (kind in MAY_PASS)


def test_messages_are_sentences() -> None:
    assert str(DiagonalFlipError("a", "b")) == "A. Expected b."
    assert str(DiagonalFlipError("padding=5", "4.")) == "padding=5. Expected 4."
    assert str(DiagonalFlipError("a", "b", "do c")) == "A. Expected b. Do c."


def test_no_error_is_raised_twice() -> None:
    """An error keeps the frames it was raised in: as a constant, those of every request."""
    folders = ("diagonalflip", "handlers")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 50
    raised = [
        node.exc.id
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name)
    ]
    assert not [name for name in raised if name.isupper()]
