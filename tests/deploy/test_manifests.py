"""Check manifests against the real schemas and against the code that they deploy."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from diagonalflip import __version__
from diagonalflip.message import Request
from diagonalflip.server.http.authentication import HEALTH
from diagonalflip.server.settings import PREFIX, Settings
from diagonalflip.server.supervisor.admin import AdminServer, Health
from diagonalflip.server.supervisor.metrics import Page
from diagonalflip.server.supervisor.workers import RESULTS
from diagonalflip.server.worker.metrics import Metrics
from tests.deploy import knative
from tests.deploy.files import COMPOSE, ROOT, TOOLS, load, needs_tools, run

SERVERLESS = ROOT / "deploy/kserve/serverless/inference-service.yaml"
SPARE_S = 10  # for Java to end, after the drain
OPERATORS_KINDS = {"ServiceMonitor", "PrometheusRule"}
"""Of the Prometheus operator: no schema of Kubernetes knows them."""

OLDEST = "1.25"  # the oldest Kubernetes that we claim to run on, and the oldest schema at hand
OVERLAYS = ("cpu", "gpu", "openshift")


def built(folder: str) -> list[Any]:
    """Return the documents that kustomize makes of a folder of ``deploy``."""
    return list(yaml.safe_load_all(run(TOOLS / "kubectl", "kustomize", f"deploy/{folder}")))


def serverless() -> Any:
    return load(SERVERLESS)["spec"]["predictor"]


def environment(entries: Any) -> dict[str, str]:
    if isinstance(entries, dict):
        return dict(entries)
    return {entry["name"]: entry["value"] for entry in entries}


def dockerfile(pattern: str) -> str:
    """Return the first match in the Dockerfile."""
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    return str(re.findall(pattern, text, re.MULTILINE)[0])


def image_settings(entries: Any) -> Settings:
    drain = {"FLIP_DRAIN_S": dockerfile(r"FLIP_DRAIN_S=(\d+)")}
    return Settings.from_environment(drain | environment(entries))


def stop_timeout_s(settings: Settings) -> int:
    return settings.drain_s + settings.stop_timeout_s + SPARE_S


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


@needs_tools
@pytest.mark.parametrize("version", [("-k", OLDEST), ()], ids=["oldest", "newest"])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_fit_their_schema(overlay: str, version: tuple[str, ...], tmp_path: Path) -> None:
    documents = built(f"kubernetes/overlays/{overlay}")
    assert len(documents) == 9
    known = [document for document in documents if document["kind"] not in OPERATORS_KINDS]
    path = tmp_path / "documents.yaml"
    path.write_text(yaml.safe_dump_all(known))
    told = run(TOOLS / "kubernetes-validate", "--strict", *version, path)
    assert "WARN" not in told, told


def test_the_oldest_version_is_the_one_that_we_claim() -> None:
    for path in ("docs/container.md", "deploy/kubernetes/base/kustomization.yaml"):
        assert f"Kubernetes {OLDEST} or newer" in (ROOT / path).read_text(), path


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_images_are_those_that_make_image_builds(overlay: str) -> None:
    version = dockerfile(r"ARG VERSION=(\S+)")
    assert version == __version__
    image = load(ROOT / f"deploy/kubernetes/overlays/{overlay}/kustomization.yaml")["images"][0]
    assert image["name"] == pod()["containers"][0]["image"]
    assert image["newTag"] == f"{version}-{overlay}"


def test_ports_are_those_that_the_service_listens_on() -> None:
    settings = Settings()
    ports = {entry["name"]: entry["containerPort"] for entry in pod()["containers"][0]["ports"]}
    assert ports == {"https": settings.public_port, "operations": settings.admin_port}
    for service in base()["Service"]:
        assert {entry["targetPort"] for entry in service["spec"]["ports"]} <= ports.keys()
    rules = base()["NetworkPolicy"][0]["spec"]["ingress"]
    assert {port["port"] for rule in rules for port in rule["ports"]} == ports.keys()
    assert rules[0].keys() == {"ports"}, "clients reach the public listener"
    assert rules[0]["ports"] == [{"port": "https"}]
    assert rules[1]["from"], "not everyone reaches the admin port"
    assert set(map(int, dockerfile(r"^EXPOSE (.*)$").split())) == set(ports.values())


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


def health() -> Health:
    """A service with one worker, which has measured something of everything."""
    page = Metrics(0, lambda: 0).state()
    worker = SimpleNamespace(number=0, checked_at=0.0, page=page)
    checks = dict.fromkeys(RESULTS, 0)
    workers: Any = SimpleNamespace(living=[worker], checks=checks, ready=1, count=1, restarts=0)
    models: Any = None
    return Health(workers, None, models)


def test_probes_ask_for_paths_that_are_there() -> None:
    operations = AdminServer(health(), None)

    def status(path: str) -> int:
        answer = operations.route(Request(None, {}, method="GET", path=path))
        assert answer is not None, path
        return answer.status

    container = pod()["containers"][0]
    for name in ("startup", "readiness", "liveness"):
        assert status(container[f"{name}Probe"]["httpGet"]["path"]) in (200, 503)
    for endpoint in base()["ServiceMonitor"][0]["spec"]["endpoints"]:
        assert status(endpoint["path"]) == 200
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= Settings().start_timeout_s
    assert int(dockerfile(r"--start-period=(\d+)s")) >= Settings().start_timeout_s


def test_there_is_time_to_drain() -> None:
    spec = pod()
    (container,) = spec["containers"]
    settings = image_settings(container["env"])
    assert stop_timeout_s(settings) < spec["terminationGracePeriodSeconds"]
    assert "lifecycle" not in container, "its preStop would take of the same time"
    # Endpoints are told within the probe's period and its failures.
    readiness = container["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] <= settings.drain_s
    on_knative = stop_timeout_s(image_settings(serverless()["containers"][0]["env"]))
    assert knative.QUIET_S + on_knative < serverless()["timeout"]
    grace = load(COMPOSE)["services"]["one"]["stop_grace_period"]
    assert stop_timeout_s(image_settings({})) < int(grace.removesuffix("s"))
    unit = (ROOT / "deploy/systemd/diagonalflip.service").read_text()
    unit_stop_s = int(re.findall(r"^TimeoutStopSec=(\d+)", unit, re.MULTILINE)[0])
    assert stop_timeout_s(Settings()) < unit_stop_s


def test_every_variable_is_a_setting_and_can_be_read() -> None:
    for entries in (pod()["containers"][0]["env"], load(COMPOSE)["x-service"]["environment"]):
        given = environment(entries)
        assert all(name.startswith(PREFIX) for name in given)
        Settings.from_environment(given)  # which knows all of them


@pytest.mark.parametrize(("read", "mode"), [(pod, 0o440), (serverless, 0o444)])
def test_pods_have_no_rights_and_can_read_their_secrets(read: Callable[[], Any], mode: int) -> None:
    """Knative allows no group: there, every user of the container can read them."""
    spec = read()
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "a Service called flip would set FLIP_PORT"
    (container,) = spec["containers"]
    rights = spec.get("securityContext", {}) | container["securityContext"]
    assert (rights.pop("fsGroup", None) is None) == (mode == 0o444)
    assert rights == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert int(dockerfile(r"^USER (\d+)")) > 0, "runAsNonRoot rejects a name: it could be root's"
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert not [mount for mount in container["volumeMounts"] if "subPath" in mount], "not followed"
    secrets = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
    assert {secret["defaultMode"] for secret in secrets} == {mode}


@needs_tools
def test_openshift_chooses_user_and_group() -> None:
    kinds = {document["kind"]: document for document in built("kubernetes/overlays/openshift")}
    spec = kinds["Deployment"]["spec"]["template"]["spec"]
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (rule,) = [rule for rule in kinds["NetworkPolicy"]["spec"]["ingress"] if "from" in rule]
    labels = rule["from"][0]["namespaceSelector"]["matchLabels"]
    assert labels == {"kubernetes.io/metadata.name": "openshift-user-workload-monitoring"}


DASHBOARD = ROOT / "docker/compose/grafana/dashboard.json"
READ_BY_GRAFANA = """
import json, sys
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
read = Dashboard.from_json(json.load(open(sys.argv[1])))
print(json.dumps(read, cls=JSONEncoder))
"""


@needs_tools
def test_grafana_reads_all_of_the_dashboard() -> None:
    """A field that Grafana's own types do not know would be lost."""

    def lost(written: Any, read: Any) -> Iterator[Any]:
        if isinstance(written, dict):
            for key, value in written.items():
                yield from lost(value, read.get(key))
        elif isinstance(written, list):
            for one, other in zip(written, read, strict=True):
                yield from lost(one, other)
        elif written != read:
            yield written

    read = json.loads(run(TOOLS / "python", "-c", READ_BY_GRAFANA, DASHBOARD))
    assert not list(lost(json.loads(DASHBOARD.read_text()), read))


