"""The handler answers each request of a batch by itself: status, type and body."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from ts.context import Context, RequestProcessor

from diagonalflip.errors import ArtifactError
from diagonalflip.inference import decoders, encoders, reading
from diagonalflip.inference.model import Model
from diagonalflip.wire import MAX_IMAGES
from handlers.diagonalflip_handler import FlipHandler

PACKED, JSON = "application/octet-stream", "application/json"
PROBLEM = "application/problem+json"


class Request(NamedTuple):
    """A request of a client; a body of None is none at all, as after a form post."""

    body: Any
    headers: dict[str, Any]


class Answer(NamedTuple):
    """The answer that the client gets."""

    status: tuple[int, str]
    content_type: str
    body: bytes
    headers: dict[str, str]


def same(left: Answer, right: Answer) -> bool:
    untimed = [
        each._replace(headers=each.headers | {"Server-Timing": ""}) for each in (left, right)
    ]
    return untimed[0] == untimed[1]


def of_type(content_type: str, body: Any, **headers: str) -> Request:
    return Request(body, {"Content-Type": content_type} | headers)


GOOD = {
    "even": of_type(PACKED, b"\xb6"),
    "odd": of_type(f"{PACKED};padding=4", b"\xb6\x90"),
    "json": of_type(JSON, b'{"images":[11,"0110",[[1,0],[0,1]]]}'),
    "as json": Request(b"\xb6", {"CONTENT-TYPE": PACKED, "Accept": JSON, "body": "text/html"}),
    "as packed": Request(b'{"images":[11]}', {"content-type": JSON, "ACCEPT": PACKED}),
}
BAD = {
    "empty": (of_type(PACKED, b""), 400, "empty_payload"),
    "padding": (of_type(f"{PACKED};padding=4", b"\xb6"), 400, "invalid_padding"),
    "broken json": (of_type(JSON, b"{"), 400, "invalid_json"),
    "image": (of_type(JSON, b'{"images":[16]}'), 400, "invalid_image"),
    "deep": (of_type(JSON, b"[" * 500 + b"]" * 500), 400, "invalid_json"),
    "accept": (of_type(PACKED, b"\xb6", Accept="text/html"), 406, "not_acceptable"),
    "too many": (of_type(PACKED, bytes(MAX_IMAGES // 2 + 1)), 413, "too_many_images"),
    "type": (of_type("text/html", b"\xb6"), 415, "unsupported_media_type"),
    "no type": (Request(b"\xb6", {}), 415, "unsupported_media_type"),
    "form": (of_type("application/x-www-form-urlencoded", None), 415, "unsupported_media_type"),
    "no body": (of_type(PACKED, None), 400, "empty_payload"),
    "nothing, as text": (Request(b"", {"Accept": "text/plain"}), 406, "not_acceptable"),
    "nothing, of another model": (Request(b"", {"If-Match": '"0"'}), 412, "model_mismatch"),
    "no explanation": (Request(b"", {"explain": "True"}), 415, "unsupported_media_type"),
}


def started(archive: Path, batch_size: int | None = 8) -> FlipHandler:
    manifest = json.loads((archive / "MAR-INF/MANIFEST.json").read_bytes())
    handler = FlipHandler()
    handler.initialize(Context("diagonal_flip", str(archive), manifest, batch_size, None, "0.12"))
    return handler


@pytest.fixture(scope="module")
def handler(unpacked_archive: Path) -> FlipHandler:
    return started(unpacked_archive)


def batch(headers: list[dict[str, Any]]) -> Any:
    context = Context("diagonal_flip", "", {}, 8, None, "0.12")
    context.request_processor = [RequestProcessor(each) for each in headers]
    return context


def ask(handler: FlipHandler, *requests: Request) -> list[Answer]:
    """Sends one batch, framed as TorchServe frames it."""
    data, headers = [], []
    for body, sent in requests:
        given = bytearray(body) if isinstance(body, bytes) else body
        data.append({} if body is None else {"body": given})
        header: dict[str, Any] = {} if body is None else {"body": {"content-type": ""}}
        headers.append(header | sent)
    context = batch(headers)
    answers = []
    for index, body in enumerate(handler.handle(data, context)):
        told = context.get_response_headers(index)
        status = context.get_response_status(index)
        answers.append(Answer(status, told.pop("content-type"), body, told))
    assert len(answers) == len(requests)
    return answers


@pytest.fixture(scope="module")
def alone(handler: FlipHandler) -> list[Answer]:
    """The answers to ``GOOD``."""
    return [ask(handler, request)[0] for request in GOOD.values()]


def test_good_requests_are_answered_in_their_forms(alone: list[Answer], model: Model) -> None:
    reference = np.array(json.loads(model.reference)["predictions"])
    images = [11, 6], [11, 6, 9], [11, 6, 9], [11, 6], [11]
    assert [answer.content_type for answer in alone] == [PACKED, PACKED, JSON, JSON, PACKED]
    for answer, numbers in zip(alone, images, strict=True):
        assert (answer.status, type(answer.body)) == ((200, "OK"), bytes)
        if answer.content_type == JSON:
            predictions = np.array(json.loads(answer.body)["predictions"])
        else:
            predictions = np.frombuffer(answer.body, "<f4").reshape(-1, 4)
        assert predictions == pytest.approx(reference[numbers], abs=1e-6)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("position", [0, 2, len(GOOD)])
def test_a_bad_request_is_rejected_and_changes_no_byte_of_its_neighbours(
    handler: FlipHandler, alone: list[Answer], name: str, position: int
) -> None:
    request, status, code = BAD[name]
    batch = list(GOOD.values())
    batch.insert(position, request)
    answers = ask(handler, *batch)
    rejected = answers.pop(position)
    assert all(map(same, answers, alone))
    assert rejected.status == (status, HTTPStatus(status).phrase)
    assert rejected.content_type == PROBLEM
    problem = json.loads(rejected.body)
    assert (problem["status"], problem["code"]) == (status, code)


V2 = b'{"inputs": [{"name": "packed", "datatype": "UINT8", "shape": [1], "data": [182]}]}'


def test_what_torchserve_decodes_by_default_is_read(handler: FlipHandler) -> None:
    """Of text, and of a form's file; of all else in tests/contract/test_torchserve_loader.py."""
    decoded, given = (ask(handler, of_type("text/plain", each))[0] for each in ("b6 9", b"b6 9"))
    assert same(decoded, given)
    part = {"Content-Type": "multipart/form-data; boundary=b", "data": {"content-type": JSON}}
    bodies = handler.handle([{"data": json.loads(V2)}], batch([part]))
    assert bodies == [ask(handler, of_type(JSON, V2))[0].body]


