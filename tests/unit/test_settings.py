"""Settings come from the environment, are checked, and are all documented."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from diagonalflip.errors import SettingError
from diagonalflip.server.settings import PACKAGED, Settings, service_links, variable
from tests.conftest import ROOT

LINK = "tcp://10.0.0.7:9090"
SERVICE_LINKS = {"FLIP_DNS_PORT": "udp://10.0.0.7:53", "FLIP_PORT_9090_TCP_PROTO": "tcp"}
SERVICE_LINKS |= dict.fromkeys(("FLIP_PORT", "FLIP_PORT_9090_TCP", "FLIP_GRPC_PORT", "PORT"), LINK)
SERVICE_LINKS |= dict.fromkeys(("FLIP_SERVICE_PORT", "FLIP_SERVICE_PORT_HTTP"), "9090")
SERVICE_LINKS |= dict.fromkeys(("FLIP_SERVICE_HOST", "FLIP_GRPC_SERVICE_HOST"), "10.0.0.7")
"""What Kubernetes sets for Services that are called ``flip``, ``flip-grpc`` and ``flip-dns``."""


def test_every_setting_is_read() -> None:
    """Docker hands on an env file's lines with the blanks and carriage returns at their ends."""
    given = {"HOST": "::1", "PORT": "1", "WORKERS": " 3", "TORCHSERVE": "1 ", "LOG_DIR": "/x\r"}
    read = Settings.from_environment({f"FLIP_{name}": text for name, text in given.items()})
    assert (read.host, read.port, read.workers, read.torchserve) == ("::1", 1, 3, "1")
    assert read.log_dir == Path("/x")


def test_empty_and_plain_names_give_the_defaults() -> None:
    """Conda's compilers set ``HOST``, and Kubernetes one name for each Service."""
    empty = {"FLIP_PORT": "", "FLIP_HOST": "", "PORT": "", "FLIP_WORKER": ""}
    plain = {each.name.upper(): "x86_64-conda-linux-gnu" for each in fields(Settings)}
    for given in ({}, plain | empty):
        assert Settings.from_environment(given) == Settings()


@pytest.mark.parametrize(
    ("given", "port", "public_port"),
    [
        ({}, 9, 8443),
        ({"PORT": "8080", "FLIP_TOKENS_FILE": "t"}, 0, 8080),
        ({"PORT": "8080", "FLIP_TOKENS_FILE": "t", "FLIP_PORT": "8081"}, 8081, 8080),
        ({"FLIP_PORT": "1"}, 1, 8443),
        ({"FLIP_PUBLIC_PORT": "1"}, 9, 1),
        ({"FLIP_TOKENS_FILE": "t"}, 8080, 9),
        ({"FLIP_TOKENS_FILE": "t", "FLIP_PORT": "1"}, 1, 9),
        ({"FLIP_TOKENS_FILE": "t", "FLIP_PUBLIC_PORT": "1"}, 8080, 1),
        ({"FLIP_TOKENS_FILE": "t", "FLIP_PUBLIC_PORT": LINK}, 8080, 9),
        ({"FLIP_TOKENS_FILE": ""}, 9, 8443),
    ],
)
def test_a_platforms_port_is_for_others(given: dict[str, str], port: int, public_port: int) -> None:
    """That of most platforms, 8080, leaves another to the HTTP listener."""
    read = Settings.from_environment({"PORT": "9"} | given)
    assert (read.port, read.public_port) == (port, public_port)


def test_a_folder_that_may_not_be_entered_has_no_model_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as root's, if ``sudo -u`` starts the service from there."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as there:
        there.setattr(os, "stat", denied)
        found = Settings().versions
    assert found == PACKAGED


def test_variables_of_services_are_no_settings() -> None:
    assert Settings.from_environment(SERVICE_LINKS) == Settings()
    told = service_links(SERVICE_LINKS | {"METRICS_PORT": LINK, "FLIP_WORKERS": "1"})
    assert told == sorted(f"{name}={value}" for name, value in SERVICE_LINKS.items())