def test_the_dashboard_asks_the_prometheus_that_its_grafana_has() -> None:
    """Whatever its uid is: the one that is chosen in the dashboard, at first the default."""
    dashboard = json.loads(DASHBOARD.read_text())
    [variable] = dashboard["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    chosen = f"${{{variable['name']}}}"
    for part in [*dashboard["panels"], *(x for p in dashboard["panels"] for x in p["targets"])]:
        assert part.get("datasource", {"uid": chosen})["uid"] == chosen
        # A range that is shorter than two scrapes shows nothing: only Grafana knows their interval.
        assert not re.search(r"rate\(.*\[\d", part.get("expr", ""))
    assert all("datasource" in panel for panel in dashboard["panels"])
    assert "uid" not in load(ROOT / "docker/compose/grafana/datasource.yaml")["datasources"][0]


def test_the_autoscaler_has_its_metric() -> None:
    (rule,) = load(ROOT / "deploy/kubernetes/adapter-rule.yaml")["rules"]["custom"]
    (metric,) = base()["HorizontalPodAutoscaler"][0]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]


def test_every_expression_asks_for_metrics_that_exist() -> None:
    page = Page(health()).render("text/plain")[0].decode()
    known = set(re.findall(r"^(?:# TYPE )?(diagonalflip_\w+)", page, re.MULTILINE))
    rules = base()["PrometheusRule"][0]["spec"]["groups"][0]["rules"]
    expressions = [rule["expr"] for rule in rules]
    dashboard = json.loads(DASHBOARD.read_text())
    expressions += [x["expr"] for panel in dashboard["panels"] for x in panel["targets"]]
    adapter = load(ROOT / "deploy/kubernetes/adapter-rule.yaml")["rules"]["custom"][0]
    expressions += [adapter["metricsQuery"], adapter["seriesQuery"]]
    asked = {name for x in expressions for name in re.findall(r"\b(?:diagonalflip|haproxy)_\w+", x)}
    assert asked, "no expression at all"
    assert asked <= known


