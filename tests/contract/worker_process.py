"""TorchServe's worker in little: the real loader and service, in front of no frontend.

Run as ``python worker_process.py ARCHIVE_FOLDER MISSING`` with the folder first on PYTHONPATH, as
TorchServe's frontend does. ``MISSING`` are modules, joined by commas, that are as if they were not
installed. Answers a batch of bodies and headers, from stdin. Prints where modules came from and the
statuses of the answers, as JSON.
"""

from __future__ import annotations

import ast
import json
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
    folder, missing = sys.argv[1:]
    sys.meta_path.insert(0, Missing(missing.split(",")))

    import ts
    from ts.context import RequestProcessor
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
    from ts.model_loader import TsModelLoader

    metrics = MetricsCacheYamlImpl(str(Path(ts.__file__).parent / "configs/metrics.yaml"))
    metrics.initialize_cache()
    service = TsModelLoader().load(
        "diagonal_flip", folder, "diagonalflip_handler.py", None, 8, None, True, metrics
    )
    batch = ast.literal_eval(sys.stdin.read())
    service.context.request_processor = [RequestProcessor(headers) for _, headers in batch]
    service._entry_point([{"body": body} for body, _ in batch], service.context)
    origins = {
        name: module.__file__
        for name, module in sys.modules.items()
        if name.startswith("diagonalflip")
    }
    statuses = [service.context.get_response_status(index)[0] for index in range(len(batch))]
    print(json.dumps([origins, statuses]))


if __name__ == "__main__":
    main()
