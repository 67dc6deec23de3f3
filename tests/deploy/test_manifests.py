"""What operators deploy, against the real schemas and against the code it deploys."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.batch import COUNTERS, Item
from server.edge import find_haproxy
from server.operations import Health, OperationsServer
from server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".deploy/bin"
SPARE_S = 10
"""For Java to end, after the drain."""

OPERATORS_KINDS = {"ServiceMonitor", "PrometheusRule"}
"""Of the Prometheus operator: no schema of Kubernetes knows them."""

needs_tools = pytest.mark.skipif(not TOOLS.exists(), reason="no .deploy: run `make manifests-test`")
OVERLAYS = ("cpu", "gpu")
KSERVE = ROOT / "deploy/kserve/inference-service.yaml"
COMPOSE = ROOT / "docker/compose.yaml"


def run(*command: str | Path, text: str | None = None) -> str:
    """What a tool prints; fails with it."""
    finished = subprocess.run(
        list(map(str, command)), cwd=ROOT, input=text, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def base() -> dict[str, list[Any]]:
    """The base's documents by kind."""
    found: dict[str, list[Any]] = {}
    for name in load(ROOT / "deploy/kubernetes/base/kustomization.yaml")["resources"]:
        text = (ROOT / "deploy/kubernetes/base" / name).read_text(encoding="utf-8")
        for document in yaml.safe_load_all(text):
            found.setdefault(document["kind"], []).append(document)
    return found


def pod() -> Any:
    return base()["Deployment"][0]["spec"]["template"]["spec"]


def environment(entries: Any) -> dict[str, str]:
    if isinstance(entries, dict):
        return dict(entries)
    return {entry["name"]: entry["value"] for entry in entries}


@needs_tools
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_manifest_fits_the_schema_of_its_kind(overlay: str, tmp_path: Path) -> None:
    built = run(TOOLS / "kubectl", "kustomize", f"deploy/kubernetes/overlays/{overlay}")
    documents = list(yaml.safe_load_all(built))
    assert len(documents) == 9
    known = [document for document in documents if document["kind"] not in OPERATORS_KINDS]
    path = tmp_path / "built.yaml"
    path.write_text(yaml.safe_dump_all(known))
    told = run(TOOLS / "kubernetes-validate", "--strict", path)
    assert "WARN" not in told, told


@needs_tools
def test_a_wrong_manifest_would_be_noticed(tmp_path: Path) -> None:
    deployment = base()["Deployment"][0]
    deployment["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 1
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(deployment))
    with pytest.raises(AssertionError, match="terminationGracePeriodSecond"):
        run(TOOLS / "kubernetes-validate", "--strict", path)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_are_those_that_make_image_builds(overlay: str) -> None:
    version = re.findall(r"ARG VERSION=(\S+)", (ROOT / "docker/Dockerfile").read_text())[0]
    image = load(ROOT / f"deploy/kubernetes/overlays/{overlay}/kustomization.yaml")["images"][0]
    assert image["name"] == pod()["containers"][0]["image"]
    assert image["newTag"] == f"{version}-{overlay}"


