"""One drill under way, what it saw, and the service as an operator runs it."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import requests

from benchmarks.driver import PATH
from benchmarks.running import DIRECT, Ours, ours
from tests.drills.load import Load, Tables, Tally

WAIT_TIMEOUT_S = 300.0
"""Until a test gives up: TorchServe may take 100 s to start beside a load on a busy machine."""

CALM_S = 1.0  # of load before and after what is done


class SkippedError(Exception):
    """This host cannot run a drill."""


class Service(Ours):
    """The service, asked on its public listener."""

    def healthy(self) -> bool:
        """Return whether all of it is ready, and the public listener answers."""
        with contextlib.suppress(requests.RequestException):
            return self.serves() and self.describe().status_code == requests.codes.ok
        return False

    def describe(self, token: str = "") -> requests.Response:
        """Ask for the model's description, with another token if one is given."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return requests.get(self.url + PATH, headers=headers, timeout=10, proxies=DIRECT)

    def ready(self) -> bool:
        return bool(self.state().get("ready"))

    def proven(self) -> int:
        """Return how many workers are ready; 0 while the service does not answer."""
        return int(self.state().get("workers_ready", 0))

    def metric(self, name: str) -> float | None:
        """Return one of the supervisor's own metrics; None while it is down."""
        line = rf"^diagonalflip_{re.escape(name)} ([0-9.e+]+)$"
        found = re.search(line, self.told("/metrics"), re.MULTILINE)
        return float(found[1]) if found else None

    def restarted(self, part: str, times: int = 1) -> bool:
        """Return whether a part was started again so many times."""
        return (self.metric(f'restarts_total{{part="{part}"}}') or 0) >= times


@dataclass
class Scene:
    """One drill under way."""

    folder: Path  # for what it writes
    tables: Tables  # what answers should be
    long: bool = False  # whether to take the time that an operator would, rather than CI
    detected_s: float | None = None  # from the fault until the service had detected it
    recovered_s: float | None = None  # from the fault until it had recovered
    tally: Tally = field(default_factory=Tally)  # outcomes of the load's requests
    notes: list[str] = field(default_factory=list)  # what else was seen
    faults: list[str] = field(default_factory=list)  # what was not as it should be

    @contextlib.contextmanager
    def loaded(self, deadline_s: float = 20.0, **settings: str) -> Iterator[Service]:
        """Give a healthy service with two workers under load, before and after what is done."""
        settings = {"WORKERS": "2", "HEALTH_CHECK_INTERVAL_S": "1"} | settings
        with ours(self.folder, "PUBLIC_PORT", **settings) as running:
            service = Service(**vars(running))
            service.wait(service.healthy)
            with Load(service, self.tables, deadline_s) as load:
                self.tally = load.tally
                time.sleep(CALM_S)
                yield service
                time.sleep(CALM_S)

    def broken(self, service: Service, detected: Callable[[], bool], limit_s: float = 10) -> None:
        """Wait until the service has detected the fault and has recovered.

        The limit holds only in long drills: tests assert no times.
        """
        self.detected_s = service.wait(detected, WAIT_TIMEOUT_S)
        self.recovered_s = self.detected_s + service.wait(service.healthy, WAIT_TIMEOUT_S)
        if self.long:
            self.demand(self.recovered_s <= limit_s, f"recovered only after {limit_s:g} s")

    def demand_no_wait(self, limit_s: float, short_limit_s: float = WAIT_TIMEOUT_S) -> None:
        """Note a fault if a request took longer; in short drills only far longer."""
        limit_s = limit_s if self.long else short_limit_s
        longest_s = self.tally.longest_s
        self.demand(longest_s <= limit_s, f"a client waited for {longest_s:.1f} s")

    def demand_no_loss(self) -> None:
        """Note a fault if any request was not answered."""
        tally = self.tally
        lost = tally.lost + tally.unreachable + tally.rejected.total()
        self.demand(not lost, f"{lost} requests were not answered")

    def demand(self, holds: object, otherwise: str) -> None:
        """Note a fault unless ``holds``."""
        if not holds:
            self.faults.append(otherwise)
