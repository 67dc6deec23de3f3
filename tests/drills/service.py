"""The service as an operator runs it, with its public listener on, on free ports of loopback."""

from __future__ import annotations

import contextlib
import re

import requests

from benchmarks.driver import PATH
from benchmarks.running import DIRECT, Ours


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
