"""The file of tokens: what is in it, and what is rejected."""

from __future__ import annotations

import hashlib
import stat
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from diagonalflip.errors import SettingError
from diagonalflip.server.http.authentication import read_tokens
from diagonalflip.server.supervisor import tokens
from tests.conftest import ROOT


def test_a_token_is_known_by_its_digest_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    first, second = tokens.add(path, "ci"), tokens.add(path, "batch-jobs")
    digests = [hashlib.sha256(token.encode()).hexdigest() for token in (first, second)]
    assert read_tokens(path) == dict(zip(digests, ["ci", "batch-jobs"], strict=True))
    assert first not in path.read_text()
    assert len(first) >= 43, "256 bits"
    assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0, "others may read it, not add to it"


@pytest.mark.parametrize("begin", ["# who\n\n", "\ufeff", "\ufeff# für Zürich\r\n"])
def test_comments_blank_lines_and_a_last_line_without_an_end_are_read(
    tmp_path: Path, begin: str
) -> None:
    """Editors of Windows begin a file with a byte order mark."""
    path = tmp_path / "tokens"
    path.write_text(f"{begin}{'a' * 64} ci  # since May")
    tokens.add(path, "other")
    assert list(read_tokens(path).values()) == ["ci", "other"]
    assert tokens.lines_of(path, "ci")


def test_a_token_that_a_line_revokes_is_revoked(tmp_path: Path) -> None:
    """Whoever adds that line may leave the other one, above it or below."""
    lines = [f"{'a' * 64} ci\n", f"{'a' * 64} revoked\n"]
    for content in (lines, lines[::-1]):
        (tmp_path / "tokens").write_text("".join(content))
        assert read_tokens(tmp_path / "tokens") == {"a" * 64: "revoked"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "tokens: No such file"),
        ("", "no token"),
        ("# nobody\n", "no token"),
        ("secret ci\n", "Line 1"),
        (f"{'a' * 64} ci\n{'A' * 64} ci\n", "Line 2"),
        (f"{'a' * 64}\n", "Line 1"),
        (f"{'a' * 64} two names\n", "Line 1"),
    ],
)
def test_a_file_of_another_form_is_rejected(tmp_path: Path, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / "tokens").write_text(content)
    with pytest.raises(SettingError, match=told):
        read_tokens(tmp_path / "tokens")


@pytest.mark.parametrize("name", ["", "two names", "revoked", "a\nb", "x" * 65])
def test_a_name_that_cannot_be_used_is_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match="NAME="):
        tokens.add(tmp_path / "tokens", name)
    assert not (tmp_path / "tokens").exists()


def make_token(path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLIP_TOKENS_FILE", str(path))
        patch.setenv("NAME", name)
        assert tokens.main() == 0
    return capsys.readouterr()


def test_tokens_that_go_on_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "access/tokens"
    printed, told = make_token(path, "a", capsys)
    assert (len(printed.split()), told) == (1, "")
    assert make_token(path, "b", capsys)[1] == ""
    for older, lines in ((1, "line 1"), (2, "lines 1 and 3"), (3, "lines 1, 3 and 4")):
        printed, told = make_token(path, "a", capsys)
        assert len(printed.split()) == 1, "the token alone, for scripts"
        assert told.startswith(f"{older + 1} tokens of a are valid now")
        assert f"Delete {lines} of {path}" in told
    path.write_text(f"{'a' * 64} revoked  # a\n")
    assert make_token(path, "a", capsys)[1] == ""
    assert make_token(Path("/dev/null"), "a", capsys)[1] == "", "it is kept nowhere"


@pytest.mark.parametrize("name", ["tokens", "operators", "key.pem", "tls/edge.pem", "a/server.key"])
def test_secrets_reach_neither_git_nor_an_image(name: str) -> None:
    checked = subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False)
    assert checked.returncode == 0
    excluded = (ROOT / ".dockerignore").read_text().splitlines()
    last_admission = max(i for i, line in enumerate(excluded) if line.startswith("!"))
    patterns = [line.removeprefix("**/") for line in excluded[last_admission:]]
    assert any(fnmatch(Path(name).name, pattern) for pattern in patterns)
