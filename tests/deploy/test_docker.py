"""Compose file, balancer and Dockerfile, as their own tools see them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from drills.cluster import HAPROXY
from tests.deploy.files import COMPOSE, ROOT, TOOLS, load, needs_tools, run


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


def test_what_compose_mounts_is_there() -> None:
    for service in load(COMPOSE)["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (COMPOSE.parent / source).exists(), source


def test_the_balancer_of_compose_is_understood_by_haproxy(tmp_path: Path) -> None:
    key = ("-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key.pem")
    run("openssl", "req", "-x509", *key, "-out", tmp_path / "cert.pem", "-subj", "/CN=x")
    pem = tmp_path / "edge.pem"
    pem.write_text((tmp_path / "cert.pem").read_text() + (tmp_path / "key.pem").read_text())
    text = (ROOT / "docker/compose/haproxy.cfg").read_text().replace("/run/edge.pem", str(pem))
    (tmp_path / "haproxy.cfg").write_text(text)
    run(HAPROXY, "-c", "-f", tmp_path / "haproxy.cfg")


@needs_tools
def test_hadolint_has_nothing_to_say() -> None:
    run(TOOLS / "hadolint", "docker/Dockerfile")
