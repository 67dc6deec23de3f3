"""A real Prometheus on the running service: dashboard, alerts and the autoscaler's metric.

Minutes are seconds here: ranges and pauses of the rules are shortened by 60.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import psutil
import pytest
import requests
import yaml
from matplotlib.figure import Figure

from benchmarks.running import certify, process
from diagonalflip.server.supervisor import tokens
from diagonalflip.server.supervisor.ports import free_ports
from diagonalflip.wire import MAX_IMAGES, OCTETS, PACKED
from tests.conftest import execute
from tests.deploy.files import ROOT, needs_tools
from tests.integration.conftest import PATH, Server, changed_worker, run_server

pytestmark = [
    pytest.mark.slow,
    needs_tools,  # its place is `make manifests-test`: it takes two minutes
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus (Debian's)"),
    pytest.mark.timeout(300),
]

DASHBOARD = (ROOT / "docker/compose/grafana/dashboard.json").read_text()
PANELS = json.loads(DASHBOARD.replace("$__rate_interval", "1m"))["panels"]
HEAVY_CLIENTS = 240
SECONDS = {"s": 1, "m": 60, "h": 3600}

LIAR = """
from pathlib import Path
from diagonalflip.server.http.routes import WorkerServer

honest, order = WorkerServer.check, Path({lie!r})


def check(self, done):
    def answered(answers):
        if order.exists():
            order.unlink()
            for each in answers.values():
                each["predictions"] = "00" * 256
        done(answers)

    honest(self, answered)


