"""Restarts of parts that ended, and the operations port's account of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diagonalflip.errors import SettingError
from diagonalflip.message import Request, Response, Verb
from supervisor import supervisor
from supervisor.metrics import Page
from supervisor.operations import Health
from supervisor.proof import Prover
from supervisor.settings import Settings, refuse_unsafe
from supervisor.supervisor import GaveUpError, Lives
from tests.contract.test_proof import MODELS
from worker.metrics import FRONT, Metrics


def test_pauses_grow_and_end() -> None:
    lives = Lives("torchserve")
    pauses = [lives.ended() for _ in range(supervisor.MAX_SHORT_LIVES)]
    assert pauses == [0, 1, 3, 7, 15]
    with pytest.raises(GaveUpError, match="torchserve"):
        lives.ended()


def test_a_long_life_is_no_part_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    lives = Lives("torchserve")
    for _ in range(3):
        lives.ended()
    monkeypatch.setattr(supervisor, "STABLE_S", -1.0)
    assert lives.ended() == 0


def test_readiness_is_earned_and_lost(tmp_path: Path) -> None:
    health = Health()
    assert not health.ready
    health.prover = Prover(tmp_path, 2, MODELS, 1.0)
    health.prover.workers[0].proven = True
    assert not health.ready, "not yet every worker"
    health.earned = True
    assert health.ready
    health.prover.workers[0].proven = False
    assert not health.ready, "no worker is left"
    health.prover.workers[1].proven = True
    health.draining = True
    assert not health.ready, "it stops"


def test_metrics_of_every_part_are_on_one_page(tmp_path: Path) -> None:
    health = Health(Prover(tmp_path, 2, MODELS, 1.0), earned=True)
    health.restarts["worker"] += 3
    paths = [tmp_path / f"{number}.metrics" for number in range(2)]
    for number, path in enumerate(paths):
        metrics = Metrics(number, path)
        entry = (FRONT, Request(Verb.PREDICT, {}), 1.0, Response(b"", "", headers=TRACED))
        metrics.add([entry], 1.5, 2.0)
        metrics.fold()
        metrics.publish()
    health.pages = lambda: [path.read_text() for path in paths]
    page = Page(health).render("text/plain")[0].decode()
    counted = 'diagonalflip_request_duration_seconds_count{code="200",door="http",verb="predict"'
    expected = {
        "diagonalflip_ready 0.0",
        "diagonalflip_workers 2.0",
        'diagonalflip_proofs_total{result="wrong"} 0.0',
        'diagonalflip_restarts_total{part="worker"} 3.0',
        'diagonalflip_restarts_total{part="torchserve"} 0.0',
        *(counted + f',worker="{number}"}} 1.0' for number in range(2)),
    }
    assert expected <= set(page.splitlines())
    names = re.findall(r"^# TYPE (\S+)", page, re.MULTILINE)
    assert len(names) == len(set(names)), "each family once"
    health.pages = list
    page = Page(health).render("text/plain")[0].decode()
    assert "request_duration_seconds_count" not in page, "they are gone"


def test_a_trace_stands_for_requests_like_its(tmp_path: Path) -> None:
    metrics = Metrics(0, tmp_path / "page")
    entry = (FRONT, Request(Verb.PREDICT, {}), 1.0, Response(b"", "", headers=TRACED))
    metrics.add([entry], 1.5, 2.0)
    metrics.fold()
    metrics.publish()
    health = Health(pages=lambda: [(tmp_path / "page").read_text()])
    page, media_type = Page(health).render("application/openmetrics-text; version=1.0.0")
    assert media_type.startswith("application/openmetrics-text")
    assert re.search(rf'le="1\.6384".* # \{{trace_id="{TRACE}"\}} 1\.0'.encode(), page)


def test_the_live_figures_are_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.0, 102.0, 106.0, 106.0])  # a fold reads it twice
    monkeypatch.setattr("worker.metrics.perf_counter", lambda: next(clock))
    metrics = Metrics()
    work = ("packed", 8, 0.0, 0.0, 0.0)
    entry = (FRONT, Request(Verb.PREDICT, {}), 1.0, Response(b"", "", work=work))
    metrics.add([entry] * 10, 1.0, 1.5)
    metrics.fold()
    assert (metrics.recent["requests"], metrics.recent["images"]) == (5.0, 40.0)
    assert metrics.recent["p50_s"] == metrics.recent["p99_s"] == 0.5
    metrics.add([entry] * 4, 1.0, 1.5)
    metrics.fold()
    assert metrics.recent["requests"] == 1.0


@pytest.mark.parametrize("traceparent", ["x", "00-4bf92f-00f067-01", "-", "0" * 128])
def test_a_trace_that_is_none_stands_for_nothing(tmp_path: Path, traceparent: str) -> None:
    metrics = Metrics(0, tmp_path / "page")
    response = Response(b"", "", headers={"traceparent": traceparent})
    metrics.add([(FRONT, Request(Verb.PREDICT, {}), 1.0, response)], 1.5, 2.0)
    metrics.fold()
    told = metrics.state()["families"]["request_duration_seconds"]
    assert not any(histogram["exemplars"] for _, histogram in told)


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACED = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
TOKENS, PEM = Path("tokens"), Path("x.pem")


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(host="127.0.0.2"),
        Settings(host="::1"),
        Settings(host="localhost"),
        Settings(tokens_file=TOKENS),
        Settings(host="0.0.0.0", tokens_file=TOKENS, tls_cert=PEM, tls_key=PEM),
        Settings(host="0.0.0.0", tokens_file=TOKENS, plain_http=1),
    ],
)
def test_what_is_safe_may_start(settings: Settings) -> None:
    refuse_unsafe(settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (Settings(host="0.0.0.0"), "TOKENS_FILE"),
        (Settings(host="::", tls_cert=PEM, tls_key=PEM), "TOKENS_FILE"),
        (Settings(host="example.org", plain_http=1), "TOKENS_FILE"),
        (Settings(host="10.0.0.1", tokens_file=TOKENS), "TLS_CERT"),
        (Settings(tls_cert=PEM), "TLS_KEY"),
    ],
)
def test_what_is_not_safe_is_refused(settings: Settings, told: str) -> None:
    with pytest.raises(SettingError, match=told):
        refuse_unsafe(settings)
