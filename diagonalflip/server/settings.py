"""Settings: ``FLIP_NAME`` in the environment, or ``make serve NAME=value``.

``python -m diagonalflip.server.settings`` prints the table.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from diagonalflip.errors import SettingError

LOOPBACK = "127.0.0.1"

PACKAGED = Path(__file__).parent / "exports"
"""Versions that come with the package, without archives for TorchServe."""

CHOICES = {"torchserve": ("0", "1"), "log_format": ("text", "json")}
"""Settings that may have only certain values."""

PREFIX = "FLIP_"
"""Prefix of every variable: other programs set plain names, as conda's compilers set ``HOST``."""

PLATFORM_PORT = "PORT"
"""The only variable without the prefix: platforms set it to the port that they send requests to."""

HOSTS = {"public_port": "host", "admin_port": "admin_host"}
"""Ports with a configurable address, and its setting; all others are on loopback."""

SERVICE_LINK = re.compile(
    rf"({PREFIX}\w*)?PORT=(tcp|udp|sctp)://|{PREFIX}(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_\w+)="
)
"""Variables that Kubernetes sets for a Service named ``flip`` or ``flip-grpc``."""


def _setting(default: Any, help_text: str, least: int = 0, most: int = 1 << 31) -> Any:
    return field(default=default, metadata={"help": help_text, "range": (least, most)})


def _port(default: int | None, purpose: str) -> Any:
    return _setting(default, f"port of {purpose}; 0 takes a free one", 0, 65535)


def _reachable(host: str) -> str:
    """Return an address at which this machine reaches what listens on ``host``."""
    # What listens on :: takes IPv4 too, and where IPv6 is off, as in containers, there is no ::1.
    return LOOPBACK if host in ("0.0.0.0", "::") else host  # noqa: S104 - read, not bound


