"""Versions on one listener: who answers what, how the default changes, and what is rejected."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from diagonalflip import Client
from diagonalflip.errors import ModelDoesNotFlip, ModelNotFound
from diagonalflip.server.models import signature
from diagonalflip.server.supervisor import tokens
from diagonalflip.wire import JSON, OCTETS, TOLERANCE, pack, to_pixels
from tests.conftest import export
from tests.drills.load import Tables, references
from tests.integration.conftest import PATH, ROOT, Server, run_command, run_server
from tests.integration.test_lifecycle import start_and_fail
from tests.unit.test_store import MAR, archive, enter, keys

TORCHSERVE = [
    pytest.param("0", id="workers alone"),
    pytest.param("1", id="with TorchServe", marks=pytest.mark.slow),
]
IMAGES = bytes(pack(np.arange(16)).packed)
HEADERS = {"Content-Type": OCTETS}


def predict(url: str, **headers: str) -> requests.Response:
    return requests.post(url, IMAGES, headers=HEADERS | headers, timeout=60)


@dataclass
class Operated:
    """A server whose versions an operator may change."""

    server: Server
    token: str  # an operator's
    store: Path

    def __post_init__(self) -> None:
        self.front, self.url = self.server.base, self.server.operations
        self.urls = [each for each in (self.server.url, self.server.torchserve_url) if each]

    def change(self, change: str, token: str | None = None) -> requests.Response:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return requests.post(f"{self.url}/models/{change}", headers=headers, timeout=60)

    def models(self) -> Any:
        return requests.get(f"{self.url}/models", timeout=60).json()

    def default(self) -> str:
        return predict(self.server.url).headers["Flip-Model-Version"]


@contextmanager
def operated(store: Path, **settings: str) -> Iterator[Operated]:
    operators = store.parent / "operators"
    token = tokens.add(operators, "tester")
    settings = {"OPERATORS_FILE": str(operators), "WORKERS": "2"} | settings
    with run_server(store, store.parent / "logs", **settings) as server:
        yield Operated(server, token, store)


@pytest.fixture(scope="module", params=TORCHSERVE)
def running_both(
    request: pytest.FixtureRequest,
    artifacts: Path,
    exported_2_0: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Operated]:
    store = tmp_path_factory.mktemp("both") / "store"
    shutil.copytree(artifacts, store / "1.0")
    shutil.copytree(exported_2_0, store / "2.0")
    with operated(store, TORCHSERVE=request.param) as it:
        yield it


@pytest.fixture
def both(running_both: Operated) -> Iterator[Operated]:
    """A server of both versions, as it was at its start: 1.0 is the default."""
    yield running_both
    for change in ("1.0/load", "1.0/default", "2.0/load", "2.0/unload", "2.0/load", "3.0/unload"):
        running_both.change(change)
    shutil.rmtree(running_both.store / "3.0", ignore_errors=True)


@pytest.fixture(scope="module")
def exported_3_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another network, trained no more than the first."""
    folder = tmp_path_factory.mktemp("artifacts-3.0")
    weights = json.loads((ROOT / "export/weights-1.0.json").read_text())
    weights["layer2.bias"] = [0.25, 0.5, 0.75, 1.0]
    (folder / "weights.json").write_text(json.dumps(weights))
    export(folder / "3.0", "--weights", str(folder / "weights.json"), "--model-version", "3.0")
    return folder / "3.0"


@pytest.fixture
def tables(versions: Path) -> Tables:
    return references(versions)


@pytest.fixture
def third(both: Operated, exported_3_0: Path) -> Path:
    """Version 3.0 in the store of ``both``, not served yet."""
    return Path(shutil.copytree(exported_3_0, both.store / "3.0"))


def assert_of(response: requests.Response, version: str, tables: Tables) -> None:
    assert response.status_code == 200, response.text
    assert response.headers["Flip-Model-Version"] == version
    rows = np.frombuffer(response.content, "<f4").reshape(16, 4)
    assert np.abs(rows - tables[version]).max() <= TOLERANCE


def test_each_path_is_answered_by_its_version_on_every_port(both: Operated, tables: Tables) -> None:
    for url in both.urls:
        for path, version in (("", "1.0"), ("/1.0", "1.0"), ("/2.0", "2.0")):
            assert_of(predict(url + path), version, tables)
        assert predict(f"{url}/3.0").status_code == 404
    digests = {each["version"]: each["digest"] for each in both.models()["models"]}
    for version, other in (("1.0", "2.0"), ("2.0", "1.0")):
        for wanted, status in ((version, 200), (other, 412)):
            answer = predict(f"{both.server.url}/{version}", **{"If-Match": digests[wanted]})
            assert answer.status_code == status


