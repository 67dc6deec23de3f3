"""Compose file, balancer and Dockerfile, as their own tools see them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from benchmarks.running import certify, variables
from tests.conftest import execute
from tests.deploy.files import COMPOSE, ROOT, TOOLS, load, needs_tools, run
from tests.drills.cluster import HAPROXY


@needs_tools
@pytest.mark.skipif(not shutil.which("podman"), reason="podman-compose needs podman")
def test_podman_compose_reads_compose() -> None:
    run(TOOLS / "podman-compose", "--file", COMPOSE, "config")


@needs_tools
def test_compose_is_understood() -> None:
    merged = yaml.safe_dump(load(COMPOSE) | {"x-service": {}})  # aliases and merges written out
    merged = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", merged)  # as without any variable set
    code = "import sys; from compose_spec import PyCompose; "
    code += "PyCompose.from_yaml(sys.stdin.read()).validate()"
    run(TOOLS / "python", "-c", code, text=merged)


def test_all_of_compose_starts_again_with_its_host() -> None:
    """``on-failure`` is for failures: after a restart of the engine they would stay down."""
    services = load(COMPOSE)["services"].values()
    assert {each["restart"] for each in services} == {"unless-stopped"}
    assert all("max-size" in each["logging"]["options"] for each in services), "for a full disk"


def test_what_compose_mounts_is_there() -> None:
    for service in load(COMPOSE)["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (COMPOSE.parent / source).exists(), source


def test_secrets_of_compose_are_mounted_as_folders() -> None:
    """A file of its own would go on as it was, when another one is put in its place."""
    settings = load(COMPOSE)["x-service"]["environment"]
    paths = [settings["FLIP_TOKENS_FILE"]]
    paths += re.findall(r"\bcrt (\S+)", (ROOT / "docker/compose/haproxy.cfg").read_text())
    mounted = [
        each.removesuffix(":ro").rpartition(":")[2]
        for service in load(COMPOSE)["services"].values()
        for each in service.get("volumes", [])
    ]
    assert len(paths) == 2
    for path in paths:
        assert path not in mounted
        assert str(Path(path).parent) in mounted


def run_image(**settings: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``docker/run.sh`` with an engine that prints its arguments."""
    given = variables({name: str(value) for name, value in settings.items()})
    given |= {"PATH": os.environ["PATH"], "ENGINE": "echo", "TARGET": "cpu"}
    alone = ("env", "-i", *(f"{name}={value}" for name, value in given.items()))
    return execute(*alone, "docker/run.sh")


def test_the_image_gets_files_by_their_folders(tmp_path: Path) -> None:
    names = {"TOKENS_FILE": "access/tokens", "TLS_CERT": "tls/chain.pem", "TLS_KEY": "tls/key.pem"}
    given = {setting: tmp_path / name for setting, name in names.items()}
    for path in given.values():
        path.parent.mkdir(exist_ok=True)
        path.touch()
    words = run_image(TMPDIR=tmp_path, **given).stdout.split()
    for setting, path in given.items():
        assert f"{path.parent}:/run/files/{setting}:ro" in words
        assert f"FLIP_{setting}=/run/files/{setting}/{path.name}" in words


def test_files_whose_folder_must_not_be_mounted_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/1.pem").touch()
    link = tmp_path / "live/chain.pem"  # as certbot's
    link.parent.mkdir()
    link.symlink_to("../archive/1.pem")
    checkout, missing = ROOT / "pyproject.toml", tmp_path / "tokens"
    for path, told in ((checkout, "the checkout"), (missing, "not there"), (link, "out of its")):
        finished = run_image(TOKENS_FILE=path, TMPDIR=tmp_path)
        assert finished.returncode == 2
        assert told in finished.stderr
        assert "docs/container.md" in finished.stderr


def test_the_image_of_an_unpacked_archive_has_no_revision_of_a_repository_around_it(
    tmp_path: Path,
) -> None:
    commit = ["-c", "user.name=a", "-c", "user.email=b", "commit", "--allow-empty", "-m", "c"]
    for words in (["init"], commit):
        run("git", "-C", tmp_path, *words)
    for name in ("docker", "requirements", "export"):
        shutil.copytree(ROOT / name, tmp_path / "unpacked" / name)
    environment = os.environ | {"ENGINE": "echo", "CONTAINERS_CONF": "/dev/null"}
    build = [tmp_path / "unpacked/docker/build.sh"]
    printed = subprocess.run(build, env=environment, capture_output=True, text=True, check=True)
    assert " REVISION=unknown " in printed.stdout


def test_the_balancer_of_compose_is_understood_by_haproxy(tmp_path: Path) -> None:
    certificate, key = certify(tmp_path)
    pem = tmp_path / "edge.pem"
    pem.write_text(certificate.read_text() + key.read_text())
    text = (ROOT / "docker/compose/haproxy.cfg").read_text().replace("/run/tls/edge.pem", str(pem))
    (tmp_path / "haproxy.cfg").write_text(text)
    run(HAPROXY, "-c", "-f", tmp_path / "haproxy.cfg")


@needs_tools
def test_hadolint_has_nothing_to_say() -> None:
    run(TOOLS / "hadolint", "docker/Dockerfile")
