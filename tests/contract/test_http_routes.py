"""Which path is answered by what, for whom, and what is told of it: errors, log, metrics."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from diagonalflip.message import Operation
from diagonalflip.server.http import limits
from diagonalflip.server.http.authentication import HEALTH
from diagonalflip.server.worker import access
from diagonalflip.server.worker.access import AccessLog
from diagonalflip.server.worker.observers import observers
from diagonalflip.wire import JSON
from tests.contract.conftest import BEARER, PATH, PING, Answer, Port, post, read

CALLS, PROBES = "GET, HEAD, POST, PUT, OPTIONS", "GET, HEAD, OPTIONS"
V2 = "/v2/models/diagonal_flip"
EXPLANATIONS = PATH.replace("predictions", "explanations")


def asking(method: str, target: str, extra: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: a\r\n{extra}\r\n".encode()


def ask_public(port: Port, method: str, path: str, extra: str = BEARER) -> Answer:
    with port.connect_public() as client:
        client.sendall(asking(method, path, extra))
        return read(client, method)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        *((f"{path}{version}", CALLS) for path in (PATH, EXPLANATIONS) for version in ("", "/1.0")),
        (f"{V2}/infer", CALLS),
        *((path, PROBES) for path in sorted(HEALTH)),
        *((path, PROBES) for path in ("/v2", V2, f"{V2}/ready", f"{V2}/versions/1.0")),
        *((path, "") for path in ("/docs", "/status", "/weights.json", "/weights/1.0.json")),
    ],
)
def test_each_path_has_its_methods_and_listeners(guarded: Port, path: str, allowed: str) -> None:
    """What is for people on this host alone is allowed nothing at the public listener."""
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        with guarded.connect() as client:
            client.sendall(asking(method, path) + post(b"next"))
            here = read(client, method)
            assert here.headers["cache-control"] == "no-store", "a CDN would keep what is healthy"
            assert read(client).body == b"next"
        there = ask_public(guarded, method, path)
        for answer, methods in ((here, allowed or PROBES), (there, allowed)):
            if not methods:
                assert answer.status == 404
            elif method not in methods:
                assert (answer.status, answer.headers["allow"]) == (405, methods)
                assert path.startswith("/v2") or answer.code == "method_not_allowed"
            else:
                assert answer.status == 200
            if methods and method == "OPTIONS":
                assert (answer.headers["allow"], answer.body) == (methods, b"")
        stranger = ask_public(guarded, method, path, extra="")
        assert (stranger.status == 401) == (path not in HEALTH)


def test_the_server_itself_has_options(port: Port) -> None:
    answer = port.ask(asking("OPTIONS", "*"))
    assert (answer.status, answer.headers["allow"], answer.body) == (200, CALLS, b"")


@pytest.mark.parametrize(
    ("target", "operation"),
    [
        *(
            (target, Operation.PREDICT)
            for target in (
                *(PATH, f"{PATH}/1.0", f"{PATH}/", f"{PATH}/1.0//", f"{PATH}?a=b", f"{PATH}/?"),
                *(PATH.replace("_", "%5F"), PATH.replace("_", "%5f"), PATH.replace("p", "%70", 1)),
                *(f"http://127.0.0.1:8080{PATH}", f"HTTP://a{PATH}/?a", f"{PATH}?explain=True"),
            )
        ),
        (EXPLANATIONS, Operation.EXPLAIN),
        (f"{V2}/infer", Operation.INFER),
    ],
)
def test_a_path_may_be_written_in_every_way_and_alone_tells_what_is_asked(
    port: Port, target: str, operation: Operation
) -> None:
    for extra in ("", "explain: True\r\n", "Explain: True\r\n", "describe: True\r\n"):
        request = post(b"a", extra).replace(PATH.encode(), target.encode())
        assert port.ask(request).body == b"a"
        assert port.ask(request.replace(b"POST", b"PUT")).body == b"a"
    assert {request.operation for request in port.echo.requests} == {operation}


def test_trailers_are_no_headers(port: Port) -> None:
    head = asking("POST", PATH, "Transfer-Encoding: chunked\r\nAccept: image/png\r\n")
    trailers = b"Accept: text/plain\r\nX-More: b\r\n\r\n"
    assert port.ask(head + b"1\r\na\r\n0\r\n" + trailers).body == b"a"
    headers = port.echo.requests[-1].headers
    assert (headers["accept"], "x-more" in headers) == ("image/png", False)


@pytest.mark.parametrize(
    "target",
    [
        *("/", "http://a", "/predictions", f"{PATH}x", f"/{PATH[1:]}%2F1.0%00", "/models"),
        *("/predictions/other", f"{PATH}/../../models", "/metrics", "/workflows?url=x"),
        *("/%00%0a%3F%25%", "/%" + "2f" * 2000, f"{PATH}/9.0"),
    ],
)
def test_other_paths_are_served_nowhere(guarded: Port, target: str) -> None:
    for answer in (guarded.ask(asking("GET", target)), ask_public(guarded, "POST", target)):
        assert (answer.status, answer.code) == (404, "model_not_found")
        assert answer.headers["content-type"] == "application/problem+json"
    assert ask_public(guarded, "GET", target, extra="").status == 401


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (asking("POST", f"{V2}/versions/9/infer"), 404),
        (asking("GET", "/v2/nowhere"), 404),
        (asking("DELETE", f"{V2}/infer"), 405),
        (asking("POST", "/v2/health/live"), 405),
        (asking("POST", f"{V2}/infer", f"Content-Length: {1 << 30}\r\n"), 413),
        (asking("POST", f"{V2}/infer", f"x: {'a' * 40_000}\r\n"), 431),
        (asking("POST", f"{V2}/infer", "Host: b\r\n"), 400),
        (f"POST {V2}/infer HTTP/1.1\r\n\r\n".encode(), 400),
        (asking("POST", f"{V2}/infer", "Content-Length: 100\r\n") + bytes(100), 503),
        (asking("POST", f"{V2}/infer", "Content-Length: 1\r\n") + b"a", 500),
    ],
)
def test_who_speaks_v2_is_told_in_v2_what_is_wrong(
    port: Port, monkeypatch: pytest.MonkeyPatch, asked: bytes, status: int
) -> None:
    monkeypatch.setattr(limits, "QUEUED_IMAGES", 100)
    monkeypatch.setattr(port.echo, "answer", None)  # a fault of ours
    answer = port.ask(asked)
    assert (answer.status, answer.headers["content-type"]) == (status, JSON)
    document = json.loads(answer.body)
    assert document.keys() == {"error"}
    assert (status == 404) == ("1.0" in document["error"]), "what is there"


def test_the_access_log_goes_on_when_a_cleaner_has_taken_its_folder(
    port: Port, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "logs/access.log"
    file.parent.mkdir()
    log = AccessLog(file)
    port.metrics.observers = [log]
    port.ask(post(b"a"))
    port.wait_for(lambda: file.exists() and file.read_bytes())
    shutil.rmtree(file.parent)
    monkeypatch.setattr(access, "time", lambda: 0.0)  # and somebody has set the clock
    port.ask(PING)
    port.do(log.close)
    [line] = map(json.loads, file.read_text().splitlines())
    assert (line["path"], line["time"][:4]) in (("/ping", "1969"), ("/ping", "1970"))


def test_a_pipe_in_the_place_of_the_access_log_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(tmp_path / "access-0.log")
    assert observers(0, tmp_path) == []
    assert "No access log" in caplog.text


def test_an_access_log_whose_disk_hangs_drops_lines_and_stops_nobody(
    port: Port, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access, "WAITING_BATCHES", 1)
    log, hangs = AccessLog(tmp_path / "access.log"), threading.Event()
    emit = log._handler.emit
    monkeypatch.setattr(log._handler, "emit", lambda record: hangs.wait(30) and emit(record))
    port.metrics.observers = [log]
    for _ in range(5):
        assert port.ask(PING).status == 200
    closing = threading.Thread(target=log.close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive(), "it waits for what can still be written"
    hangs.set()
    closing.join(30)
    written = len((tmp_path / "access.log").read_text().splitlines())
    assert 1 <= written < 5
    assert caplog.text.count("too slow for the access log") == 1
    assert f"{5 - written} lines of the access log were dropped" in caplog.text


def test_every_answer_is_a_line_of_the_access_log(port: Port, tmp_path: Path) -> None:
    log = AccessLog(tmp_path / "access.log")
    port.metrics.observers = [log]
    for ask in (
        post(b"a", "X-Request-Id: one\r\n"),
        asking("GET", "/nowhere", "X-Request-Id: two\r\n"),
        asking("DELETE", PATH),
        asking("OPTIONS", PATH),
        asking("POST", PATH, f"Content-Length: {1 << 30}\r\n"),
        asking("POST", PATH, f"x: {'a' * 40_000}\r\n"),
        b"rubbish\r\n\r\n",
        PING,
    ):
        port.ask(ask)
    with port.connect() as late:
        late.sendall(PING + post(b"late")[:-1])
        assert read(late).status == 200
        port.do(int)  # it has read the rest
        [slow] = [each for each in port.server.connections if each._parser.is_awaited]
        port.do(slow.expire)
        assert read(late).status == 408
    port.do(log.close)
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    told = [(line["status"], line["method"], line["path"], line["operation"]) for line in lines]
    assert told == [
        (200, "POST", PATH, "predict"),
        (404, "GET", "/nowhere", ""),
        (405, "DELETE", PATH, "predict"),
        (200, "OPTIONS", PATH, "predict"),
        (413, "POST", PATH, "predict"),
        (431, "", PATH, ""),
        (400, "", "", ""),
        (200, "GET", "/ping", ""),
        (200, "GET", "/ping", ""),
        (408, "POST", PATH, "predict"),
    ]
    assert [line["request_id"] for line in lines[:2]] == ["one", "two"]
    assert all(0 <= line["ms"] < 60_000 and line["listener"] == "http" for line in lines)
    assert lines[0]["bytes"] == 1


def test_what_happened_is_counted_once(port: Port) -> None:
    for request in (post(b"a"), post(b"b"), asking("GET", "/nowhere"), PING):
        port.ask(request)
    port.do(port.metrics.fold)
    families = port.metrics.state()["families"]
    durations = families["request_duration_seconds"]
    answered = {tuple(labels): sum(each["counts"]) for labels, each in durations}
    assert {of: count for of, count in answered.items() if count} == {("http", "predict", "200"): 2}
    assert sum(families["queue_seconds"][0][1]["counts"]) == 2
    assert 0 < families["queue_seconds"][0][1]["sum"] < 30
    rejected = {code: count for [code], count in families["rejected"] if count}
    assert rejected == {"model_not_found": 1}, "a probe is no request"
