"""The file of tokens: what is in it, and what is refused."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from diagonalflip.errors import SettingError
from supervisor import tokens
from worker.guard import read_tokens


def test_a_token_is_known_by_its_digest_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    first, second = tokens.add(path, "ci"), tokens.add(path, "batch-jobs")
    digests = [hashlib.sha256(token.encode()).hexdigest() for token in (first, second)]
    assert read_tokens(path) == dict(zip(digests, ["ci", "batch-jobs"], strict=True))
    assert first not in path.read_text()
    assert len(first) >= 43, "256 bits"
    assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0, "others may read it, not add to it"


def test_comments_and_blank_lines_are_no_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# who\n\n{'a' * 64} ci  # since May\n")
    assert read_tokens(path) == {"a" * 64: "ci"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "no token"),
        ("# nobody\n", "no token"),
        ("secret ci\n", "Line 1"),
        (f"{'a' * 64} ci\n{'A' * 64} ci\n", "Line 2"),
        (f"{'a' * 64}\n", "Line 1"),
        (f"{'a' * 64} two names\n", "Line 1"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(SettingError, match=told):
        read_tokens(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="nowhere"):
        read_tokens(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["", "two names", "revoked", "a\nb", "x" * 65])
def test_a_name_that_cannot_be_used_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match="NAME="):
        tokens.add(tmp_path / "tokens", name)
    assert not (tmp_path / "tokens").exists()