UNKNOWN = r" in the environment is no setting\. .* the nearest is "
RANGE = r" in the environment\. Expected a whole number, "


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("FLIP_WORKER", "1", UNKNOWN + "FLIP_WORKERS"),
        ("FLIP_TOKEN_FILE", "1", UNKNOWN + "FLIP_TOKENS_FILE"),
        ("FLIP_workers", "1", UNKNOWN + "FLIP_WORKERS"),
        ("FLIP_", "1", UNKNOWN + "FLIP_"),
        ("FLIP_X_PORT", "1", UNKNOWN + r"FLIP_\w*PORT"),
        ("PORT", "65536", "=65536" + RANGE + "0 to 65535"),
        *(
            ("FLIP_PORT", value, f"={value}{RANGE}0 to 65535")
            for value in ("65536", "9" * 5000, "-1", "80 80", "٨", "http://10.0.0.7:9090")
        ),
        ("FLIP_HEALTH_CHECK_INTERVAL_S", "0", "=0" + RANGE + "1 to 3600"),
        ("FLIP_DEGRADED_AFTER_S", "3601", "=3601" + RANGE + "0 to 3600"),
        *(("FLIP_WORKERS", value, f"={value}{RANGE}0 to 1024") for value in ("two", LINK)),
        *(
            ("FLIP_TORCHSERVE", value, f"={value} in the environment. Expected 0 or 1, or nothing")
            for value in ("yes", "2", "01")
        ),
        ("FLIP_LOG_FORMAT", "xml", "=xml in the environment. Expected text or json"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_may_be(name: str, value: str, told: str) -> None:
    with pytest.raises(SettingError, match=f"^{name}{told}"):
        Settings.from_environment({name: value})


def test_where_a_value_comes_from() -> None:
    settings = Settings(port=9, tokens_file=Path("t"))
    assert settings.told("port", {}) == "FLIP_PORT=9"
    assert settings.told("port", {"FLIP_PORT": "9"}) == "FLIP_PORT=9 in the environment"
    assert settings.told("port", {"PORT": "9"}) == "PORT=9 in the environment"


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["PORT=9"], {}, {"FLIP_PORT": "9"}),
        (["PORT=9"], {"FLIP_PORT": "8", "PORT": "7"}, {"FLIP_PORT": "9"}),
        ([], {"FLIP_PORT": "8", "PORT": "7"}, {"FLIP_PORT": "8", "PORT": "7"}),
        (["FLIP_PORT=9"], {}, {"FLIP_PORT": "9"}),
        (["LOG_DIR=a b$$c\"'"], {"LOG_DIR": "x"}, {"FLIP_LOG_DIR": "a b$c\"'"}),
        (["WORKER=9"], {}, {"FLIP_WORKER": "9"}),
        (["MODEL_STORE=/x"], {"FLIP_MODEL_STORE": "/y"}, {"FLIP_MODEL_STORE": "/x"}),
        ([], {"FLIP_MODEL_STORE": "/y", "MODEL_STORE": "/z"}, {"FLIP_MODEL_STORE": "/y"}),
    ],
)
def test_what_is_given_to_make_by_its_plain_name_reaches_the_service(
    arguments: list[str], environment: dict[str, str], expected: dict[str, str], tmp_path: Path
) -> None:
    makefile = (ROOT / "Makefile").read_text()
    makefile = makefile.replace("exec $(BIN)/python -m diagonalflip.server\n", "env -0\n")
    (tmp_path / "Makefile").write_text(makefile)
    same = ["installed", *(f"export/weights-{each}.json" for each in ("1.0", "2.0"))]
    assumed = [f"--assume-old={each}" for each in same]
    command = ["make", "serve", *assumed, f"PYTHON={sys.executable}", *arguments]
    variables = {"PATH": os.environ["PATH"]} | environment
    found = subprocess.check_output(command, cwd=tmp_path, env=variables, text=True)
    variables = dict(each.split("=", 1) for each in found.split("\0") if "=" in each)
    reached = {name for name in variables if name.startswith("FLIP_") or name == "PORT"}
    given = {"FLIP_MODEL_STORE": "model_store"} | expected
    assert {name: variables[name] for name in reached} == given


def test_docs_and_manifests_name_settings_as_they_are() -> None:
    known = {variable(each.name) for each in fields(Settings)}
    paths = [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md")]
    paths += [path for name in ("deploy", "docker") for path in ROOT.glob(f"{name}/**/*.*")]
    named = {name for path in paths for name in re.findall(r"\bFLIP_[A-Z]\w*", path.read_text())}
    assert len(named) > 20
    assert named <= known


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.2", "127.0.0.2"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "127.0.0.1"),
        ("::1", "[::1]"),
        ("fe80::1", "[fe80::1]"),
    ],
)
def test_the_urls_are_some_that_this_machine_can_reach(host: str, reached: str) -> None:
    settings = Settings(host=host, admin_host=host)
    assert settings.public_url == f"http://{reached}:8443"
    assert settings.admin_url == f"http://{reached}:8083"
    assert settings.public_address == reached.strip("[]")


def test_only_the_public_listener_and_the_admin_port_ever_leave_loopback() -> None:
    settings = Settings(host="10.0.0.1", admin_host="10.0.0.2")
    public = {name for name in Settings.ports() if settings.host_of(name) != "127.0.0.1"}
    assert public == {"public_port", "admin_port"}


def test_make_help_lists_every_target_and_setting_without_any_package(tmp_path: Path) -> None:
    """By a Python that is too old, what can be made."""
    python = tmp_path / "python3"
    code = "import sys, runpy; sys.path.insert(0, '.'); "
    code += "runpy.run_module('diagonalflip.server.settings', run_name='__main__')"
    listed = [f"  {entry.name.upper()} " for entry in fields(Settings)]
    for script, settings in ((f'exec {sys.executable} -I -S -c "{code}"', listed), ("exit 1", [])):
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        made = ["make", f"PYTHON={python}"]
        finished = subprocess.run(made, cwd=ROOT, capture_output=True, text=True, check=True)
        targets = [f"\n  {name} " for name in ("serve", "test", "lint", "clean", "gpu-check")]
        assert [each for each in [*targets, *settings] if each not in finished.stdout] == []
        assert finished.stderr == ""
