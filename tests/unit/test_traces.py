"""Traces follow OpenTelemetry's variables."""

from __future__ import annotations

from time import perf_counter
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from diagonalflip.message import Operation, Request, Response, Times
from diagonalflip.server.worker import traces
from diagonalflip.server.worker.observers import observers, traces_wanted
from diagonalflip.wire import Images


def resource(monkeypatch: pytest.MonkeyPatch, **variables: str) -> dict[str, Any]:
    """Return what the spans of a new process are of."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    given: list[Any] = []

    def provider(**arguments: Any) -> TracerProvider:
        given.append(arguments["resource"])
        return TracerProvider(shutdown_on_exit=False, **arguments)

    monkeypatch.setattr(traces, "TracerProvider", provider)
    monkeypatch.setattr(traces, "BatchSpanProcessor", lambda _: None)
    monkeypatch.setattr(TracerProvider, "add_span_processor", lambda *_: None)
    traces.Traces()
    return dict(given[0].attributes)


def test_service_and_process_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = resource(monkeypatch), resource(monkeypatch)
    assert one["service.name"] == two["service.name"] == "diagonalflip"
    assert one["service.instance.id"] != two["service.instance.id"]
    told = {"service.name": "flips", "service.instance.id": "one", "deployment.environment": "x"}
    pairs = ",".join(f"{name}={value}" for name, value in told.items())
    found = resource(monkeypatch, OTEL_RESOURCE_ATTRIBUTES=pairs, OTEL_SERVICE_NAME="")
    assert found.items() >= told.items()
    assert resource(monkeypatch, OTEL_SERVICE_NAME="named")["service.name"] == "named"


def test_empty_variables_are_as_if_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRACES_EXPORTER", "SDK_DISABLED", "EXPORTER_OTLP_PROTOCOL"):
        monkeypatch.setenv(f"OTEL_{name}", "")
    assert not traces_wanted()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")
    assert not traces_wanted()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert traces_wanted()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("TRACES_EXPORTER", "none", ""),
        ("SDK_DISABLED", "TRUE", ""),
        ("TRACES_EXPORTER", "zipkin", "asks for zipkin, and only otlp is sent"),
        ("EXPORTER_OTLP_PROTOCOL", "grpc", "asks for grpc, and only http/protobuf is sent"),
    ],
)
def test_why_nothing_is_sent_is_told_unless_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    value: str,
    told: str,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(f"OTEL_{name}", value)
    assert not traces_wanted()
    assert caplog.messages == [f"No traces: OTEL_* {told}"] * bool(told)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("BSP_MAX_QUEUE_SIZE", "-1", "max_queue_size"),
        ("PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "gcp", "Requested component 'gcp'"),
    ],
)
def test_variables_that_cannot_be_used_cost_traces_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    value: str,
    told: str,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(f"OTEL_{name}", value)
    assert observers(0, None) == []
    assert f"No traces: {told}" in caplog.messages[-1]


def test_spans_have_the_time_of_a_clock_that_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    resource(monkeypatch)  # which sends nothing
    made, tracer = traces.Traces(), MagicMock()
    monkeypatch.setattr(made, "_tracer", tracer)
    monkeypatch.setattr(traces, "time_ns", lambda: 0)
    now = perf_counter()
    made.add([], now, now)
    assert abs(tracer.start_span.call_args.kwargs["start_time"]) < 60e9


def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Return what keeps the spans of the next ``Traces``."""
    kept = InMemorySpanExporter()
    monkeypatch.setattr(traces, "OTLPSpanExporter", lambda: kept)
    monkeypatch.setattr(traces, "BatchSpanProcessor", SimpleSpanProcessor)
    return kept


def request() -> Request:
    listener = cast("Any", SimpleNamespace(listener="http"))
    return Request(Operation.PREDICT, {}, transport=listener)


def test_the_second_version_of_a_batch_begins_after_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept, now, seconds = exported(monkeypatch), perf_counter(), (0.25, 0.5, 0.125)
    one, two = asked = request(), request()
    for each, started in ((one, now), (two, now + 1)):
        each.images, each.arrived = Images(b"", 0), now
        each.response = Response(b"", "", times=Times(started, *seconds))
    traces.Traces().add(asked, now, now + 2)
    began = [
        {span.name: span.start_time or 0 for span in kept.get_finished_spans()[first : first + 4]}
        for first in (1, 6)
    ]
    assert began[0].keys() == {"queue", "decode", "forward", "encode"}
    assert began[1].pop("queue") == began[0].pop("queue")
    assert {round((began[1][name] - began[0][name]) / 1e6) for name in began[0]} == {1000}
    assert round((began[0]["forward"] - began[0]["decode"]) / 1e6) == 250


def test_a_rejected_request_is_a_span_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spans of one that is answered are in tests/integration/test_observed.py."""
    kept, bad, full = exported(monkeypatch), request(), request()
    bad.response = Response(b"", "", 400, code="empty_payload")
    full.response = Response(b"", "", 503, code="server_overloaded")
    now, made = perf_counter(), traces.Traces()
    made.add([bad, full], None, now)  # no batch answered them
    assert not kept.get_finished_spans()
    made.add([bad, full], now, now + 1)
    batch, queue, rejected, _, failed = kept.get_finished_spans()
    assert [batch.name, queue.name, rejected.name] == ["batch", "queue", "predict"]
    assert queue.parent == rejected.context
    assert rejected.status.is_ok, "it is the client that failed"
    assert rejected.attributes is not None
    assert rejected.attributes["flip.code"] == "empty_payload"
    assert (failed.status.is_ok, failed.status.description) == (False, "server_overloaded")
