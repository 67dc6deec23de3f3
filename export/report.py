"""Put all evidence on one page: ``python -m export.report PAGE.html``.

Predictions come from the model store; benchmark, processors and drills from their committed
results, if there are any (an image has none). The page needs no other files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

import jinja2
import numpy as np
from markdown_it import MarkdownIt

from diagonalflip import __version__
from diagonalflip.errors import ArtifactError
from diagonalflip.server.models.store import MANIFEST, exports
from export import ending
from export.verify import all_pixels, targets

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = Path(__file__).with_name("report.html.j2")
RESULTS = {
    "Processors": "tests/portability/results.md",
    "Drills": "tests/drills/results/host.md",
    "Drills with several hosts": "tests/drills/results/cluster.md",
    "Soak": "benchmarks/results/soak.md",
}
"""Pages of figures, by title."""


def page(store: Path) -> str:
    """Return the page for a model store and the results in this checkout.

    Raises:
        ArtifactError: There is no manifest.
    """
    try:
        manifests = [json.loads((each / MANIFEST).read_bytes()) for each in exports(store)]
    except OSError as error:
        raise ArtifactError(f"{store}: {error}", "a manifest", "run `make export`") from error
    for manifest in manifests:
        manifest["predictions"] = np.array(manifest["parity_report"]["reference"])
        manifest["errors"] = (manifest["predictions"] - targets()) ** 2
    environment = {
        "diagonalflip": __version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    } | manifests[0]["versions"]
    template = jinja2.Template(_read(TEMPLATE), autoescape=True, trim_blocks=True)
    html: str = template.render(
        manifests=manifests,
        images=all_pixels(),
        targets=targets(),
        environment=environment,
        results=_results(),
    )
    return html


def _results() -> Iterable[tuple[str, str]]:
    """Yield titles and HTML of the committed results."""
    for title, name in RESULTS.items():
        if (ROOT / name).exists():
            yield title, _html(ROOT / name)
    folders = sorted((ROOT / "benchmarks/results").glob("*/results.json"))
    if folders:
        folder = folders[-1].parent
        drawing = _read(folder / "ratios.svg").partition("<svg")
        yield f"Benchmark, {folder.name}", f"<svg{drawing[2]}{_html(folder / 'report.md')}"


def _html(markdown: Path) -> str:
    """Return a page without its title, and without links and pictures, which need other files."""
    text = _read(markdown).partition("\n")[2]
    html: str = MarkdownIt("commonmark").enable("table").render(text)
    return re.sub(r"<img [^>]*>|</?a\b[^>]*>", "", html)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="All evidence on one page.")
    parser.add_argument("page", type=Path)
    parser.add_argument("--model-store", type=Path, default=os.environ.get("FLIP_MODEL_STORE"))
    arguments = parser.parse_args()
    store = arguments.model_store or ROOT / "model_store"
    with ending("report"):
        arguments.page.write_text(page(store), encoding="utf-8")
    print(f"Written to {arguments.page}")


if __name__ == "__main__":
    main()
