"""The README's requests give what it shows, and pages name what is there."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from diagonalflip.server.settings import Settings
from tests.conftest import ROOT
from tests.integration.conftest import Server

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
CURLS = [text for language, text in BLOCKS if language == "sh" and "curl" in text]
(ANSWER,) = [text for language, text in BLOCKS if language == "json"]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def run(server: Server, text: str) -> str:
    assert "127.0.0.1:8080" in text
    text = text.replace("127.0.0.1:8080", urllib.parse.urlsplit(server.url).netloc)
    command = ["bash", "-euo", "pipefail", "-c", text.replace("curl ", "curl -sSf ")]
    return subprocess.check_output(command, text=True)


def test_the_first_curl_gives_the_answer_below_it(server: Server) -> None:
    got, shown = json.loads(run(server, CURLS[0])), json.loads(ANSWER)
    assert got.keys() == shown.keys()
    # Other processors may round the last bit otherwise.
    assert np.array(got["predictions"]) == pytest.approx(np.array(shown["predictions"]), abs=1e-6)


def test_the_other_curls_work(server: Server) -> None:
    for text in CURLS[1:]:
        printed = run(server, text)
        assert "0.10" in printed or "cd cc cc 3d" in printed


def test_the_settings_it_names_are_settings() -> None:
    (line,) = [line for line in README.splitlines() if "change a setting" in line]
    names = re.findall(r"`([A-Z_]{4,})`", line)
    assert len(names) >= 4
    assert set(names) <= {each.name.upper() for each in fields(Settings)}


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading).lower() for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_heading_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text):
        folder = ROOT / name.partition("/")[0]
        if folder.is_dir() and folder.name not in ("model_store", "logs"):
            assert (ROOT / name).exists(), name
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", without_code):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target
