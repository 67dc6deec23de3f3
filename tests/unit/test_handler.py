"""The handler answers each request of a batch by itself: status, type and body."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from diagonalflip.errors import ArtifactError
from diagonalflip.inference import decoders, encoders
from diagonalflip.wire import MAX_IMAGES, WIRE_VERSION
from handlers.diagonalflip_handler import FlipHandler
from tests.unit.fake_context import FakeContext

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
    """Return whether two answers agree in all but the times they took."""
    return left[:3] == right[:3] and {
        name: value for name, value in left.headers.items() if name != "Server-Timing"
    } == {name: value for name, value in right.headers.items() if name != "Server-Timing"}


GOOD = {
    "even": Request(b"\xb6", {"Content-Type": PACKED}),
    "odd": Request(b"\xb6\x90", {"Content-Type": f"{PACKED};padding=4"}),
    "json": Request(b'{"images":[11,"0110",[[1,0],[0,1]]]}', {"Content-Type": JSON}),
    "as json": Request(b"\xb6", {"CONTENT-TYPE": PACKED, "Accept": JSON, "body": "text/html"}),
    "as packed": Request(b'{"images":[11]}', {"content-type": JSON, "ACCEPT": PACKED}),
}
BAD = {
    "empty": (Request(b"", {"Content-Type": PACKED}), 400, "empty_payload"),
    "padding": (Request(b"\xb6", {"Content-Type": f"{PACKED};padding=4"}), 400, "invalid_padding"),
    "broken json": (Request(b"{", {"Content-Type": JSON}), 400, "invalid_json"),
    "image": (Request(b'{"images":[16]}', {"Content-Type": JSON}), 400, "invalid_image"),
    "deep": (Request(b"[" * 500 + b"]" * 500, {"Content-Type": JSON}), 400, "invalid_json"),
    "accept": (
        Request(b"\xb6", {"Content-Type": PACKED, "Accept": "text/html"}),
        406,
        "not_acceptable",
    ),
    "too many": (
        Request(bytes(MAX_IMAGES // 2 + 1), {"Content-Type": PACKED}),
        413,
        "too_many_images",
    ),
    "type": (Request(b"\xb6", {"Content-Type": "text/html"}), 415, "unsupported_media_type"),
    "no type": (Request(b"\xb6", {}), 415, "unsupported_media_type"),
    "form": (
        Request(None, {"Content-Type": "application/x-www-form-urlencoded"}),
        415,
        "unsupported_media_type",
    ),
    "no body": (Request(None, {"Content-Type": PACKED}), 400, "empty_payload"),
    "nothing, as text": (Request(b"", {"Accept": "text/plain"}), 406, "not_acceptable"),
    "nothing, of another model": (Request(b"", {"If-Match": '"0"'}), 412, "model_mismatch"),
    "no explanation": (Request(b"", {"explain": "True"}), 415, "unsupported_media_type"),
}


@pytest.fixture(scope="module")
def handler(unpacked_archive: Path) -> FlipHandler:
    handler = FlipHandler()
    handler.initialize(FakeContext(unpacked_archive))
    return handler


def ask(handler: FlipHandler, *requests: Request) -> list[Answer]:
    """Sends one batch, framed as TorchServe frames it."""
    data, headers = [], []
    for body, sent in requests:
        given = bytearray(body) if isinstance(body, bytes) else body
        data.append({} if body is None else {"body": given})
        header: dict[str, Any] = {} if body is None else {"body": {"content-type": ""}}
        headers.append(header | sent)
    context = FakeContext(Path(), request_headers=headers)
    bodies = handler.handle(data, context)
    assert len(bodies) == len(requests)
    assert set(context.statuses) == set(context.content_types) == set(range(len(requests)))
    return [
        Answer(
            context.statuses[index],
            context.content_types[index],
            body,
            context.response_headers[index],
        )
        for index, body in enumerate(bodies)
    ]


@pytest.mark.parametrize(
    ("name", "content_type", "numbers"),
    [
        ("even", PACKED, [11, 6]),
        ("odd", PACKED, [11, 6, 9]),
        ("json", JSON, [11, 6, 9]),
        ("as json", JSON, [11, 6]),
        ("as packed", PACKED, [11]),
    ],
)
def test_a_good_request_is_answered_in_its_form(
    handler: FlipHandler,
    unpacked_archive: Path,
    name: str,
    content_type: str,
    numbers: list[int],
) -> None:
    (answer,) = ask(handler, GOOD[name])
    assert answer.status == (200, "OK")
    assert answer.content_type == content_type
    assert type(answer.body) is bytes
    if content_type == JSON:
        predictions = np.array(json.loads(answer.body)["predictions"])
    else:
        predictions = np.frombuffer(answer.body, "<f4").reshape(-1, 4)
    parity_report = json.loads((unpacked_archive / "reference.json").read_text("utf-8"))
    assert predictions == pytest.approx(np.array(parity_report["predictions"])[numbers], abs=1e-6)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_gets_its_status_and_problem(handler: FlipHandler, name: str) -> None:
    request, status, code = BAD[name]
    (answer,) = ask(handler, request)
    assert answer.status[0] == status
    assert answer.status[1].isascii()
    assert answer.status[1]
    assert answer.content_type == PROBLEM
    problem = json.loads(answer.body)
    assert (problem["status"], problem["code"]) == (status, code)


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("position", [0, 2, len(GOOD)])
def test_a_bad_request_changes_no_byte_of_its_neighbours(
    handler: FlipHandler, name: str, position: int
) -> None:
    batch = list(GOOD.values())
    batch.insert(position, BAD[name][0])
    alone = [ask(handler, request)[0] for request in batch]
    together = ask(handler, *batch)
    assert all(map(same, together, alone))
    assert [answer.status[0] == 200 for answer in alone].count(False) == 1


def test_a_batch_of_bad_requests_only_rejects_each(handler: FlipHandler) -> None:
    answers = ask(handler, *(request for request, _, _ in BAD.values()))
    assert [answer.status[0] for answer in answers] == [status for _, status, _ in BAD.values()]


V2 = b'{"inputs": [{"name": "packed", "datatype": "UINT8", "shape": [1], "data": [182]}]}'


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        (JSON, GOOD["json"].body, 200),
        (JSON, V2, 200),
        *((JSON, body, 400) for body in (b"[11]", b"11", b'"0110"', b"true", b'["\\ud800"]')),
        (JSON, b'{"images": [NaN]}', 400),
        ("text/plain", b"b6 9", 200),
        ("text/plain", "\u00e4".encode(), 400),
        ("text/html", b"b6", 415),
    ],
)
def test_what_torchserve_decodes_by_default_is_read_alike(
    handler: FlipHandler, content_type: str, body: bytes, status: int
) -> None:
    decoded = json.loads(body) if content_type == JSON else body.decode()
    headers = {"Content-Type": content_type}
    given, found = (ask(handler, Request(each, headers))[0] for each in (body, decoded))
    assert found.status[0] == status
    assert same(found, given) or (status == 400 and found.status == given.status)
    part = {"Content-Type": "multipart/form-data; boundary=b", "data": {"content-type": JSON}}
    data = [{"data": json.loads(V2)}]
    context = FakeContext(Path(), request_headers=[part])
    assert handler.handle(data, context) == [
        ask(handler, Request(V2, {"Content-Type": JSON}))[0].body
    ]


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
    deep, good = ask(handler, Request(document, {"Content-Type": JSON}), GOOD["even"])
    assert json.loads(deep.body)["code"] == "invalid_json"
    assert good.status == (200, "OK")


@pytest.mark.parametrize(("batch_size", "most"), [(None, 6_500_000), (1, 6_500_000), (16, 625_000)])
def test_torchserve_decodes_the_answers_of_a_batch_in_a_second(
    unpacked_archive: Path, batch_size: int | None, most: int
) -> None:
    handler = FlipHandler()
    handler.initialize(FakeContext(unpacked_archive, batch_size))
    assert handler._most_bytes == most


@pytest.mark.parametrize("accept", [PACKED, JSON, "text/plain"])
def test_an_answer_too_large_for_torchserve_names_the_port_without_that_limit(
    handler: FlipHandler, accept: str
) -> None:
    headers = {"Content-Type": PACKED, "Accept": accept}
    large = Request(b"\x73" * (80_000 if accept == PACKED else 60_000), headers)
    before, rejected, after = ask(handler, GOOD["even"], large, GOOD["odd"])
    assert (before.status[0], rejected.status[0], after.status[0]) == (200, 413, 200)
    problem = json.loads(rejected.body)
    assert problem["code"] == "too_many_images"
    assert "port 8080" in problem["detail"]
    limit = int(rejected.headers["Flip-Max-Images"])
    (answer,) = ask(handler, Request(large.body[: limit // 2], headers))
    assert answer.status[0] == 200
    assert 0.99 * handler._most_bytes < len(answer.body) <= handler._most_bytes


def test_torchserve_logs_no_line_a_request_but_its_metrics(
    unpacked_archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (None, "ts.metrics.caching_metric"):
        caplog.set_level(logging.NOTSET, name)  # and as it was at the end
    FlipHandler().initialize(FakeContext(unpacked_archive))
    assert not logging.getLogger("ts.service").isEnabledFor(logging.INFO)
    assert logging.getLogger("ts.metrics.caching_metric").isEnabledFor(logging.INFO)


def test_describe_says_what_is_served_and_how(handler: FlipHandler) -> None:
    context = FakeContext(Path(), request_headers=[{"describe": "True"}])
    (body,) = handler.handle([{}], context)
    (beside, asked, _) = ask(handler, GOOD["odd"], Request(b"", {"Accept": "*/*"}), GOOD["even"])
    assert (asked.status, asked.content_type, asked.body) == ((200, "OK"), JSON, body)
    assert beside.body == ask(handler, GOOD["odd"])[0].body
    assert ask(handler, Request(b"", {}))[0].body == body
    description = json.loads(body)
    assert description["workers"] is None
    assert description["model"] == "diagonal_flip"
    assert description["wire_version"] == WIRE_VERSION
    assert (description["device"], description["runtime"]) == ("cpu", "ONNX Runtime")
    assert description["max_images"] == MAX_IMAGES
    assert 0 <= description["largest_deviation"] <= 1e-6
    assert description["batch_invariant"] is handler.service._engine.batch_invariant
    assert {PACKED, JSON, "text/plain", "image/png"} < set(description["request_media_types"])
    assert {PACKED, JSON, "text/plain", "image/png"} < set(description["response_media_types"])


def test_a_client_that_sends_describe_takes_no_answer_from_its_neighbours(
    handler: FlipHandler,
) -> None:
    body, headers = GOOD["even"]
    context = FakeContext(Path(), request_headers=[{"describe": "True"}, headers])
    bodies = handler.handle([{"body": bytearray()}, {"body": body}], context)
    assert bodies[1] == ask(handler, GOOD["even"])[0].body
    assert context.statuses[1] == (200, "OK")


def test_a_good_answer_says_what_answered_and_how_long_it_took(
    handler: FlipHandler, unpacked_archive: Path
) -> None:
    body, headers = GOOD["odd"]
    echo = {"x-request-id": "a.b:1-2", "TraceParent": "00-ab-cd-01"}
    (answer,) = ask(handler, Request(body, headers | echo))
    digest = hashlib.sha256((unpacked_archive / "diagonal_flip.pt").read_bytes()).hexdigest()
    timing = answer.headers.pop("Server-Timing")
    assert re.fullmatch(
        r"decode;dur=\d+\.\d{3}, forward;dur=\d+\.\d{3}, encode;dur=\d+\.\d{3}", timing
    )
    assert answer.headers == {
        "Flip-Images": "3",
        "Flip-Model-Version": "1.0",
        "Flip-Model-Digest": digest,
        "Flip-Flips": "1",
        "Flip-Wire-Version": WIRE_VERSION,
        "Flip-Device": "cpu",
        "Flip-Request-Id": "a.b:1-2",
        "traceparent": "00-ab-cd-01",
    }


@pytest.mark.parametrize("value", ["", "a\r\nb: c", "ä", "x" * 129, "a b"])
def test_what_could_break_a_header_is_not_echoed(handler: FlipHandler, value: str) -> None:
    body, headers = GOOD["odd"]
    (answer,) = ask(handler, Request(body, headers | {"X-Request-Id": value}))
    assert "Flip-Request-Id" not in answer.headers


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        *(("*", 200), ('"{}"', 200), ("{}", 200), ('"other", "{}"', 200)),
        *(('"other","{}"', 200), ('"other"', 412), ("", 412)),
    ],
)
def test_if_match_admits_the_model_that_is_served(
    handler: FlipHandler, wanted: str, status: int
) -> None:
    body, headers = GOOD["odd"]
    digest = ask(handler, GOOD["odd"])[0].headers["Flip-Model-Digest"]
    (answer,) = ask(handler, Request(body, headers | {"If-Match": wanted.format(digest)}))
    assert answer.status[0] == status


@pytest.mark.parametrize("step", ["read", "answer"])
def test_a_fault_of_ours_stays_with_its_own_request(
    handler: FlipHandler, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    victim, neighbour = GOOD["json"], GOOD["even"]
    alone = ask(handler, neighbour)[0]
    if step == "read":
        monkeypatch.setitem(decoders.DECODERS, JSON, fail)
    else:
        monkeypatch.setitem(encoders.ENCODERS, JSON, fail)
    first, second = ask(handler, victim, neighbour)
    assert first.status[0] == 500
    assert json.loads(first.body)["code"] == "internal_error"
    assert same(second, alone)


def test_a_failed_forward_pass_is_a_500_for_the_accepted_only(
    handler: FlipHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("CUDA error: a secret of the machine")

    monkeypatch.setattr(handler.service._engine, "predict", fail)
    good, (bad, _, _), also_good = GOOD["even"], BAD["image"], GOOD["json"]
    answers = ask(handler, good, bad, also_good)
    assert [answer.status[0] for answer in answers] == [500, 400, 500]
    for index in (0, 2):
        assert answers[index].content_type == PROBLEM
        assert json.loads(answers[index].body)["code"] == "internal_error"
        assert b"secret" not in answers[index].body


def test_answers_survive_later_batches_of_any_thread(handler: FlipHandler) -> None:
    bodies = [bytes([0x11 * image]) * 20_000 for image in range(16)]
    alone = [ask(handler, Request(body, {"Content-Type": PACKED}))[0].body for body in bodies]
    assert len(set(alone)) > 8
    requests = [Request(body, {"Content-Type": PACKED}) for body in bodies] * 4
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda request: ask(handler, request)[0], requests))
    assert [answer.body for answer in answers] == alone * 4


@pytest.mark.parametrize("parity_report", [None, "{", "{}", "[]", '{"predictions": "x"}'])
def test_a_damaged_parity_report_is_an_artifact_error(
    unpacked_archive: Path, tmp_path: Path, parity_report: str | None
) -> None:
    shutil.copytree(unpacked_archive, tmp_path / "copy")
    (tmp_path / "copy/reference.json").unlink()
    if parity_report is not None:
        (tmp_path / "copy/reference.json").write_text(parity_report, encoding="utf-8")
    with pytest.raises(ArtifactError):
        FlipHandler().initialize(FakeContext(tmp_path / "copy"))