MODE = "serving.kserve.io/deploymentMode"


def raw() -> Any:
    (service,) = built("kserve/raw")
    return service


def container() -> Any:
    (only,) = serverless()["containers"]
    return only


def test_knative_would_admit_it() -> None:
    assert load(SERVERLESS)["metadata"]["annotations"] == {MODE: "Serverless"}
    assert knative.problems(serverless()) == []


@needs_tools
def test_raw_is_the_same_without_what_only_knative_has() -> None:
    service, expected = raw(), copy.deepcopy(load(SERVERLESS))
    expected["metadata"]["annotations"][MODE] = "RawDeployment"
    del expected["spec"]["predictor"]["scaleMetric"], expected["spec"]["predictor"]["scaleTarget"]
    grace_s = service["spec"]["predictor"].pop("terminationGracePeriodSeconds")
    assert stop_timeout_s(image_settings(container()["env"])) < grace_s
    assert service == expected


def test_the_edge_has_the_port_that_requests_come_to() -> None:
    own = container()
    given = environment(own["env"])
    (port,) = own["ports"]
    for knative_sets in ({}, {"PORT": str(port["containerPort"])}):
        settings = image_settings(given | knative_sets)
        assert port["containerPort"] == settings.public_port
        assert settings.port == Settings().port
    taken = {getattr(settings, name) for name in Settings.ports()}
    assert not taken & knative.RESERVED_PORTS, "they share the pod's addresses"


def test_probes_ask_the_edge_for_paths_that_are_there() -> None:
    own = container()
    for probe in (own["readinessProbe"], own["livenessProbe"]):
        assert probe["timeoutSeconds"] > 1, "the default, in which a busy worker may not answer"
        assert probe["httpGet"]["port"] == own["ports"][0]["containerPort"]
        assert probe["httpGet"]["path"] in HEALTH, "a probe has no token"
    assert own["livenessProbe"]["initialDelaySeconds"] >= Settings().start_timeout_s


@needs_tools
def test_kserves_own_models_know_all_of_it(tmp_path: Path) -> None:
    run(TOOLS / "python", "tests/deploy/kserve_models.py", SERVERLESS)
    path = tmp_path / "raw.yaml"
    path.write_text(yaml.safe_dump(raw()))
    run(TOOLS / "python", "tests/deploy/kserve_models.py", path)


def test_the_canary_patches_what_is_there() -> None:
    service = load(SERVERLESS)
    for step in load(SERVERLESS.with_name("canary.yaml")):
        *way, last = step["path"].removeprefix("/").split("/")
        place = service
        for name in way:
            place = place[int(name) if name.isdigit() else name]
        assert step["op"] == "add" or last in place
        place[last] = step["value"]
    predictor = service["spec"]["predictor"]
    assert 0 < predictor["canaryTrafficPercent"] < 100
    assert predictor["containers"][0]["image"] != container()["image"]
    assert knative.problems(predictor) == []
