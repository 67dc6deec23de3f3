"""Traces by OpenTelemetry, if its standard variables ``OTEL_*`` ask for them.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from time import perf_counter, time_ns
from uuid import uuid4

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from diagonalflip.message import Request

FLUSH_MS = 2000


class Traces:
    """Makes a span for each request, child of its ``traceparent``, with a child for each step.

    A batch is a span in a trace of its own; the step ``forward`` links to it.
    """

    def __init__(self) -> None:
        self._provider = TracerProvider(resource=_resource())
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("diagonalflip")
        self._callers = TraceContextTextMapPropagator()

    def add(self, requests: Sequence[Request], started: float | None, finished: float) -> None:
        """Trace the requests of one batch; a request that no batch answered has no span."""
        if started is None:
            return
        self._epoch_ns = time_ns() - int(perf_counter() * 1e9)  # the clock may have been set
        batch = self._tracer.start_span("batch", start_time=self._ns(started))
        batch.set_attribute("flip.requests", len(requests))
        batch.end(self._ns(finished))
        link = Link(batch.get_span_context())
        for request in requests:
            arrived, response = request.arrived, request.response
            span = self._tracer.start_span(
                str(request.operation),
                context=self._callers.extract(request.headers),
                kind=SpanKind.SERVER,
                start_time=self._ns(arrived),
                attributes={
                    "flip.listener": request.transport.listener,
                    "http.response.status_code": response.status,
                },
            )
            context = set_span_in_context(span)
            times = response.times
            steps = [("queue", arrived, started if times is None else times.started)]
            if response.code:
                span.set_attribute("flip.code", response.code)
                if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:  # below: a client's error
                    span.set_status(Status(StatusCode.ERROR, response.code))
            if times is not None:
                span.set_attribute("flip.form", request.form)
                span.set_attribute("flip.images", request.images.count)
                decoded = times.started + times.decode_s
                computed = decoded + times.forward_s
                steps.append(("decode", times.started, decoded))
                steps.append(("forward", decoded, computed))
                steps.append(("encode", computed, computed + times.encode_s))
            for step, begin, end in steps:
                links = [link] if step == "forward" else []
                start_ns = self._ns(begin)
                child = self._tracer.start_span(step, context, links=links, start_time=start_ns)
                child.end(self._ns(end))
            span.end(self._ns(finished))

    def close(self) -> None:
        """Send the spans that are left."""
        self._provider.force_flush(FLUSH_MS)

    def _ns(self, seconds: float) -> int:
        return self._epoch_ns + int(seconds * 1e9)


def _resource() -> Resource:
    """Return the spans' resource: the variables' attributes, else ours.

    With ``Resource.create`` alone, ours would win.
    """
    ours = {"service.name": "diagonalflip", "service.instance.id": str(uuid4())}
    return Resource.create(ours | dict(OTELResourceDetector().detect().attributes))