def test_descriptions_v2_and_explanations_know_versions(both: Operated, tables: Tables) -> None:
    for version, flips in (("1.0", 1), ("2.0", 16)):
        answer = requests.get(f"{both.server.url}/{version}", timeout=60)
        assert answer.headers["Content-Type"] == JSON
        assert (answer.json()["version"], answer.json()["flips"]) == (version, flips)
    v2 = f"{both.front}/v2/models/diagonal_flip"
    assert requests.get(v2, timeout=60).json()["versions"] == ["1.0", "2.0"]
    assert requests.get(f"{v2}/versions/2.0", timeout=60).json()["versions"] == ["2.0", "1.0"]
    assert requests.get(f"{v2}/versions/2.0/ready", timeout=60).status_code == 200
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 4], "data": [1, 0, 1, 1]}
    for version in ("1.0", "2.0"):
        paths = [f"{url}/{version}" for url in both.urls if url != both.server.url]
        for url in (f"{v2}/versions/{version}/infer", *paths):
            answer = requests.post(url, json={"inputs": [tensor]}, timeout=60)
            document = answer.json()
            assert answer.headers["Flip-Model-Version"] == document["model_version"] == version
            assert np.abs(document["outputs"][0]["data"] - tables[version][11]).max() <= TOLERANCE
        steps = requests.post(
            f"{both.front}/explanations/diagonal_flip/{version}", json={"images": [11]}, timeout=60
        ).json()["explanations"][0]
        assert np.abs(steps["prediction"] - tables[version][11]).max() <= TOLERANCE


@pytest.mark.parametrize(
    "words",
    ["", pytest.param("--model-version 1.0", marks=pytest.mark.slow), "--model-version 2.0"],
)
def test_the_kit_passes_whatever_the_default_is(both: Operated, words: str) -> None:
    both.change("2.0/default")
    lines = run_command(*words.split(), "check", both.front).decode().splitlines()
    assert lines[-1].endswith(" passed, 0 failed")
    assert len(lines) > 270


@pytest.mark.parametrize("torchserve", TORCHSERVE)
def test_the_default_changes_everywhere_at_once_and_survives_a_restart(
    versions: Path, tables: Tables, torchserve: str
) -> None:
    with operated(versions, TORCHSERVE=torchserve) as both:
        told = both.change("2.0/default").json()
        assert (told["default"], told["previous"], told["kept"]) == ("2.0", "1.0", True)
        for url in both.urls:
            assert_of(predict(url), "2.0", tables)
        description = requests.get(both.server.url, timeout=60).json()
        assert (description["version"], description["flips"]) == ("2.0", 16)
        weights = requests.get(f"{both.front}/weights.json", timeout=60).json()
        assert weights == json.loads((ROOT / "export/weights-2.0.json").read_text())
    with operated(versions) as both:
        assert both.default() == "2.0"
        for changed in (True, False, False):
            told = both.change("rollback").json()
            assert (told["default"], told["previous"], told["changed"]) == ("1.0", None, changed)
            assert both.default() == "1.0"
        both.change("2.0/default")
        both.change("1.0/canary/10")
        for changed in (True, False):
            told = both.change("rollback").json()
            assert (told["default"], told["canary"], told["changed"]) == ("2.0", None, changed)


def test_what_is_unloaded_is_gone_until_it_is_loaded_again(both: Operated, tables: Tables) -> None:
    assert both.change("1.0/unload").status_code == 409, "it is the default"
    both.change("2.0/default")
    assert both.change("1.0/unload").status_code == 200
    for url in both.urls:
        # TorchServe keeps the archive, without a worker.
        assert predict(f"{url}/1.0").status_code == (404 if url == both.server.url else 503)
    assert both.change("1.0/default").status_code == 404
    assert both.change("rollback").json()["changed"] is False
    assert both.change("1.0/load").status_code == 200
    for url in both.urls:
        assert_of(predict(f"{url}/1.0"), "1.0", tables)


def become(folder: Path, other: Path) -> None:
    """Put another export's network into an export and its archive, all else agreeing with it."""
    for name in ("diagonal_flip.pt", "diagonal_flip.x4.onnx"):
        enter(folder, name, (other / name).read_bytes())
    enter(folder, MAR, archive(folder, folder.name))


@pytest.mark.slow
def test_a_default_that_answers_otherwise_is_never_ready(versions: Path, tmp_path: Path) -> None:
    """Digests agree, the worker's own check does not."""
    become(versions / "1.0", versions / "2.0")
    assert "ParityError" in start_and_fail(versions, tmp_path / "logs", 4)


