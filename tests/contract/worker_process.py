"""TorchServe's worker in little: the real loader and service behind an inherited socket.

Run as ``python worker_process.py ARCHIVE_FOLDER SOCKET_FD MISSING`` with the folder first on
PYTHONPATH, as TorchServe's frontend does. ``MISSING`` are modules, joined by commas, that are as
if they were not installed. Prints ``loaded`` and where modules came from, as JSON.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path


class Missing:
    """Finds none of some modules, whoever else would find them."""

    def __init__(self, names: list[str]) -> None:
        self._names = frozenset(names)

    def find_spec(self, name: str, *_: object) -> None:
        """Raise what the import of a module raises that is not installed."""
        if name.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main() -> None:
    folder, descriptor, missing = sys.argv[1:]
    sys.meta_path.insert(0, Missing(missing.split(",")))

    import ts
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
    from ts.model_loader import TsModelLoader
    from ts.protocol.otf_message_handler import retrieve_msg

    metrics = MetricsCacheYamlImpl(str(Path(ts.__file__).parent / "configs/metrics.yaml"))
    metrics.initialize_cache()
    service = TsModelLoader().load(
        "diagonal_flip", folder, "diagonalflip_handler.py", None, 8, None, True, metrics
    )
    origins = {
        name: module.__file__
        for name, module in list(sys.modules.items())
        if name.startswith("diagonalflip")
    }
    print(f"loaded {json.dumps(origins)}", flush=True)
    with socket.socket(fileno=int(descriptor)) as connection:
        service.set_cl_socket(connection)
        while True:  # until the other end closes: retrieve_msg exits then
            _, batch = retrieve_msg(connection)
            connection.sendall(service.predict(batch))


if __name__ == "__main__":
    main()
