"""Who is told of every request, where the environment asks for it: access log and traces."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from worker.access import AccessLog
from worker.metrics import Watcher

logger = logging.getLogger(__name__)


def traces_wanted() -> bool:
    """Whether OpenTelemetry's variables say where traces go, and do not switch them off."""
    places = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    off = os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    off |= os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return any(os.environ.get(place) for place in places) and not off


def watchers(number: int) -> list[Watcher]:
    """Those that the environment asks of worker ``number``."""
    asked: list[Watcher] = []
    if "FLIP_ACCESS_LOG" in os.environ:
        asked.append(AccessLog(Path(os.environ["FLIP_ACCESS_LOG"]) / f"access-{number}.log"))
    try:
        if traces_wanted():
            from worker.traces import Traces  # noqa: PLC0415 - an optional extra

            asked.append(Traces(number))
    except ImportError:
        logger.warning("OTEL_* asks for traces, and diagonalflip[traces] is not installed")
    return asked