def test_ports_are_those_that_the_service_listens_on() -> None:
    settings = Settings()
    ports = {entry["name"]: entry["containerPort"] for entry in pod()["containers"][0]["ports"]}
    assert ports == {"https": settings.edge_port, "operations": settings.operations_port}
    for service in base()["Service"]:
        assert {entry["targetPort"] for entry in service["spec"]["ports"]} <= ports.keys()
    rules = base()["NetworkPolicy"][0]["spec"]["ingress"]
    assert {port["port"] for rule in rules for port in rule["ports"]} == ports.keys()
    assert rules[0].keys() == {"ports"}, "clients reach the edge"
    assert rules[0]["ports"] == [{"port": "https"}]
    assert rules[1]["from"], "not everyone reaches the operations port"
    exposed = re.findall(r"^EXPOSE (.*)$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
    assert set(map(int, exposed[0].split())) == set(ports.values())


def test_labels_find_each_other() -> None:
    kinds = base()
    pairs = load(ROOT / "deploy/kubernetes/base/kustomization.yaml")["labels"][0]
    assert pairs["includeSelectors"], "or Deployment, Service and budget would select nothing"
    labels = pairs["pairs"]
    policy = kinds["NetworkPolicy"][0]["spec"]["podSelector"]["matchLabels"]
    assert policy == labels
    for spread in pod()["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == labels
    monitor = kinds["ServiceMonitor"][0]["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    services = [s for s in kinds["Service"] if wanted <= s["metadata"].get("labels", {}).items()]
    assert len(services) == 1
    names = {port["name"] for port in services[0]["spec"]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} <= names
    target = kinds["HorizontalPodAutoscaler"][0]["spec"]["scaleTargetRef"]
    assert target["name"] == kinds["Deployment"][0]["metadata"]["name"]
    assert pod()["serviceAccountName"] == kinds["ServiceAccount"][0]["metadata"]["name"]


def test_probes_ask_for_paths_that_are_there() -> None:
    operations = OperationsServer(Health())
    container = pod()["containers"][0]
    predictor = load(KSERVE)["spec"]["predictor"]["containers"][0]
    probes = [container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")]
    probes += [predictor[f"{name}Probe"] for name in ("readiness", "liveness")]
    for probe in probes:
        operations.route(Item(), b"GET", probe["httpGet"]["path"].encode())
    for endpoint in base()["ServiceMonitor"][0]["spec"]["endpoints"]:
        operations.route(Item(), b"GET", endpoint["path"].encode())
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= Settings().start_timeout_s


def test_there_is_time_to_drain() -> None:
    spec, settings = pod(), Settings()
    container = spec["containers"][0]
    given = environment(container["env"])
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    least = before + int(given["DRAIN_S"]) + int(given["STOP_S"]) + SPARE_S
    assert least < spec["terminationGracePeriodSeconds"]
    # Endpoints are told within the probe's period and its failures.
    readiness = container["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] <= before + int(
        given["DRAIN_S"]
    )
    predictor = load(KSERVE)["spec"]["predictor"]
    given = environment(predictor["containers"][0]["env"])
    least = int(given["DRAIN_S"]) + int(given["STOP_S"]) + SPARE_S
    assert least < predictor["terminationGracePeriodSeconds"]
    drain_s = int(re.findall(r"DRAIN_S=(\d+)", (ROOT / "docker/Dockerfile").read_text())[0])
    grace = load(COMPOSE)["services"]["one"]["stop_grace_period"]
    assert drain_s + settings.stop_s + SPARE_S < int(grace.removesuffix("s"))
    unit = (ROOT / "deploy/systemd/diagonalflip.service").read_text()
    stop_s = int(re.findall(r"^TimeoutStopSec=(\d+)", unit, re.MULTILINE)[0])
    assert settings.drain_s + settings.stop_s + SPARE_S < stop_s


def test_every_variable_is_a_setting_and_can_be_read() -> None:
    predictor = load(KSERVE)["spec"]["predictor"]["containers"][0]
    for entries in (
        pod()["containers"][0]["env"],
        predictor["env"],
        load(COMPOSE)["x-service"]["environment"],
    ):
        given = environment(entries)
        assert given.keys() <= {name.upper() for name in Settings.__dataclass_fields__}
        Settings.from_environment(given)
    ports = {entry["containerPort"] for entry in predictor["ports"]}
    given = environment(predictor["env"])
    assert ports == {int(given["EDGE_PORT"])} == {predictor["readinessProbe"]["httpGet"]["port"]}
    assert len({given[name] for name in ("PORT", "EDGE_PORT", "DIRECT_PORT")}) == 3


@pytest.mark.parametrize("where", ["deployment", "kserve"])
def test_pods_have_no_rights(where: str) -> None:
    spec = pod() if where == "deployment" else load(KSERVE)["spec"]["predictor"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    user = re.findall(r"^USER (\d+)", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
    assert str(spec["securityContext"]["runAsUser"]) == user[0]


def test_the_autoscaler_has_its_metric() -> None:
    (rule,) = load(ROOT / "deploy/kubernetes/adapter-rule.yaml")["rules"]["custom"]
    (metric,) = base()["HorizontalPodAutoscaler"][0]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]


def test_every_expression_asks_for_metrics_that_exist() -> None:
    ours = set(re.findall(r"^(diagonalflip_\w+)", Health().metrics(), re.MULTILINE))
    known = ours | set(COUNTERS) | {"haproxy_backend_http_responses_total"}
    rules = base()["PrometheusRule"][0]["spec"]["groups"][0]["rules"]
    expressions = [rule["expr"] for rule in rules]
    dashboard = json.loads((ROOT / "docker/compose/grafana/dashboard.json").read_text())
    expressions += [x["expr"] for panel in dashboard["panels"] for x in panel["targets"]]
    adapter = load(ROOT / "deploy/kubernetes/adapter-rule.yaml")["rules"]["custom"][0]
    expressions += [adapter["metricsQuery"], adapter["seriesQuery"]]
    asked = {
        name
        for x in expressions
        for name in re.findall(r"\b(?:direct|diagonalflip|haproxy)_\w+", x)
    }
    assert asked, "no expression at all"
    assert asked <= known


@needs_tools
def test_kserves_own_models_know_all_of_the_inference_service() -> None:
    run(TOOLS / "python", "tests/deploy/kserve_models.py", KSERVE)


@needs_tools
def test_they_would_notice_a_wrong_one(tmp_path: Path) -> None:
    wrong = load(KSERVE)
    wrong["spec"]["predictor"]["minReplica"] = 2
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(wrong))
    with pytest.raises(AssertionError, match="minReplica"):
        run(TOOLS / "python", "tests/deploy/kserve_models.py", path)


def test_the_canary_patches_what_is_there() -> None:
    service = load(KSERVE)
    for step in load(ROOT / "deploy/kserve/canary.yaml"):
        *way, last = step["path"].removeprefix("/").split("/")
        place = service
        for name in way:
            place = place[int(name) if name.isdigit() else name]
        assert step["op"] == "add" or last in place
        place[last] = step["value"]
    predictor = service["spec"]["predictor"]
    assert 0 < predictor["canaryTrafficPercent"] < 100
    assert (
        predictor["containers"][0]["image"]
        != load(KSERVE)["spec"]["predictor"]["containers"][0]["image"]
    )


@needs_tools
def test_compose_is_understood() -> None:
    merged = yaml.safe_dump(load(COMPOSE) | {"x-service": {}})  # aliases and merges written out
    merged = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", merged)  # as without any variable set
    run(TOOLS / "podman-compose", "--file", COMPOSE, "config")
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
    run(find_haproxy(), "-c", "-f", tmp_path / "haproxy.cfg")


@needs_tools
def test_hadolint_has_nothing_to_say() -> None:
    run(TOOLS / "hadolint", "docker/Dockerfile")
