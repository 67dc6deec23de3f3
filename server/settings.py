"""What an operator can set, by environment variable or ``make serve NAME=value``.

``python -m server.settings`` prints the table.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from diagonalflip.errors import SettingError


def _setting(default: Any, help_text: str, least: int = 0, most: int = 1 << 31) -> Any:
    return field(default=default, metadata={"help": help_text, "range": (least, most)})


def _port(default: int, purpose: str) -> Any:
    return _setting(default, f"port of {purpose}; 0 takes a free one", 0, 65535)


@dataclass(frozen=True)
class Settings:
    """Settings by name in lower case; each is an environment variable in upper case."""

    host: str = _setting("127.0.0.1", "address for inference; the other ports stay on loopback")
    port: int = _port(8080, "inference, by TorchServe")
    direct_port: int = _port(8090, "inference, straight from the workers: the same and faster")
    management_port: int = _port(8081, "TorchServe's management")
    metrics_port: int = _port(8082, "Prometheus metrics")
    grpc_port: int = _port(7070, "gRPC inference")
    grpc_management_port: int = _port(7071, "gRPC management")
    workers: int = _setting(0, "worker processes; 0 takes one a GPU, or 1 without", 0, 1024)
    batch_size: int = _setting(16, "requests that a worker answers together", 1, 1024)
    max_batch_delay_ms: int = _setting(1, "wait for a batch to fill, after its first request", 1)
    start_timeout_s: int = _setting(120, "seconds until a correct prediction, else it failed", 1)
    model_store: Path = _setting(Path("model_store"), "folder that `make export` filled")
    log_dir: Path = _setting(Path("logs"), "folder of the logs")

    @classmethod
    def ports(cls) -> list[str]:
        """Names of all settings that are ports."""
        return [entry.name for entry in fields(cls) if entry.name.endswith("port")]

    @property
    def url(self) -> str:
        """Where this machine reaches TorchServe's inference, whatever address it listens on."""
        return f"http://{self._reachable_host}:{self.port}"

    @property
    def direct_url(self) -> str:
        """Where this machine reaches the workers themselves."""
        return f"http://{self._reachable_host}:{self.direct_port}"

    @property
    def _reachable_host(self) -> str:
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - read, not bound
        return everywhere.get(self.host, self.host)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Reads every setting that is in ``environment`` and not empty.

        Raises:
            SettingError: A value is not a number, or out of its range.
        """
        values: dict[str, Any] = {}
        for entry in fields(cls):
            name = entry.name.upper()
            text = environment.get(name, "")
            if not text:
                continue
            values[entry.name] = text
            if isinstance(entry.default, Path):
                values[entry.name] = Path(text)
            elif isinstance(entry.default, int):
                least, most = entry.metadata["range"]
                if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
                    raise SettingError(f"{name}={text}", f"a whole number, {least} to {most}")
                values[entry.name] = int(text)
        return cls(**values)


def table() -> str:
    """Every setting with its default, a line each."""
    return "\n".join(
        f"  {entry.name.upper():22} {entry.default!s:14} {entry.metadata['help']}"
        for entry in fields(Settings)
    )


if __name__ == "__main__":
    print(table())
