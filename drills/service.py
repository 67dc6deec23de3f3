"""The service as an operator runs it, with its edge on, on free ports of loopback."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil
import requests

from supervisor import tokens
from supervisor.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PATH = "/predictions/diagonal_flip"
START_S = 120.0
POLL_S = 0.01
DIRECT = {"no_proxy": "*"}
"""For ``requests``: a proxy of this host knows nothing of its loopback."""


class Service:
    """``python -m supervisor`` with two workers and the edge, from ``with`` to its end.

    Args:
        folder: For its logs, tokens and output.
        settings: Further settings, by name in upper case.

    Attributes:
        process: The supervisor.
        port: Of the edge, once it has started.
        token: That it takes.
        folder: As given.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.tokens_file = folder / "tokens"
        self.token = tokens.add(self.tokens_file, "drill")
        self._environment = {name.upper(): "0" for name in Settings.ports()} | {
            "WORKERS": "2",
            "PROOF_S": "1",
            "LOG_DIR": str(folder / "logs"),
            "TOKENS_FILE": str(self.tokens_file),
            **settings,
        }
        self.workers_wanted = int(self._environment["WORKERS"])

    def __enter__(self) -> Self:
        self._output = (self.folder / "output.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "supervisor"],
            cwd=ROOT,
            env=os.environ | self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        try:
            self.wait(lambda: "Ctrl-C stops it" in self.output(), START_S)
            urls = re.findall(r"http://127\.0\.0\.1:\d+(?=[\n.])", self.output())
            _front, edge, self.operations_url = urls
            self.port = int(edge.rpartition(":")[2])
            self.wait(self.healthy, START_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                self.process.wait(60)
        finally:
            self.process.kill()
            self._output.close()

    @property
    def url(self) -> str:
        """URL of the edge."""
        return f"http://127.0.0.1:{self.port}"

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> float:
        """Seconds until ``condition`` held.

        Raises:
            TimeoutError: It did not.
        """
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > timeout_s:
                raise TimeoutError(f"not within {timeout_s:g} s\n{self.output()[-2000:]}")
            time.sleep(POLL_S)
        return time.monotonic() - started

    def healthy(self) -> bool:
        """Return whether it is ready, every worker is proven, and the edge answers."""
        metrics = self.metrics()
        proven = metrics.get("diagonalflip_workers_proven") == self.workers_wanted
        return proven and metrics.get("diagonalflip_ready") == 1 and self.edge_answers()

    def edge_answers(self) -> bool:
        """Return whether the edge lets an empty request through to a worker: the description."""
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            answer = requests.get(self.url + PATH, headers=headers, timeout=2, proxies=DIRECT)
        except requests.RequestException:
            return False
        return bool(answer.status_code == requests.codes.ok)

    def ready(self) -> bool:
        """Return whether the operations port reports readiness."""
        try:
            answer = requests.get(
                f"{self.operations_url}/v2/health/ready", timeout=2, proxies=DIRECT
            )
        except requests.RequestException:
            return False
        return bool(answer.status_code == requests.codes.ok)

    def metrics(self) -> dict[str, float]:
        """The supervisor's own metrics; none while it is down."""
        try:
            text = requests.get(f"{self.operations_url}/metrics", timeout=2, proxies=DIRECT).text
        except requests.RequestException:
            return {}
        found = re.findall(r"^(diagonalflip_[^ ]+) ([0-9.e+]+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    def java(self) -> psutil.Process:
        """TorchServe."""
        return self._child("java")

    def workers(self) -> list[psutil.Process]:
        """The workers that clients reach; TorchServe has one more per further version."""
        return [
            child
            for child in self.java().children()
            if any("/proof-" in str(each.laddr) for each in child.net_connections("unix"))
        ]

    def tree(self) -> list[psutil.Process]:
        """The supervisor and all below it."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def output(self) -> str:
        """Output so far."""
        return (self.folder / "output.log").read_text(errors="replace")

    def _child(self, name: str) -> psutil.Process:
        for process in psutil.Process(self.process.pid).children():
            if process.name() == name:
                return process
        raise TimeoutError(f"no {name} runs")
