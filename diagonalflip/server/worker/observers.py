"""Optional receivers of every request: the access log, and traces."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from diagonalflip.server.worker.access import AccessLog
from diagonalflip.server.worker.metrics import Observer

EXPORTER, PROTOCOL = "otlp", "http/protobuf"

logger = logging.getLogger(__name__)


def traces_wanted() -> bool:
    """Return whether OpenTelemetry's variables turn traces on, by a protocol that is supported."""
    places = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or EXPORTER
    off = exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or not any(os.environ.get(place) for place in places):
        return False
    named = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((os.environ[name] for name in named if os.environ.get(name)), PROTOCOL)
    for asked, sent in ((exporter, EXPORTER), (protocol, PROTOCOL)):
        if asked != sent:
            logger.warning("No traces: OTEL_* asks for %s, and only %s is sent", asked, sent)
            return False
    return True


def observers(number: int, access_log: Path | None) -> list[Observer]:
    """Return the observers of worker ``number``: an access log in that folder, and traces."""
    found: list[Observer] = []
    if access_log is not None:
        try:
            access_log.mkdir(parents=True, exist_ok=True)
            found.append(AccessLog(access_log / f"access-{number}.log"))
        except OSError as error:
            logger.error("No access log: %s", error)  # noqa: TRY400
    try:
        if traces_wanted():
            from diagonalflip.server.worker.traces import Traces  # noqa: PLC0415 - an optional extra

            found.append(Traces())
    except ImportError:
        logger.warning("OTEL_* asks for traces, and diagonalflip[traces] is not installed")
    except Exception as error:
        logger.warning("No traces: %s, as OTEL_* asks for", error)
    return found
