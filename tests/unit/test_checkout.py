"""What a checkout has to be, whatever the host's settings are."""

from __future__ import annotations

import mimetypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diagonalflip.server.http.static_files import pages
from export.release import _git as git
from tests.conftest import ROOT

SIGNATURE = "\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n -----END PGP SIGNATURE-----\n\n"

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


def test_a_release_is_of_its_checkout_whatever_git_is_set_to(tmp_path: Path) -> None:
    """A signature would be part of the commit's date, and untracked weights part of a release."""
    gpg = tmp_path / "gpg"
    gpg.write_text("#!/bin/sh\necho gpg: Signature made >&2\n")
    gpg.chmod(0o755)
    settings = {"user.name": "a", "user.email": "b", "log.showSignature": "true"}
    settings |= {"status.showUntrackedFiles": "no", "gpg.program": str(gpg)}
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for setting in settings.items():
        git("config", *setting, at=tmp_path)
    git("commit", "--quiet", "--allow-empty", "--message", "c", "--no-gpg-sign", at=tmp_path)
    signed = git("cat-file", "commit", "HEAD", at=tmp_path).replace("\n\n", SIGNATURE)
    (tmp_path / "commit").write_text(signed)
    commit = git("hash-object", "-w", "-t", "commit", "commit", at=tmp_path)
    git("reset", "--quiet", commit, at=tmp_path)
    assert git("log", "-1", "--format=%ct", at=tmp_path).isdecimal()
    assert "?? gpg" in git("status", "--porcelain", at=tmp_path)
    (tmp_path / "unpacked").mkdir()
    with pytest.raises(subprocess.CalledProcessError):
        git("rev-parse", "HEAD", at=tmp_path / "unpacked")


def test_a_python_that_cannot_read_the_installer_is_named(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    as_old = "import sys; sys.version_info = (3, 6, 15); exec(sys.argv[1])"
    runs = f"""exec '{sys.executable}' -c '{as_old}' "$2" """
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && {runs}\necho SyntaxError >&2; exit 1\n')
    python.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    made = ["make", "installed", f"PYTHON={python}"]
    finished = subprocess.run(made, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "install Python 3.11 or newer" in finished.stderr
    assert "SyntaxError" not in finished.stderr


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