@pytest.mark.parametrize("blanks", ["", " ", "  \n"])
@pytest.mark.parametrize(("longer", "status"), [(0, 200), (1, 400), (-1, 400)])
@pytest.mark.parametrize("told", [True, False])
def test_the_length_of_v2s_json_is_that_which_came(
    handler: FlipHandler, blanks: str, longer: int, status: int, *, told: bool
) -> None:
    body = json.dumps(json.loads(V2), separators=(",", f":{blanks}")).encode()
    headers = {"Content-Type": JSON, "Inference-Header-Content-Length": str(len(body) + longer)}
    headers |= {"Content-Length": str(len(body))} if told else {}
    given, found = (ask(handler, Request(each, headers))[0] for each in (body, json.loads(body)))
    assert given.status[0] == status
    assert same(found, given) or not told or status == found.status[0] == 400


def test_json_too_deep_to_be_encoded_again_is_rejected_alone(handler: FlipHandler) -> None:
    """Decoded less deep in the stack, it was not too deep."""
    document: list[Any] = []
    for _ in range(sys.getrecursionlimit()):
        document = [document]
    deep, good = ask(handler, of_type(JSON, document), GOOD["even"])
    assert json.loads(deep.body)["code"] == "invalid_json"
    assert good.status == (200, "OK")


@pytest.mark.parametrize(("batch_size", "most"), [(None, 6_500_000), (1, 6_500_000), (16, 625_000)])
def test_torchserve_decodes_the_answers_of_a_batch_in_a_second(
    unpacked_archive: Path, batch_size: int | None, most: int
) -> None:
    assert started(unpacked_archive, batch_size)._most_bytes == most


