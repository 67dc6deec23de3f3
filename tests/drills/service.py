"""The service as an operator runs it, with its public listener on, on free ports of loopback."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from benchmarks.running import DIRECT, PATH, Ours, ours, seconds_until
from diagonalflip.server.supervisor import tokens

START_S = 120.0


@dataclass
class Service(Ours):
    """The service, asked on its public listener.

    Attributes:
        folder: Of its logs, tokens and output.
    """

    folder: Path = Path()

    @property
    def tokens_file(self) -> Path:
        """Tokens of its clients."""
        return self.folder / "tokens"

    def wait(self, condition: Callable[[], Any], timeout_s: float) -> float:
        """Return the seconds until ``condition`` held.

        Raises:
            TimeoutError: It did not.
        """
        return seconds_until(condition, timeout_s, lambda: self.output()[-2000:])

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
        """Return whether the admin port reports readiness."""
        return bool(self.state().get("ready"))

    def proven(self) -> int:
        """Return how many workers are ready; 0 while the service does not answer."""
        return int(self.state().get("workers_ready", 0))

    def metric(self, name: str) -> float | None:
        """Return one of the supervisor's own metrics; None while it is down."""
        with contextlib.suppress(requests.RequestException):
            url = f"{self.admin_url}/metrics"
            text = requests.get(url, timeout=2, proxies=DIRECT).text
            found = re.search(rf"^diagonalflip_{re.escape(name)} ([0-9.e+]+)$", text, re.MULTILINE)
            return float(found[1]) if found else None
        return None

    def restarted(self, part: str, times: int = 1) -> bool:
        """Return whether a part was started again so many times."""
        return (self.metric(f'restarts_total{{part="{part}"}}') or 0) >= times

    def output(self) -> str:
        """Return the output so far."""
        return (self.folder / "output.log").read_text(errors="replace")


@contextlib.contextmanager
def serving(folder: Path, **settings: str) -> Iterator[Service]:
    """Give the service with two workers and the public listener, all of it ready.

    Args:
        folder: For its logs, tokens and output.
        settings: Further settings, by name in upper case.
    """
    folder.mkdir(parents=True, exist_ok=True)
    token = tokens.add(folder / "tokens", "drill")
    usual = {"WORKERS": "2", "HEALTH_CHECK_INTERVAL_S": "1", "TORCHSERVE": "0"}
    usual["TOKENS_FILE"] = str(folder / "tokens")
    with ours(folder, "PUBLIC_PORT", token, **(usual | settings)) as running:
        service = Service(**vars(running), folder=folder)
        service.wait(service.healthy, START_S)
        yield service
