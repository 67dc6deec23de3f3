"""What the README shows is what happens."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.parse

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.integration.conftest import Server

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
CURLS = [text for language, text in BLOCKS if language == "sh" and "curl" in text]
(PYTHON,) = [text for language, text in BLOCKS if language == "python"]
(ANSWER,) = [text for language, text in BLOCKS if language == "json"]


def at(server: Server, text: str) -> str:
    """``text`` with the address of the running server."""
    address = urllib.parse.urlsplit(server.url).netloc
    assert "127.0.0.1:8080" in text
    return text.replace("127.0.0.1:8080", address)


def shell(text: str) -> str:
    command = ["bash", "-euo", "pipefail", "-c", text.replace("curl ", "curl -sSf ")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_first_curl_gives_the_answer_below_it(server: Server) -> None:
    got, shown = (json.loads(text) for text in (shell(at(server, CURLS[0])), ANSWER))
    assert got.keys() == shown.keys()
    # Other processors may round the last bit otherwise.
    assert np.array(got["predictions"]) == pytest.approx(np.array(shown["predictions"]), abs=1e-6)


@pytest.mark.parametrize("index", range(1, len(CURLS)))
def test_the_other_curls_work(server: Server, index: int) -> None:
    text = at(server, CURLS[index])
    assert "0.10" in shell(text) or "cd cc cc 3d" in shell(text)


def test_the_python_example_works(server: Server) -> None:
    result = subprocess.run(
        [sys.executable, "-c", at(server, PYTHON) + "\nprint(predictions.shape)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "(3, 4)\n"


def test_the_settings_it_names_are_settings() -> None:
    table = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    section = README.split("## Settings")[1].split("\n## ")[0]
    for name in re.findall(r"`([A-Z_]{4,})`", section):
        assert name in table or name == "JAVA_HOME"


def test_every_file_it_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