WorkerServer.check = check
"""


def shortened(text: str) -> str:
    """Divide durations by 60, to at least 4 scrapes."""

    def shorter(found: re.Match[str]) -> str:
        return f"{max(4, int(found[1]) * SECONDS[found[2]] // 60)}s"

    return re.sub(r"\b(\d+)([smh])\b", shorter, text)


@dataclass
class Monitored:
    """A running service, and the Prometheus that scrapes it."""

    server: Server
    token: str  # of a client
    prometheus: str  # URL
    lie: Path  # file that has a worker lie once
    folder: Path  # of the certificate

    def get(self, what: str, **query: str) -> Any:
        """Return what Prometheus's API has of something."""
        url = f"{self.prometheus}/api/v1/{what}"
        answer = requests.get(url, params=query, timeout=30).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return result

    def firing(self) -> set[str]:
        alerts = self.get("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def wait(self, reached: Callable[[], object], what: str, patience_s: float = 60) -> None:
        end = time.monotonic() + patience_s
        while not reached():
            assert time.monotonic() < end, f"{what}; firing: {self.firing()}"
            time.sleep(0.2)

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """Send more than it can hold, of the largest requests; all are answered 200 or 503."""
        done = Event()
        statuses: set[int] = set()
        headers = {"Content-Type": OCTETS, "Accept": PACKED}

        def ask() -> None:
            with requests.Session() as session:
                while not done.is_set():
                    body = bytes(MAX_IMAGES // 2)
                    answer = session.post(self.server.url, body, headers=headers, timeout=60)
                    statuses.add(answer.status_code)

        threads = [Thread(target=ask) for _ in range(HEAVY_CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert statuses <= {200, 503}


def alert_groups() -> Any:
    documents = yaml.safe_load_all((ROOT / "deploy/kubernetes/base/monitoring.yaml").read_text())
    [rules] = [each for each in documents if each["kind"] == "PrometheusRule"]
    return rules["spec"]["groups"]


@pytest.fixture(scope="module")
def monitored(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    folder = tmp_path_factory.mktemp("monitored")
    port = free_ports()
    groups = alert_groups()
    for rule in groups[0]["rules"]:
        rule["expr"] = shortened(rule["expr"])
        if "for" in rule:
            rule["for"] = "1s"
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    subprocess.run(["promtool", "check", "rules", folder / "rules.yml"], check=True)
    scrape = yaml.safe_load((ROOT / "docker/compose/prometheus.yml").read_text())
    scrape["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    del scrape["scrape_configs"][0]["dns_sd_configs"]
    scrape["rule_files"] = ["rules.yml"]
    token = tokens.add(folder / "tokens", "monitored")
    certificate, key = certify(folder, days=90)
    settings = {
        "TOKENS_FILE": str(folder / "tokens"),
        "TLS_CERT": str(certificate),
        "TLS_KEY": str(key),
        "WORKERS": "2",
        "DEGRADED_AFTER_S": "1",
        "HEALTH_CHECK_INTERVAL_S": "1",
        "TORCHSERVE": "1",
    }
    lie = folder / "lie"
    (folder / "checkout").mkdir()
    through = changed_worker(folder / "checkout", LIAR.format(lie=str(lie)))
    command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    command += ["--enable-feature=exemplar-storage", f"--web.listen-address=127.0.0.1:{port}"]
    with run_server(artifacts, folder / "logs", through=through, **settings) as server:
        targets = [server.operations.removeprefix("http://")]
        scrape["scrape_configs"][0]["static_configs"] = [{"targets": targets}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(scrape))
        with process(command, folder):
            yield Monitored(server, token, f"http://127.0.0.1:{port}", lie, folder)


def ready(monitored: Monitored) -> bool:
    with contextlib.suppress(requests.RequestException):  # it may not have started yet
        return bool(monitored.query("diagonalflip_workers_ready == 2"))
    return False


def test_the_page_is_as_prometheus_wants_it(monitored: Monitored) -> None:
    page = requests.get(f"{monitored.server.operations}/metrics", timeout=10).text
    checked = execute("promtool", "check", "metrics", text=page)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_every_panel_shows_something_and_waiting_is_counted(monitored: Monitored) -> None:
    """From the first second on; and what the autoscaler looks at rises under load."""
    monitored.wait(lambda: ready(monitored), "Prometheus sees the workers")
    adapter = yaml.safe_load((ROOT / "deploy/kubernetes/adapter-rule.yaml").read_text())
    query = adapter["rules"]["custom"][0]["metricsQuery"]
    query = query.replace("<<.LabelMatchers>>", "").replace("<<.GroupBy>>", "instance")
    waiting = shortened(query)
    monitored.wait(lambda: bool(monitored.query(waiting)), "the autoscaler has its metric")
    assert float(monitored.query(waiting)[0]["value"][1]) < 1
    headers = {"Authorization": f"Bearer {monitored.token}", "Content-Type": OCTETS}
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    for base in (monitored.server.public, monitored.server.base):
        answer = requests.post(
            base + PATH,
            b"\xb6",
            headers=headers | trace,
            timeout=30,
            verify=str(monitored.folder / "certificate.pem"),
        )
        assert answer.status_code == requests.codes.ok
    for panel in PANELS:
        for target in panel["targets"]:
            shown = partial(monitored.query, shortened(target["expr"]))
            monitored.wait(shown, panel["title"])
    with monitored.load():
        monitored.wait(lambda: float(monitored.query(waiting)[0]["value"][1]) > 4, "requests wait")


def test_the_alerts_fire_when_they_should_and_end(monitored: Monitored, tmp_path: Path) -> None:
    names = {rule["alert"] for rule in alert_groups()[0]["rules"]}
    fired: set[str] = set()
    began = time.time()

    def fires(*expected: str) -> Callable[[], bool]:
        def reached() -> bool:
            fired.update(monitored.firing())
            return {f"DiagonalFlip{name}" for name in expected} <= fired

        return reached

    def killing(parts: Callable[[], list[psutil.Process]], *alerts: str) -> Callable[[], bool]:
        def tried() -> bool:
            for part in parts():
                part.kill()
            return fires(*alerts)()

        return tried

    monitored.wait(lambda: ready(monitored) and not monitored.firing(), "all is quiet", 100)
    with monitored.load():
        monitored.wait(fires("Slow", "Full", "Refusing"), "overload is seen")
    certify(monitored.folder, days=2)
    monitored.wait(fires("CertificateExpires"), "an old certificate is seen")
    certify(monitored.folder, days=90)
    monitored.server.java.kill()
    monitored.wait(fires("TorchServeDown"), "a dead TorchServe is seen")
    assert "NotReady" not in " ".join(fired)
    monitored.lie.touch()
    monitored.wait(fires("WrongAnswer"), "a wrong answer is seen")
    server = monitored.server
    server.process.send_signal(signal.SIGSTOP)
    monitored.wait(fires("Down"), "a service that does not answer is seen")
    server.process.send_signal(signal.SIGCONT)
    # A scrape a second sees nothing of what is whole again within one.
    one = killing(lambda: server.workers[:1], "WorkersMissing", "Degraded")
    monitored.wait(one, "a missing worker is seen")
    monitored.wait(killing(lambda: server.workers, "NotReady"), "an unready service is seen")
    monitored.wait(fires("Restarts"), "restarts are seen")
    assert fired == names
    monitored.wait(lambda: not monitored.firing(), "all is quiet again", 120)
    picture = Path(os.environ.get("DASHBOARD_PICTURE", tmp_path / "dashboard.png"))
    draw(monitored, began, picture)
    assert picture.stat().st_size > 10_000


def draw(monitored: Monitored, began: float, path: Path) -> None:
    """Draw every panel, from the dashboard's own queries."""
    span = {"start": str(began), "end": str(time.time()), "step": "1"}
    height = (len(PANELS) + 1) // 2
    figure = Figure(figsize=(12, 2.4 * height), layout="constrained")
    for place, panel in zip(figure.subplots(height, 2).flat, PANELS, strict=False):
        place.set_title(panel["title"], loc="left", fontsize=10)
        for target in panel["targets"]:
            query = shortened(target["expr"])
            found = monitored.get("query_range", query=query, **span)["result"]
            assert found, panel["title"]
            for series in found:
                times, values = np.array(series["values"], float).T
                name = re.sub(r"{{(\w+)}}", r"{\1}", target["legendFormat"])
                label = name.format_map(defaultdict(str, series["metric"]))
                place.plot(times - began, values, label=label, linewidth=1)
        place.legend(fontsize=7, loc="upper left")
        place.set_ylim(bottom=0)
        place.set_xlabel(f"s; unit: {panel['fieldConfig']['defaults']['unit']}", fontsize=8)
    figure.savefig(path, dpi=80)
