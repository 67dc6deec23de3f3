"""All evidence on one page: ``python -m export.report PAGE.html``.

What it shows of predictions comes from the model store; benchmark, processors and drills from
their committed results, where they are there (an image has none). The page needs no other file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from html import escape
from importlib import metadata
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt
from markdown_it import MarkdownIt

from diagonalflip.errors import ArtifactError
from diagonalflip.server.models.store import MANIFEST, exports
from diagonalflip.wire import PIXELS, to_pixels

ROOT = Path(__file__).resolve().parents[1]
RESULTS = {
    "Processors": "tests/portability/results.md",
    "Drills": "tests/drills/results/host.md",
    "Drills with several hosts": "tests/drills/results/cluster.md",
    "Soak": "benchmarks/results/soak.md",
}
"""Pages of figures, by title."""

PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>DiagonalFlipNet: evidence</title>
<style>
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: auto; max-width: 70rem; padding: 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
td, th { border: 1px solid gray; padding: 0.2rem 0.6rem; text-align: left; }
.images { display: flex; flex-wrap: wrap; gap: 1rem; }
.images td { color: black; height: 2.4rem; padding: 0; text-align: center; width: 3.2rem; }
.images table { margin: 0.2rem 0; }
figure { margin: 0; }
svg { height: auto; max-width: 100%; }
</style>
<h1>DiagonalFlipNet: evidence</h1>
$sections
</html>
""")


def main() -> int:
    """Writes the page; returns the exit status."""
    parser = argparse.ArgumentParser(description="All evidence on one page.")
    parser.add_argument("page", type=Path)
    parser.add_argument("--model-store", type=Path, default=os.environ.get("FLIP_MODEL_STORE"))
    arguments = parser.parse_args()
    store = arguments.model_store or ROOT / "model_store"
    try:
        arguments.page.write_text(page(store), encoding="utf-8")
    except (ArtifactError, OSError) as error:
        print(f"report failed: {error}", file=sys.stderr)
        return 1
    print(f"Written to {arguments.page}")
    return 0


def page(store: Path, root: Path = ROOT) -> str:
    """The page, of a model store and the results below ``root``.

    Raises:
        ArtifactError: There is no manifest.
    """
    try:
        manifests = [json.loads((each / MANIFEST).read_bytes()) for each in exports(store)]
    except OSError as error:
        raise ArtifactError(f"{store}: {error}", "a manifest", "run `make export`") from error
    sections = []
    for manifest in manifests:
        parity_report, version = manifest["parity_report"], manifest["model"]["version"]
        files = manifest["artifacts"].items()
        rows = [(name, each["bytes"], each["sha256"]) for name, each in files]
        sections += [
            (f"Predictions of version {version}", _images(np.array(parity_report["reference"]))),
            ("Parity report", _parity_report(parity_report)),
            ("Artifacts", _table(("file", "bytes", "SHA-256"), rows)),
        ]
    environment = {
        "diagonalflip": metadata.version("diagonalflip"),
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    } | manifests[0]["versions"]
    sections += [("Environment", _table(("", ""), environment.items())), *_results(root)]
    told = "\n".join(f"<h2>{title}</h2>\n{body}" for title, body in sections)
    return PAGE.substitute(sections=told)


def _images(predictions: npt.NDArray[np.float64]) -> str:
    """Image, prediction, target and error of each of the 16, as heat maps."""
    pixels = to_pixels(range(16))
    targets = pixels.transpose(0, 2, 1).reshape(-1, PIXELS)
    errors = (predictions - targets) ** 2
    figures = []
    for number, (image, row, target, error) in enumerate(
        zip(pixels.reshape(-1, PIXELS), predictions, targets, errors, strict=True)
    ):
        maps = [("image", image), ("prediction", row), ("target", target), ("error²", error)]
        drawn = "".join(f"{name}{_heat(values)}" for name, values in maps)
        figures.append(f"<figure><strong>{number}, {number:04b}</strong><br>{drawn}</figure>")
    flips = int(((predictions >= 0.5) == (targets == 1)).all(axis=1).sum())
    total = (
        f"<p>Flips <strong>{flips} of 16</strong> images. "
        f"Mean squared error of all: <strong>{errors.mean():.5f}</strong></p>"
    )
    return f'{total}<div class="images">{"".join(figures)}</div>'


def _heat(values: Sequence[float] | npt.NDArray[Any]) -> str:
    """A 2x2 table, blue above 0 and orange below."""
    cells = []
    for value in values:
        strength = min(1.0, abs(float(value)))
        hue = 210 if value >= 0 else 25
        cells.append(
            f'<td style="background: hsl({hue} 80% {100 - 45 * strength:.0f}%)">{value:.2g}</td>'
        )
    return f"<table><tr>{cells[0]}{cells[1]}</tr><tr>{cells[2]}{cells[3]}</tr></table>"


def _parity_report(parity_report: dict[str, Any]) -> str:
    told = (
        f"<p>All 16 images, in batches of {', '.join(map(str, parity_report['batch_sizes']))}; the "
        f"tolerance is {parity_report['tolerance']:g}.</p>"
    )
    rows = [
        (pair, f"{found['deviation']:.3g}", found["ulp"])
        for pair, found in parity_report["pairs"].items()
    ]
    return told + _table(("engines", "largest deviation", "units in the last place"), rows)


def _results(root: Path) -> Iterable[tuple[str, str]]:
    """Processors, benchmark and drills, from what is committed."""
    for title, name in RESULTS.items():
        if (root / name).exists():
            yield title, _markdown(_read(root / name).partition("\n")[2])
    folders = sorted((root / "benchmarks/results").glob("*/results.json"))
    if folders:
        folder = folders[-1].parent
        text = _read(folder / "report.md").partition("\n")[2]
        drawing = _read(folder / "ratios.svg").partition("<svg")
        yield f"Benchmark, {folder.name}", f"<svg{drawing[2]}{_markdown(text)}"


def _markdown(text: str) -> str:
    html: str = MarkdownIt("commonmark").enable("table").render(text)
    return re.sub(r"<img [^>]*>|</?a\b[^>]*>", "", html)  # they would be other files


def _table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    lines = ["".join(f"<td>{escape(str(value))}</td>" for value in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><tr>{head}</tr>{body}</table>"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
