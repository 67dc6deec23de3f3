"""Train a network that flips: ``python -m export.train --hidden 5 --version 2.0``.

Many random starts are trained together, as one batch of networks, and the best one is kept. This is
done in float64 on one thread, so a machine always gives the same weights. They are rounded, so that
people can read them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from diagonalflip.errors import ArtifactError
from export import ending
from export.__main__ import model_version
from export.net import DiagonalFlipNet
from export.verify import IMAGES, all_pixels, margins, reference, targets

STARTS, STEPS = 64, 3000
LEARNING_RATE = 0.03
DECIMALS = 4
DRAWN_STEPS, LEAST_DRAWN = 100, 1e-16
ROOT = Path(__file__).resolve().parent.parent

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From predictions ``float64[starts, 4, 16]`` and targets ``float64[4, 16]``, a loss per start."""

State = dict[str, torch.Tensor]
"""``DiagonalFlipNet``'s tensors by name."""


def squared_error(predictions: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error over all images and pixels, ``float64[starts]``."""
    squares: torch.Tensor = (predictions - wanted) ** 2
    return squares.mean((1, 2))


def random_states(hidden: int, starts: int) -> State:
    """Return parameters distributed as ``nn.Linear``'s, with a first axis for the starts."""
    generator = torch.Generator().manual_seed(hidden)
    states = {}
    for name, tensor in DiagonalFlipNet(hidden).state_dict().items():
        inputs = 4 if name.startswith("layer1") else hidden
        shape = (starts, *tensor.shape)
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        states[name] = (2 * uniform - 1) * float(inputs) ** -0.5
    return states


def one_of(states: State, index: int) -> State:
    """Return the state of one of the starts."""
    return {name: tensor.detach()[index] for name, tensor in states.items()}


def fit(
    hidden: int, starts: int, loss: Loss = squared_error, console: Console | None = None
) -> tuple[State, npt.NDArray[np.float64]]:
    """Train networks from random starts together; a console shows progress.

    Returns:
        The networks' states, with an axis for the starts, and the loss of each at each step,
        ``float64[STEPS, starts]``.
    """
    states = random_states(hidden, starts)
    weight1, bias1, weight2, bias2 = (tensor.requires_grad_() for tensor in states.values())
    optimizer = torch.optim.Adam(states.values(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    pixels = torch.from_numpy(all_pixels().T).double().expand(starts, 4, IMAGES)
    wanted = torch.from_numpy(targets().T).double()
    losses = []
    for _ in track(range(STEPS), f"{starts} networks", console=console, disable=console is None):
        inner = torch.relu(torch.baddbmm(bias1[:, :, None], weight1, pixels))
        each = loss(torch.baddbmm(bias2[:, :, None], weight2, inner), wanted)
        losses.append(each.detach().numpy())
        optimizer.zero_grad()
        each.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return states, np.array(losses)


def write_weights(state: State, path: Path) -> None:
    """Write weights, with one line per row of a matrix."""
    parts = []
    for name, tensor in state.items():
        rows = [json.dumps(row) for row in np.atleast_2d(tensor.numpy()).tolist()]
        value = rows[0] if tensor.dim() == 1 else "[\n    " + ",\n    ".join(rows) + "\n  ]"
        parts.append(f'  "{name}": {value}')
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def train(
    hidden: int, path: Path, console: Console | None = None
) -> tuple[DiagonalFlipNet, npt.NDArray[np.float64]]:
    """Train a network and write its weights, rounded; a console shows progress.

    Returns:
        The network with the least loss, and the losses of all starts as from ``fit``.

    Raises:
        ArtifactError: It does not flip all images; nothing is written.
    """
    torch.set_num_threads(1)
    states, losses = fit(hidden, STARTS, console=console)
    best = one_of(states, int(losses[-1].argmin()))
    # Adding 0 turns -0 into 0.
    rounded = {name: tensor.round(decimals=DECIMALS) + 0.0 for name, tensor in best.items()}
    net = DiagonalFlipNet(hidden)
    net.load_state_dict(rounded)
    flips = int((margins(reference(net)) > 0).sum())
    if flips < IMAGES:
        raise ArtifactError(
            f"a network of width {hidden} flips {flips} of {IMAGES} images",
            "one that flips all",
            "train a wider one: docs/model.md says which can",
        )
    write_weights(rounded, path)
    return net, losses


def draw(trained: DiagonalFlipNet, losses: npt.NDArray[np.float64], path: Path) -> None:
    """Draw the losses, and all images with their predictions before and after training, as SVG."""
    best = int(losses[-1].argmin())
    hidden = trained.layer1.out_features
    untrained = DiagonalFlipNet(hidden)
    untrained.load_state_dict(one_of(random_states(hidden, STARTS), best))
    mpl.rcParams["svg.hashsalt"] = "diagonalflip"
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False).flat
    axes = upper.subplots()
    steps = np.arange(0, STEPS, DRAWN_STEPS)
    curves = np.maximum(losses[::DRAWN_STEPS], LEAST_DRAWN)
    axes.semilogy(steps, curves, color="0.8", linewidth=0.5)
    axes.semilogy(steps, curves[:, best], color="tab:blue", label="the one that is kept")
    axes.set(xlabel="step", ylabel="mean squared error", title=f"{STARTS} random starts")
    axes.legend()
    rows: dict[str, npt.NDArray[Any]] = {
        "image": all_pixels(),
        "untrained": reference(untrained),
        "trained": reference(trained),
        "target": targets(),
    }
    grid = lower.subplots(len(rows), IMAGES)
    for line, (name, values) in zip(grid, rows.items(), strict=True):
        for place, value in zip(line, values, strict=True):
            place.imshow(value.reshape(2, 2), cmap="Greys", vmin=0, vmax=1)
            place.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m export.train", description=__doc__)
    parser.add_argument("--hidden", type=_width, default=5, help="width of the hidden layer")
    parser.add_argument(
        "--version", type=model_version, default="2.0", help="of the model it becomes"
    )
    arguments = parser.parse_args()
    weights = ROOT / f"export/weights-{arguments.version}.json"
    picture = ROOT / f"docs/training-{arguments.version}.svg"
    with ending("training"):
        trained, losses = train(arguments.hidden, weights, Console(stderr=True))
        draw(trained, losses, picture)
    margin = margins(reference(trained)).min()
    print(f"All {IMAGES} images are flipped, by a margin of {margin:.4f} or more.")
    print(f"Written: {weights.relative_to(ROOT)}, {picture.relative_to(ROOT)}")


def _width(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a width from 1 to 9999")
    return int(text)


if __name__ == "__main__":
    main()
