"""Every example of docs/client.md runs as it stands; only the address is another."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest

from diagonalflip.wire import pack
from tests.faults.fake_server import FakeServer, listening

PAGE = Path(__file__).resolve().parents[2] / "docs" / "client.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
COMMENT = re.compile(r"print\(.*\)  # (.*)")


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 6


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs_and_prints_what_it_says(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda *_: None)  # the reader's files
    (tmp_path / "images.bin").write_bytes(pack([1, 2, 3, 4]).packed)
    with listening(FakeServer().serve) as url:
        code = EXAMPLES[number].replace("http://127.0.0.1:8080", url)
        exec(compile(code, f"{PAGE.name}[{number}]", "exec"), {"__name__": "example"})  # noqa: S102
    printed = capsys.readouterr().out
    for said in COMMENT.findall(EXAMPLES[number]):
        assert said in printed.splitlines()
