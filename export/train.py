"""Trains a network that flips: ``python -m export.train --hidden 5 --version 2.0``.

Many random starts are trained at once, as one batch of networks, and the best one is kept. It is
done in float64 on one thread, so the weights file is the same whenever it is made on a machine;
its weights are rounded, so that people can read them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
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
from export.__main__ import model_version
from export.net import DiagonalFlipNet, load_net
from export.verify import IMAGES, all_pixels, margins, reference, targets

STARTS, STEPS = 64, 3000
LEARNING_RATE = 0.03
DECIMALS = 4
DRAWN_STEPS, LEAST_DRAWN = 100, 1e-16
EXPORT = Path(__file__).parent
DOCS = EXPORT.parent / "docs"

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Predictions ``float64[starts, 4, 16]`` and targets ``float64[4, 16]`` to a loss per start."""


def squared_error(predictions: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The mean over all images and pixels, ``float64[starts]``."""
    squares: torch.Tensor = (predictions - wanted) ** 2
    return squares.mean((1, 2))


def fit(
    hidden: int, starts: int, loss: Loss = squared_error, console: Console | None = None
) -> tuple[list[dict[str, torch.Tensor]], npt.NDArray[np.float64]]:
    """Train networks from random starts, all at once.

    Args:
        hidden: Width of the hidden layer.
        starts: Number of networks.
        loss: To be minimised.
        console: Shows progress.

    Returns:
        The networks' states as ``DiagonalFlipNet`` has them, and the loss of each at each step,
        ``float64[STEPS, starts]``.
    """
    parameters = _starts(hidden, starts)
    weight1, bias1, weight2, bias2 = (tensor.requires_grad_() for tensor in parameters)
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    pixels = torch.from_numpy(all_pixels().T).double().expand(starts, 4, IMAGES)
    wanted = torch.from_numpy(targets().T).double()
    losses = []
    for _ in track(range(STEPS), f"{starts} networks", console=console, disable=console is None):
        inner = torch.relu(torch.baddbmm(bias1, weight1, pixels))
        each = loss(torch.baddbmm(bias2, weight2, inner), wanted)
        losses.append(each.detach().numpy())
        optimizer.zero_grad()
        each.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return [_state(parameters, index) for index in range(starts)], np.array(losses)


def _starts(hidden: int, starts: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(hidden)

    def start(*shape: int, inputs: int) -> torch.Tensor:
        bound = float(inputs) ** -0.5  # as nn.Linear
        values = torch.rand(starts, *shape, generator=generator, dtype=torch.float64)
        scaled: torch.Tensor = (2 * values - 1) * bound
        return scaled

    first = [start(hidden, 4, inputs=4), start(hidden, 1, inputs=4)]
    return [*first, start(4, hidden, inputs=hidden), start(4, 1, inputs=hidden)]


def _state(parameters: list[torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    wanted = DiagonalFlipNet(parameters[0].shape[1]).state_dict()
    return {
        name: tensor.detach()[index].reshape(like.shape)
        for (name, like), tensor in zip(wanted.items(), parameters, strict=True)
    }


def write_weights(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write weights, rounded, with a line per row of a matrix."""
    parts = []
    for name, tensor in state.items():
        rounded = np.round(tensor.numpy(), DECIMALS) + 0.0  # no -0.0
        rows = [json.dumps(row) for row in np.atleast_2d(rounded).tolist()]
        value = rows[0] if tensor.dim() == 1 else "[\n    " + ",\n    ".join(rows) + "\n  ]"
        parts.append(f'  "{name}": {value}')
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def train(hidden: int, path: Path, console: Console | None = None) -> npt.NDArray[np.float64]:
    """Train a network and write its weights.

    Args:
        hidden: Width of the hidden layer.
        path: File for the weights.
        console: Shows progress.

    Returns:
        The losses of all starts, as ``fit`` has them; the one with the least loss is kept.

    Raises:
        ArtifactError: It does not flip all images; nothing is written.
    """
    torch.set_num_threads(1)
    states, losses = fit(hidden, STARTS, console=console)
    best = int(losses[-1].argmin())
    new = path.with_suffix(".new")
    try:
        write_weights(states[best], new)
        flips = int((margins(reference(load_net(new))) > 0).sum())
        if flips < IMAGES:
            raise ArtifactError(
                f"a network of width {hidden} flips {flips} of {IMAGES} images",
                "one that flips all",
                "train a wider one: docs/model.md says which can",
            )
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    return losses


def draw(losses: npt.NDArray[np.float64], weights: Path, path: Path) -> None:
    """Draw the losses, and all images with their predictions before and after training, as SVG."""
    best = int(losses[-1].argmin())
    trained = load_net(weights)
    untrained = DiagonalFlipNet(trained.layer1.out_features)
    untrained.load_state_dict(_state(_starts(trained.layer1.out_features, STARTS), best))
    nets = {"untrained": untrained, "trained": trained}
    mpl.rcParams["svg.hashsalt"] = "diagonalflip"
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    parts = figure.add_gridspec(2, 1)
    upper, lower = (figure.add_subfigure(parts[place]) for place in range(2))
    axes = upper.subplots()
    steps = np.arange(0, STEPS, DRAWN_STEPS)
    curves = np.maximum(losses[::DRAWN_STEPS], LEAST_DRAWN)
    axes.semilogy(steps, curves, color="0.8", linewidth=0.5)
    axes.semilogy(steps, curves[:, best], color="tab:blue", label="the one that is kept")
    axes.set(xlabel="step", ylabel="mean squared error", title=f"{STARTS} random starts")
    axes.legend()
    rows: dict[str, npt.NDArray[Any]] = {"image": all_pixels()}
    rows |= {name: reference(net) for name, net in nets.items()} | {"target": targets()}
    grid = lower.subplots(len(rows), IMAGES)
    for line, (name, values) in zip(grid, rows.items(), strict=True):
        for place, value in zip(line, values, strict=True):
            place.imshow(value.reshape(2, 2), cmap="Greys", vmin=0, vmax=1)
            place.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """Train as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m export.train", description=__doc__)
    parser.add_argument("--hidden", type=_width, default=5, help="width of the hidden layer")
    parser.add_argument(
        "--version", type=model_version, default="2.0", help="of the model it becomes"
    )
    arguments = parser.parse_args()
    weights = EXPORT / f"weights-{arguments.version}.json"
    picture = DOCS / f"training-{arguments.version}.svg"
    try:
        losses = train(arguments.hidden, weights, Console(stderr=True))
    except ArtifactError as error:
        print(f"training failed: {error}", file=sys.stderr)
        return 1
    draw(losses, weights, picture)
    margin = margins(reference(load_net(weights))).min()
    print(f"All {IMAGES} images are flipped, by a margin of {margin:.4f} or more.")
    print(f"Written: {weights.relative_to(DOCS.parent)}, {picture.relative_to(DOCS.parent)}")
    return 0


def _width(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a width from 1 to 9999")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
