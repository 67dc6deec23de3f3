"""The archive needs what its requirements bring, and names what it lacks."""

from __future__ import annotations

import ast
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.conftest import execute

MISSING = "import sys; sys.modules[{0!r}] = None; import diagonalflip_handler"


def imported(file: Path) -> set[str]:
    """Return the modules that a file imports, at whatever time, by their first names."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_it_imports_what_its_requirements_bring(unpacked_archive: Path) -> None:
    lines = (unpacked_archive / "requirements.txt").read_text("utf-8").splitlines()
    required = {line.partition("#")[0].strip() for line in lines} | {"torch", "onnxruntime-gpu"}
    modules = metadata.packages_distributions().items()
    brought = {name for name, by in modules if required & set(map(canonicalize_name, by))}
    needed = {name for file in unpacked_archive.rglob("*.py") for name in imported(file)}
    assert needed - sys.stdlib_module_names == brought & needed | {"diagonalflip"}


@pytest.mark.parametrize("module", ["multipart", "onnxruntime", "orjson", "PIL"])
def test_a_package_that_is_not_installed_is_named_with_what_to_do(
    unpacked_archive: Path, module: str
) -> None:
    command, path = (sys.executable, "-c", MISSING.format(module)), str(unpacked_archive)
    failed = execute(*command, cwd="/", PYTHONPATH=path)
    *_, line = failed.stderr.splitlines()
    assert line.startswith(f"RuntimeError: The archive cannot be loaded: import of {module} ")
    installs = line.partition("pip install ")[2].split()
    assert installs == ["multipart", "numpy", "onnxruntime", "orjson", "pillow", "pyyaml"]
