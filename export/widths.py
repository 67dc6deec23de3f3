"""Search how many of the 16 images networks of each width can flip: ``python -m export.widths``.

Each output, compared with 0.5, divides the space of the hidden values by a plane. Four planes
divide three dimensions into at most 15 regions, and 16 images need 16: width 3 cannot flip all.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from export.net import DiagonalFlipNet
from export.train import ROOT, Loss, fit, one_of, squared_error
from export.verify import IMAGES, all_pixels, margins

WIDTHS = range(1, 7)
STARTS = 1000
STEEPNESS = 8.0


def threshold_error(predictions: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return a smooth share of wrong images, by their worst pixels, ``float64[starts]``."""
    beyond = (predictions - 0.5) * (2 * wanted - 1)
    return torch.sigmoid(-STEEPNESS * beyond.amin(1)).mean(1)


def search(hidden: int) -> tuple[npt.NDArray[np.int64], float]:
    """Train networks of one width from many starts.

    Returns:
        How many images each network flips, ``int64[STARTS]``; and the best margin of those that
        flip all, trained by the squared error, or NaN if there are none.
    """
    flips = (_margins(hidden, threshold_error) > 0).sum(axis=1)
    best = float(_margins(hidden, squared_error).min(axis=1).max())
    return flips, best if best > 0 else float("nan")


def _margins(hidden: int, loss: Loss) -> npt.NDArray[np.float64]:
    """Return the margin of each trained network at each image, ``float64[STARTS, 16]``."""
    states, _ = fit(hidden, STARTS, loss)
    net = DiagonalFlipNet(hidden).double().requires_grad_(False)
    pixels = torch.from_numpy(all_pixels()).double()
    found = []
    for index in range(STARTS):
        net.load_state_dict(one_of(states, index))
        found.append(margins(net(pixels).numpy()))
    return np.array(found)


def draw(flips: dict[int, npt.NDArray[np.int64]], margins_: dict[int, float], path: Path) -> None:
    """Draw a histogram per width, with the best margin of the squared error, as SVG."""
    mpl.rcParams["svg.hashsalt"] = "diagonalflip"
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    for axes, (hidden, counts) in zip(figure.subplots(2, 3).flat, flips.items(), strict=True):
        heights = np.bincount(counts, minlength=IMAGES + 1)
        axes.bar(range(IMAGES + 1), heights, color=["tab:blue"] * IMAGES + ["tab:green"])
        share = (counts == IMAGES).mean()
        title = f"width {hidden}: at most {counts.max()} of {IMAGES}"
        title += f"\nby {share:.0%}; margin {margins_[hidden]:.4f}" if share else "\n"
        axes.set(title=title, xlabel="images flipped", ylabel="networks")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Search all widths."""
    torch.set_num_threads(1)
    flips, best = {}, {}
    for hidden in track(WIDTHS, "Widths", console=Console(stderr=True)):
        flips[hidden], best[hidden] = search(hidden)
    draw(flips, best, ROOT / "docs/widths.svg")


if __name__ == "__main__":
    main()