def test_a_version_that_answers_otherwise_is_left_out_until_it_is_mended(
    versions: Path, tmp_path: Path, tables: Tables
) -> None:
    """What is wrong with another version keeps the default from nothing."""
    mended = shutil.copytree(versions / "2.0", tmp_path / "mended")
    become(versions / "2.0", versions / "1.0")
    with operated(versions) as both:
        assert_of(predict(both.server.url), "1.0", tables)
        assert predict(f"{both.server.url}/2.0").status_code == 404
        assert "Not served: version 2.0: ParityError" in "".join(both.server.printed)
        shutil.copytree(mended, versions / "2.0", dirs_exist_ok=True)
        assert both.change("2.0/load").status_code == 200
        assert_of(predict(f"{both.server.url}/2.0"), "2.0", tables)


def test_a_new_version_is_loaded_if_trusted_and_made_default(both: Operated, third: Path) -> None:
    """Workers that are killed come back with it, whatever the store has meanwhile."""
    exported = (third / MAR).read_bytes()
    (third / MAR).write_bytes(exported + b"x")
    answer = both.change("3.0/load")
    assert (answer.status_code, answer.json()["code"]) == (422, "artifact_error")
    assert [each["version"] for each in both.models()["models"] if "fault" in each] == ["3.0"]
    assert both.default() == "1.0"
    (third / MAR).write_bytes(exported)
    assert both.change("3.0/load").status_code == 200
    assert both.change("3.0/default").status_code == 200
    assert both.default() == "3.0"
    become(third, both.store / "2.0")
    answer = both.change("3.0/load")
    assert (answer.status_code, answer.json()["code"]) == (409, "model_conflict")
    for worker in both.server.workers:
        worker.kill()
    assert {both.default() for _ in range(8)} == {"3.0"}
    assert requests.get(both.server.url, timeout=60).json()["flips"] < 16, "it is the first 3.0"


def test_a_canary_gets_its_share_and_is_withdrawn_at_once(versions: Path) -> None:
    """At the public listener, as clients see it; the rest is answered by the default."""
    token = tokens.add(versions.parent / "tokens", "client")
    settings = {"TOKENS_FILE": str(versions.parent / "tokens")}
    with operated(versions, **settings) as both, requests.Session() as session:

        def answered_by() -> Counter[str]:
            headers = HEADERS | {"Authorization": f"Bearer {token}"}
            ask = partial(session.post, both.server.public + PATH, IMAGES, headers=headers)
            return Counter(ask(timeout=60).headers["Flip-Model-Version"] for _ in range(100))

        told = both.change("2.0/canary/10").json()
        assert (told["default"], told["canary"], told["percent"]) == ("1.0", "2.0", 10)
        assert answered_by() == {"1.0": 90, "2.0": 10}
        both.change("2.0/canary/100")
        assert answered_by() == {"2.0": 100}
        assert both.change("rollback").json()["canary"] is None
        assert answered_by() == {"1.0": 100}
        both.change("2.0/canary/50")
        assert both.change("2.0/default").json()["canary"] is None
        assert answered_by() == {"2.0": 100}
        assert both.change("2.0/canary/1").status_code == 409
        assert both.change("1.0/canary/101").status_code == 404


def test_a_change_that_cannot_be_made_changes_nothing(both: Operated) -> None:
    before = both.models()
    for change in ("9.9/load", "9.9/default", "9.9/unload"):
        answer = both.change(change)
        assert answer.status_code == 404
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert both.change("2.0/default", token="x").status_code == 401  # noqa: S106 - a wrong one
    assert requests.get(f"{both.url}/models/2.0/default", timeout=60).status_code == 405
    assert both.models() == before


@pytest.mark.slow
def test_only_what_is_signed_is_served(versions: Path, exported_3_0: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    for version in ("1.0", "2.0"):
        signature.sign(versions / version / "manifest.json", private)
    with operated(versions, TRUSTED_KEY=str(public)) as it:
        assert [each["signed"] for each in it.models()["models"]] == [True, True]
        shutil.copytree(exported_3_0, versions / "3.0")
        assert it.change("3.0/load").status_code == 422
    with (versions / "1.0/manifest.json").open("a") as manifest:
        manifest.write(" ")
    line = start_and_fail(versions, tmp_path, TRUSTED_KEY=str(public))
    assert "of other content or by another key" in line


def test_the_client_asks_for_a_version_and_flips_where_it_can(both: Operated) -> None:
    numbers = np.arange(16)
    flipped = to_pixels(numbers).transpose(0, 2, 1)
    with Client(both.front, version="2.0") as client:
        assert np.array_equal(client.flip(numbers), flipped)
        assert client.info().flips == 16
    with Client(both.front) as client:
        with pytest.raises(ModelDoesNotFlip, match=r"Version 1\.0, which flips 1 of 16"):
            client.flip(numbers)
        both.change("2.0/default")
        assert np.array_equal(client.flip(numbers), flipped), "the switch needs no new client"
    with Client(both.front, version="9.9") as client, pytest.raises(ModelNotFound):
        client.predict(numbers)
