"""Walk an InferenceService through KServe's own Python models; exit 1 on what they do not know.

Runs in the environment of requirements/deploy.in: ``python kserve_models.py FILE``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import kserve
import yaml
from kubernetes import client

PLAIN: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool}


def check(value: Any, kind: str, where: str) -> list[str]:
    """List what is wrong with ``value`` as the type that a model names ``kind``."""
    if inner := re.fullmatch(r"list\[(.*)\]", kind):
        if isinstance(value, list):
            return [p for i, x in enumerate(value) for p in check(x, inner[1], f"{where}[{i}]")]
    elif inner := re.fullmatch(r"dict\(\w+, (.*)\)", kind):
        if isinstance(value, dict):
            return [p for key, x in value.items() for p in check(x, inner[1], f"{where}.{key}")]
    elif model := getattr(kserve, kind, None) or getattr(client, kind, None):
        if isinstance(value, dict):
            return check_model(value, model, where)
    elif isinstance(value, PLAIN.get(kind, object)):
        return []
    return [f"{where}: {value!r} is no {kind}"]


def check_model(value: dict[str, Any], model: Any, where: str) -> list[str]:
    """List what is wrong with ``value`` as an object of ``model``."""
    names = {wire: name for name, wire in model.attribute_map.items()}
    unknown = value.keys() - names.keys()
    problems = [f"{where}.{key}: unknown to {model.__name__}" for key in sorted(unknown)]
    for key in value.keys() & names.keys():
        problems += check(value[key], model.openapi_types[names[key]], f"{where}.{key}")
    return problems


def main() -> int:
    document = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    problems = check(document, "V1beta1InferenceService", "")
    print("\n".join(problems))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
