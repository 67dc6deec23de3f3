"""The README's examples give what it shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

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
    (line,) = [line for line in README.splitlines() if "change a setting" in line]
    names = re.findall(r"`([A-Z_]{4,})`", line)
    assert len(names) >= 4
    for name in names:
        assert f"  {name} " in table


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading).lower() for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    for name in re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", page.read_text(encoding="utf-8")):
        folder = ROOT / name.partition("/")[0]
        if folder.is_dir() and folder.name not in ("model_store", "logs"):
            assert (ROOT / name).exists(), name
