"""What a checkout has to be, whatever the host's settings are."""

from __future__ import annotations

import mimetypes
import subprocess
from pathlib import Path

import pytest

from diagonalflip.server.http.static_files import pages
from tests.conftest import ROOT

is_clone = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False)


@pytest.mark.skipif(is_clone.returncode != 0, reason="this is no clone")
def test_a_clone_with_other_line_ends_has_the_same_bytes(tmp_path: Path) -> None:
    clone = ["git", "clone", "--quiet", "-c", "core.autocrlf=true", f"file://{ROOT}"]
    subprocess.run([*clone, tmp_path / "clone"], check=True)
    for name in ("docker/run.sh", "Makefile", "diagonalflip/vectors/v2.json"):
        assert b"\r" not in (tmp_path / "clone" / name).read_bytes(), name
    picture = "docs/playground-walk.png"
    committed = subprocess.check_output(["git", "show", f"HEAD:{picture}"], cwd=ROOT)
    assert (tmp_path / "clone" / picture).read_bytes() == committed


def test_types_of_pages_are_not_the_host_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """``/etc/mime.types`` may call a script plain text, which a browser does not run."""
    monkeypatch.setattr(mimetypes, "guess_type", lambda *_, **__: ("text/plain", None))
    kinds = {path.rpartition(".")[2]: page.content_type for path, page in pages().items()}
    assert kinds["js"] == "text/javascript; charset=utf-8"
    assert kinds["css"] == "text/css; charset=utf-8"
    assert kinds["/"] == "text/html; charset=utf-8"


def test_pages_allow_nothing_from_elsewhere_and_one_has_inline_styles() -> None:
    for path, page in pages().items():
        rules = page.headers["content-security-policy"].split("; ")
        allowed = {name: what for name, _, what in (rule.partition(" ") for rule in rules)}
        assert allowed["script-src"] == allowed["connect-src"] == "'self'", path
        assert allowed["default-src"] == allowed["frame-ancestors"] == "'none'", path
        inline = " 'unsafe-inline'" if path == "/docs" else ""
        assert allowed["style-src"] == f"'self'{inline}", path
        assert page.headers["x-content-type-options"] == "nosniff", path
