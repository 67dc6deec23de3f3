"""openapi.yaml is true: every status in it is reached, every example executed."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import requests
import schemathesis
import yaml
from urllib3 import HTTPResponse

from diagonalflip import message
from diagonalflip.server.http.routes import WorkerServer
from diagonalflip.server.http.shares import full
from diagonalflip.wire import JSON, MAX_IMAGES, MAX_TEXT_IMAGES, OCTETS
from tests.integration.conftest import ROOT, Server, run_server

FILE = ROOT / "diagonalflip/server/openapi.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
OPERATIONS: dict[str, tuple[str, str]] = {
    operation["operationId"]: (method, path)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}
FORM = "application/x-www-form-urlencoded"
LIMITS = {"predict": MAX_IMAGES, "explain": 4096, "infer": MAX_TEXT_IMAGES}


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    found: Any = DOCUMENT
    for key in node["$ref"].removeprefix("#/").split("/"):
        found = found[key]
    return dict(found)


class Request(NamedTuple):
    """One request of the tables below."""

    body: bytes = b"\xb6"
    content_type: str | None = OCTETS
    headers: dict[str, str] = {}  # noqa: RUF012 - nobody writes to it


def send(server: Server, operation_id: str, request: Request) -> requests.Response:
    method, path = OPERATIONS[operation_id]
    return requests.request(
        method,
        server.base + path,
        data=request.body if method == "post" else None,
        headers={"Content-Type": request.content_type, **request.headers},
        timeout=120,
    )


@pytest.fixture(scope="module")
def schema() -> Any:
    """The document, as schemathesis reads it, to judge answers by."""
    loaded = schemathesis.openapi.from_path(FILE)
    loaded.validate()
    return loaded


# Every documented status

PIXELS = b'{"inputs":[{"name":"pixels","datatype":"UINT8","shape":[1,4],"data":[1,0,1,1]}]}'
TWO_MANY = b'{"inputs":[{"name":"packed","datatype":"UINT8","shape":[524289],"data":[]}]}'
OTHER_MODEL = {"If-Match": '"0"'}
NOTHING = Request(b"", None)
PDF = Request(content_type="application/pdf")
# internal_error needs a broken forward pass, which a client cannot cause: unit tests do. A
# client can cause TorchServe's own 500, by a form that its decoder does not understand.
BROKEN_FORM = Request(b"a=%%zz", FORM)

CASES: dict[tuple[str, str], Request] = {
    ("predict", "200"): Request(),
    ("predict", "400"): Request(b""),
    ("predict", "406"): Request(headers={"Accept": "image/gif"}),
    ("predict", "412"): Request(headers=OTHER_MODEL),
    ("predict", "413"): Request(bytes(MAX_IMAGES // 2 + 1)),
    ("predict", "415"): PDF,
    ("describe", "200"): NOTHING,
    ("describe", "406"): NOTHING._replace(headers={"Accept": "text/plain"}),
    ("describe", "412"): NOTHING._replace(headers=OTHER_MODEL),
    ("explain", "200"): Request(),
    ("explain", "400"): Request(b"g", "text/plain"),
    ("explain", "412"): Request(headers=OTHER_MODEL),
    ("explain", "413"): Request(b"b" * 4097, "text/plain"),
    ("explain", "415"): PDF,
    ("infer", "200"): Request(PIXELS, JSON),
    ("infer", "400"): Request(b'{"inputs": []}', None),
    ("infer", "412"): Request(PIXELS, JSON, OTHER_MODEL),
    ("infer", "413"): Request(TWO_MANY, JSON),
    ("infer", "415"): Request(PIXELS, "text/xml"),
    ("ping", "200"): Request(),
    ("modelMetadata", "200"): NOTHING,
    ("modelConfig", "200"): NOTHING,
    ("modelReady", "200"): NOTHING,
}
LONG = Request(headers={"X-Long": "x" * 20_000})
CASES |= {(operation_id, "default"): LONG for operation_id in OPERATIONS}
OF_TORCHSERVE = {
    ("predict", "500"): BROKEN_FORM,
    ("explain", "500"): BROKEN_FORM,
    ("infer", "500"): BROKEN_FORM,
    ("modelMetadata", "404"): NOTHING,
    ("modelConfig", "404"): NOTHING,
    ("modelReady", "404"): NOTHING,
}
# Reached on TorchServe's port while it has no worker, below; at the HTTP listener clients wait.
WITHOUT_WORKER = {
    ("describe", "503"): NOTHING,
    ("predict", "503"): Request(),
    ("explain", "503"): Request(),
    ("infer", "503"): Request(PIXELS, JSON),
}
NOT_TRIED = {
    ("ping", "503"): "TorchServe's is there as long as a worker is; ours is below",
    ("modelReady", "503"): "below",
    ("ping", "500"): "takes maxRetryTimeoutInSec, 300 s, of failing reloads",
    ("describe", "500"): "has no body to break a form with; the other operations have",
}


def check(schema: Any, operation_id: str, status: str, response: requests.Response) -> None:
    assert str(response.status_code) == {"default": "431"}.get(status, status), response.text
    schema.find_operation_by_id(operation_id).validate_response(response)
    method, path = OPERATIONS[operation_id]
    described = resolve(DOCUMENT["paths"][path][method]["responses"][status])
    for name, header in described.get("headers", {}).items():
        value, expected = response.headers.get(name), resolve(header)
        assert value or not expected.get("required"), name
        assert value is None or re.search(expected["schema"].get("pattern", ""), value), name
    if "problem+json" in response.headers["Content-Type"]:
        assert response.json()["status"] == response.status_code


def test_every_documented_status_has_a_case() -> None:
    documented = {
        (operation_id, status)
        for operation_id, (method, path) in OPERATIONS.items()
        for status in DOCUMENT["paths"][path][method]["responses"]
    }
    tried = CASES.keys() | OF_TORCHSERVE.keys() | WITHOUT_WORKER.keys()
    assert documented == tried | NOT_TRIED.keys()


@pytest.mark.parametrize(("operation_id", "status"), CASES | OF_TORCHSERVE, ids=str)
def test_statuses_are_reached(server: Server, schema: Any, operation_id: str, status: str) -> None:
    case = operation_id, status
    asked = server.at_torchserve if case in OF_TORCHSERVE else server
    response = send(asked, operation_id, (CASES | OF_TORCHSERVE)[case])
    check(schema, operation_id, status, response)
    if status == "413":
        assert response.headers["Flip-Max-Images"] == str(LIMITS[operation_id])


def test_a_version_of_another_size_is_described_too(
    versions: Path, schema: Any, tmp_path: Path
) -> None:
    with run_server(versions, tmp_path / "logs", DEFAULT_VERSION="2.0") as both:
        check(schema, "explain", "200", send(both, "explain", Request()))


def test_every_array_says_what_is_in_it() -> None:
    """Programs that write clients from the document want it."""
    found: list[dict[str, Any]] = []
    json.loads(json.dumps(DOCUMENT), object_hook=found.append)
    arrays = [each for each in found if "array" in (each.get("type") or ())]
    assert len(arrays) > 10
    assert [each for each in arrays if "items" not in each] == []


@pytest.mark.parametrize("operation_id", ["predict", "explain", "infer", "ping", "modelReady"])
def test_the_listener_is_full_or_stops_as_described(schema: Any, operation_id: str) -> None:
    method, path = OPERATIONS[operation_id]
    if operation_id in {"ping", "modelReady"}:
        stopping: Any = SimpleNamespace(ready=False)
        made = WorkerServer._healthy(stopping)
    else:
        made = message.Request(None, {}, path=path).rejection(full())
    headers = {"Content-Type": made.content_type} | made.all_headers
    raw = HTTPResponse(io.BytesIO(made.body), headers, made.status, preload_content=False)
    request = requests.Request(method, f"http://a{path}").prepare()
    response = requests.adapters.HTTPAdapter().build_response(request, raw)
    check(schema, operation_id, "503", response)


@pytest.fixture(scope="module")
def without_worker(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """TorchServe of a server of its own, whose worker has been taken away."""
    logs = tmp_path_factory.mktemp("logs")
    settings = {"TORCHSERVE": "1", "HEALTH_CHECK_INTERVAL_S": "3600", "MANAGEMENT_PORT": "0"}
    with run_server(artifacts, logs, **settings) as running:
        words = running.java.cmdline()
        configuration = Path(words[words.index("-f") + 1]).read_text()
        [management] = re.findall(r"^management_address=(.+)$", configuration, re.MULTILINE)
        workers = {"min_worker": "0", "max_worker": "0", "synchronous": "true"}
        url = f"{management}/models/diagonal_flip"
        requests.put(url, params=workers, timeout=60).raise_for_status()
        yield running.at_torchserve


@pytest.mark.slow
@pytest.mark.parametrize(("operation_id", "status"), WITHOUT_WORKER, ids=str)
def test_statuses_without_a_worker_are_reached(
    without_worker: Server, schema: Any, operation_id: str, status: str
) -> None:
    request = WITHOUT_WORKER[operation_id, status]
    check(schema, operation_id, status, send(without_worker, operation_id, request))


def test_413_without_a_body_over_64_mib(server: Server) -> None:
    response = send(server.at_torchserve, "predict", Request(bytes((64 << 20) + 1)))
    assert response.status_code == 413
    assert response.content == b""
    assert "Flip-Max-Images" not in response.headers


# Every example


def read_example(example: dict[str, Any]) -> bytes:
    """The body: a data URI for binary forms, text as it is, anything else as JSON."""
    if "externalValue" in example:
        return base64.b64decode(example["externalValue"].partition(",")[2], validate=True)
    value = example["value"]
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def find_examples() -> Iterator[tuple[str, Request]]:
    """Every example of a body, and of a header with the body b6, by operation."""
    for operation_id, (method, path) in OPERATIONS.items():
        operation = DOCUMENT["paths"][path][method]
        content = resolve(operation.get("requestBody", {})).get("content", {})
        for media_type, described in content.items():
            for example in described["examples"].values():
                yield operation_id, Request(read_example(example), media_type)
        for parameter in map(resolve, operation.get("parameters", [])):
            for value in parameter["schema"].get("examples", []):
                request = Request() if content else NOTHING
                request = Request(PIXELS, JSON) if operation_id == "infer" else request
                yield operation_id, request._replace(headers={parameter["name"]: value})


EXAMPLES = list(find_examples())


@pytest.mark.parametrize(("operation_id", "request_"), EXAMPLES)
def test_examples_work(server: Server, schema: Any, operation_id: str, request_: Request) -> None:
    check(schema, operation_id, "200", send(server, operation_id, request_))