def _url(scheme: str, host: str, port: int) -> str:
    host = _reachable(host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@dataclass(frozen=True)
class Settings:
    """Settings by name in lower case; ``variable`` has the environment's name of each."""

    host: str = _setting(
        "127.0.0.1", "address of the public listener; all else listens on loopback only"
    )
    public_port: int = _port(8443, "the public listener: for other hosts, with TLS and tokens")
    tokens_file: Path | None = _setting(
        None, "tokens of the public listener's clients; turns the public listener on"
    )
    tls_cert: Path | None = _setting(None, "certificate chain of the public listener, PEM")
    tls_key: Path | None = _setting(None, "its private key, PEM")
    plain_http: int = _setting(
        0, "1 allows a public HOST without TLS, which something in front must end", 0, 1
    )
    allowed_hosts: str = _setting(
        "", "names, besides localhost, by which clients reach this host, with commas between them"
    )
    token_rate: int = _setting(
        50_000, "requests per second that one token may send to one worker", 1
    )
    port: int = _port(8080, "the HTTP listener: inference, for this host")
    torchserve_port: int = _port(8085, "inference by TorchServe's frontend, which is slower")
    management_port: int | None = _port(
        None, "TorchServe's management, if it is to have one: it has a Unix socket of its own"
    )
    metrics_port: int = _port(8082, "TorchServe's Prometheus metrics")
    admin_host: str = _setting("127.0.0.1", "address of the admin port")
    operators_file: Path | None = _setting(
        None, "tokens of operators, who may load versions and switch between them"
    )
    admin_port: int = _port(8083, "admin: liveness, readiness, metrics, versions")
    grpc_port: int = _port(7070, "gRPC inference")
    grpc_management_port: int = _port(7071, "gRPC management")
    idle_timeout_s: int = _setting(
        75,
        "seconds that an idle connection of a client stays open; above a balancer's own",
        1,
        3600,
    )
    workers: int = _setting(0, "worker processes; 0 takes one per GPU, else 1 or 2", 0, 1024)
    degraded_after_s: int = _setting(
        10, "seconds with fewer workers until the service says that it is degraded", 0, 3600
    )
    torchserve: str = _setting(
        "", "1 runs TorchServe as well, 0 does not; empty: where it is installed"
    )
    health_check_interval_s: int = _setting(
        2, "seconds between health checks of a worker, with all 16 images", 1, 3600
    )
    drain_s: int = _setting(0, "after a stop signal: seconds to serve on while not ready", 0, 3600)
    stop_timeout_s: int = _setting(20, "then: seconds to finish what was accepted", 1, 3600)
    start_timeout_s: int = _setting(
        120, "seconds within which the first correct prediction must come", 1
    )
    model_store: Path | None = _setting(
        None,
        "folder that `make export` filled; empty: ./model_store, or without one the versions that "
        "come with the package",
    )
    default_version: str = _setting(
        "", "version for requests that name none; empty: as chosen last"
    )
    trusted_key: Path | None = _setting(
        None, "public key (Ed25519, PEM) that must have signed every version"
    )
    log_dir: Path = _setting(Path("logs"), "folder of the logs")
    log_format: str = _setting("text", "text, or json: all logs as JSON lines on standard output")
    access_log: int = _setting(0, "1 writes a JSON line per request to LOG_DIR/access-*.log", 0, 1)
    require_gpu: int = _setting(0, "1 requires a GPU: without one, it does not start", 0, 1)

    @classmethod
    def ports(cls) -> list[str]:
        """Names of all ports that are always open."""
        named = (entry for entry in fields(cls) if entry.name.endswith("port"))
        return [entry.name for entry in named if entry.default is not None]

    @property
    def versions(self) -> Path:
        """Folder of the versions to serve."""
        has_own = os.path.isdir("model_store")  # noqa: PTH112 - False in a folder of others
        return self.model_store or (Path("model_store") if has_own else PACKAGED)

    @property
    def url(self) -> str:
        """URL of the HTTP listener."""
        return _url("http", LOOPBACK, self.port)

    @property
    def admin_url(self) -> str:
        """URL at which this machine reaches the admin port."""
        return _url("http", self.admin_host, self.admin_port)

    @property
    def public_address(self) -> str:
        """Address at which this machine reaches the public listener."""
        return _reachable(self.host)

    @property
    def public_url(self) -> str:
        """URL at which this machine reaches the public listener, whatever address it listens on."""
        return _url("https" if self.tls_cert else "http", self.host, self.public_port)

    def host_of(self, port: str) -> str:
        """Return the address that the port of that name listens on."""
        return str(getattr(self, HOSTS[port])) if port in HOSTS else LOOPBACK

    def told(self, name: str, environment: Mapping[str, str] = os.environ) -> str:
        """Return a setting's name and value for messages, and that it is set in the environment."""
        source, text = sources(environment).get(name, ("", ""))
        if source:
            return f"{source}={text} in the environment"
        return f"{variable(name)}={getattr(self, name)}"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read all settings in ``environment`` that are not empty.

        Raises:
            SettingError: A value is invalid, or a name is no setting.
        """
        given, values = sources(environment), dict[str, Any]()
        known = {entry.name: entry for entry in fields(cls)}
        for name, (source, text) in given.items():
            got = f"{source}={text} in the environment"
            if name not in known:
                [nearest] = difflib.get_close_matches(name.lower(), known, 1, 0.0)
                expected = f"a name of `make help`; the nearest is {variable(nearest)}"
                unknown = f"{source} in the environment is no setting"
                raise SettingError(unknown, expected, "correct it, or unset it")
            kind, values[name] = known[name].type, text
            if "Path" in kind:
                values[name] = Path(text)
            elif "int" in kind:
                least, most = known[name].metadata["range"]
                if not (re.fullmatch("[0-9]{1,10}", text) and least <= int(text) <= most):
                    raise SettingError(got, f"a whole number, {least} to {most}")
                values[name] = int(text)
            elif name in CHOICES and text not in CHOICES[name]:
                raise SettingError(got, f"{' or '.join(CHOICES[name])}, or nothing")
        if given.get("public_port") == (PLATFORM_PORT, str(cls.port)) and "port" not in given:
            values["port"] = 0  # most platforms set PORT=8080, the default of FLIP_PORT
        return cls(**values)


def variable(name: str) -> str:
    """Return the variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def service_links(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return ``NAME=value`` of variables that look like settings, but are set for a Service."""
    lines = sorted(f"{name}={value}" for name, value in environment.items())
    return [line for line in lines if SERVICE_LINK.match(line)]


def sources(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return variable and text of each setting that is set, including unknown ones."""
    # Values that come from files may end in CR or LF.
    stripped = {name: text.strip() for name, text in environment.items()}
    given = {
        name: text
        for name, text in stripped.items()
        if text and not SERVICE_LINK.match(f"{name}={text}")
    }
    found = {
        name.removeprefix(PREFIX).swapcase(): (name, text)  # names in lower case are unknown
        for name, text in given.items()
        if name.startswith(PREFIX)
    }
    if PLATFORM_PORT in given:
        public = "public_port" if "tokens_file" in found else "port"
        found.setdefault(public, (PLATFORM_PORT, given[PLATFORM_PORT]))
    return found


def table() -> str:
    """Return a line for each setting: its name for make, its default and its meaning."""
    lines = []
    for entry in fields(Settings):
        default = "" if entry.default is None else str(entry.default)
        lines.append(f"  {entry.name.upper():22} {default:14} {entry.metadata['help']}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
