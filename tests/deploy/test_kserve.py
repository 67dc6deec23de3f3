"""The InferenceService, on Knative and without it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from diagonalflip.server.http.authentication import HEALTH
from diagonalflip.server.settings import Settings
from tests.deploy import knative
from tests.deploy.files import (
    SERVERLESS,
    TOOLS,
    built,
    environment,
    image_settings,
    load,
    needs_tools,
    run,
    serverless,
    stop_timeout_s,
)

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