@pytest.mark.parametrize("accept", [PACKED, JSON, "text/plain"])
def test_an_answer_too_large_names_the_other_port(handler: FlipHandler, accept: str) -> None:
    large = of_type(PACKED, b"\x73" * (80_000 if accept == PACKED else 60_000), Accept=accept)
    before, rejected, after = ask(handler, GOOD["even"], large, GOOD["odd"])
    assert (before.status[0], rejected.status[0], after.status[0]) == (200, 413, 200)
    problem = json.loads(rejected.body)
    assert problem["code"] == "too_many_images"
    assert "port 8080" in problem["detail"]
    limit = int(rejected.headers["Flip-Max-Images"])
    (answer,) = ask(handler, large._replace(body=large.body[: limit // 2]))
    assert answer.status[0] == 200
    assert 0.99 * handler._most_bytes < len(answer.body) <= handler._most_bytes


def test_torchserve_logs_no_line_a_request_but_its_metrics(
    unpacked_archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (None, "ts.metrics.caching_metric"):
        caplog.set_level(logging.NOTSET, name)  # and as it was at the end
    started(unpacked_archive)
    assert not logging.getLogger("ts.service").isEnabledFor(logging.INFO)
    assert logging.getLogger("ts.metrics.caching_metric").isEnabledFor(logging.INFO)


def test_only_predictions_are_bounded_by_what_torchserve_takes(
    handler: FlipHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large a batch may be: an error is short, and what is served fits."""
    asked = Request(b"", {}), BAD["padding"][0], GOOD["even"]
    before = ask(handler, *asked)
    monkeypatch.setattr(handler, "_most_bytes", 1)
    described, rejected, bounded = ask(handler, *asked)
    assert (same(described, before[0]), same(rejected, before[1])) == (True, True)
    assert (bounded.status[0], bounded.headers["Flip-Max-Images"]) == (413, "1")


def test_describe_says_what_is_served_and_how(handler: FlipHandler) -> None:
    (body,) = handler.handle([{}], batch([{"describe": "True"}]))
    for headers in ({}, {"Accept": "*/*"}, {"describe": "True"}):  # a client may send that, too
        beside, asked, _ = ask(handler, GOOD["odd"], Request(b"", headers), GOOD["even"])
        assert asked[:3] == ((200, "OK"), JSON, body) == ask(handler, Request(b"", headers))[0][:3]
        assert same(beside, ask(handler, GOOD["odd"])[0])
        assert asked.headers.keys() == beside.headers.keys()
    description = json.loads(body)
    told = [description[name] for name in ("model", "device", "runtime", "workers")]
    assert told == ["diagonal_flip", "cpu", "ONNX Runtime", None]
    assert description["batch_invariant"] is handler.service._engine.batch_invariant
    for kind in ("request_media_types", "response_media_types"):
        assert {PACKED, JSON, "text/plain", "image/png"} < set(description[kind])


@pytest.mark.parametrize("value", ["", "a\r\nb: c", "ä", "x" * 129, "a b"])
def test_what_could_break_a_header_is_not_echoed(handler: FlipHandler, value: str) -> None:
    body, headers = GOOD["odd"]
    (answer,) = ask(handler, Request(body, headers | {"X-Request-Id": value}))
    assert "Flip-Request-Id" not in answer.headers


@pytest.mark.parametrize(("wanted", "status"), [("{}", 200), ('"other","{}"', 200), ("", 412)])
def test_if_match_admits_the_model_served(handler: FlipHandler, wanted: str, status: int) -> None:
    body, headers = GOOD["odd"]
    digest = ask(handler, GOOD["odd"])[0].headers["Flip-Model-Digest"]
    (answer,) = ask(handler, Request(body, headers | {"If-Match": wanted.format(digest)}))
    assert answer.status[0] == status


@pytest.mark.parametrize("step", ["reading", "forward pass", "writing"])
def test_a_fault_of_ours_is_a_500_of_its_own_request_and_tells_nothing(
    handler: FlipHandler, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: a secret of the machine")

    bad, neighbour = BAD["padding"][0], GOOD["even"]
    alone = [ask(handler, each)[0] for each in (bad, neighbour)]
    if step == "forward pass":
        monkeypatch.setattr(handler.service._engine, "predict", fail)
    else:
        functions: dict[str, Any] = {"reading": decoders.DECODERS, "writing": encoders.ENCODERS}
        monkeypatch.setitem(functions[step], JSON, fail)
        monkeypatch.setattr(reading, "forms_of", reading.forms_of.__wrapped__)  # which is cached
    failed, *others = ask(handler, GOOD["json"], bad, neighbour)
    if step == "forward pass":
        assert others.pop().status[0] == 500
    assert all(map(same, others, alone))
    assert (failed.status[0], failed.content_type) == (500, PROBLEM)
    assert json.loads(failed.body)["code"] == "internal_error"
    assert b"secret" not in failed.body


def test_answers_survive_later_batches_of_any_thread(handler: FlipHandler) -> None:
    requests = [of_type(PACKED, bytes([0x11 * image]) * 20_000) for image in range(16)]
    alone = [ask(handler, request)[0].body for request in requests]
    assert len(set(alone)) > 8
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda request: ask(handler, request)[0], requests * 4))
    assert [answer.body for answer in answers] == alone * 4


@pytest.mark.parametrize("reference", [None, "{", "{}", "[]", '{"predictions": "x"}'])
def test_a_damaged_reference_is_an_artifact_error(
    unpacked_archive: Path, tmp_path: Path, reference: str | None
) -> None:
    shutil.copytree(unpacked_archive, tmp_path, dirs_exist_ok=True)
    (tmp_path / "reference.json").unlink()
    if reference is not None:
        (tmp_path / "reference.json").write_text(reference, encoding="utf-8")
    with pytest.raises(ArtifactError):
        started(tmp_path)
