"""Every example in Python of the README and docs/client.md runs; only the address is another."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

import pytest

from diagonalflip.wire import pack
from tests.conftest import ROOT
from tests.faults.fake_server import FakeServer, listening

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
CODE = {page: BLOCK.findall((ROOT / page).read_text()) for page in ("README.md", "docs/client.md")}
EXAMPLES = [(page, code) for page, found in CODE.items() for code in found]
COMMENT = re.compile(r"print\(.*\)  # (.*)")


def test_there_are_examples() -> None:
    assert [len(found) for found in CODE.values()] == [1, 6]


@pytest.mark.parametrize(("page", "code"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs_and_prints_what_it_says(
    page: str,
    code: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda *_, **__: None)  # the reader's
    (tmp_path / "images.bin").write_bytes(pack([1, 2, 3, 4]).packed)
    names: dict[str, Any] = {"__name__": "example"}
    with listening(FakeServer().serve) as url:
        located = code.replace("http://127.0.0.1:8080", url)
        exec(compile(located, page, "exec"), names)  # noqa: S102
    assert page != "README.md" or names["predictions"].shape == (3, 4), "as it says"
    printed = capsys.readouterr().out
    for said in COMMENT.findall(code):
        assert said in printed.splitlines()
