"""Traces and the access log of the running server: the outcome of each request."""

from __future__ import annotations

import contextlib
import json
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from diagonalflip.wire import OCTETS
from tests.faults.fake_server import listening, read_request, response
from tests.integration.conftest import run_server

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP collector over HTTP: its URL, and the spans that it is sent."""
    spans: list[Any] = []

    async def collect(reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(IncompleteReadError):
            while True:
                _, body = await read_request(reader)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend(scope.spans)
                writer.write(response(200, {}, b""))
        writer.close()

    with listening(collect) as url:
        yield url, spans


def test_a_request_is_a_line_and_a_span_of_its_trace(artifacts: Path, tmp_path: Path) -> None:
    empty = ("TRACES_EXPORTER", "EXPORTER_OTLP_TIMEOUT", "TRACES_SAMPLER", "SERVICE_NAME")
    settings = {f"OTEL_{name}": "" for name in empty} | {"ACCESS_LOG": "1", "WORKERS": "1"}
    headers = {"X-Request-Id": 'a "quoted" one', "Content-Type": OCTETS}
    trace = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    with (
        collector() as (url, sent),
        run_server(artifacts, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=url, **settings) as server,
    ):
        answer = requests.post(server.url, b"\xb6", headers=headers | trace, timeout=30)
        assert answer.headers["traceparent"] == trace["traceparent"]
        requests.post(server.url, b"", headers=headers, timeout=30)
        explain = server.url.replace("predictions", "explanations")
        requests.post(explain, b"\xb6\x90", headers=headers, timeout=30)
        assert server.stop() == 0
    spans = {span.name: span for span in sent if span.trace_id.hex() == TRACE}
    root = spans["predict"]
    assert root.parent_span_id.hex() == PARENT
    attributes = {each.key: each.value for each in root.attributes}
    assert attributes["flip.images"].int_value == 2
    assert attributes["flip.form"].string_value == "packed"
    assert attributes["http.response.status_code"].int_value == 200
    for step in ("queue", "decode", "forward", "encode"):
        child = spans[step]
        assert child.parent_span_id == root.span_id
        assert root.start_time_unix_nano <= child.start_time_unix_nano
        assert child.start_time_unix_nano <= child.end_time_unix_nano <= root.end_time_unix_nano
    batch = spans["forward"].links[0].span_id
    [found] = [span for span in sent if span.span_id == batch]
    assert (found.name, found.trace_id.hex() == TRACE) == ("batch", False)
    text = (tmp_path / "access-0.log").read_text()
    lines = [line for line in map(json.loads, text.splitlines()) if line["request_id"]]
    named = ("listener", "operation", "images", "status", "code")
    assert [tuple(line[name] for name in named) for line in lines] == [
        ("http", "predict", 2, 200, ""),
        ("http", "predict", 0, 400, "empty_payload"),
        ("http", "explain", 4, 200, ""),
    ]
    for line in lines:
        assert line["request_id"] == headers["X-Request-Id"]
        assert 0 < line["ms"] < 30_000
