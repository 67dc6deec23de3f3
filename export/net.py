"""The network, and its published weights in ``weights-1.0.json``."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from torch import nn

from diagonalflip.errors import ArtifactError
from diagonalflip.wire import PIXELS

WEIGHTS_FILE = Path(__file__).with_name("weights-1.0.json")


class DiagonalFlipNet(nn.Module):
    """Linear 4 -> hidden, ReLU, Linear hidden -> 4, without an output activation.

    Args:
        hidden: Width of the hidden layer. 3 has 31 parameters, 5 has 49.
    """

    def __init__(self, hidden: int = 3) -> None:
        super().__init__()
        self.layer1 = nn.Linear(PIXELS, hidden)
        self.layer2 = nn.Linear(hidden, PIXELS)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Map ``float32[batch, 4]`` pixels to ``float32[batch, 4]`` predictions."""
        prediction: torch.Tensor = self.layer2(torch.relu(self.layer1(pixels)))
        return prediction


def side_by_side(net: DiagonalFlipNet, count: int) -> DiagonalFlipNet:
    """Return ``count`` copies side by side: ``float32[n, 4 * count]`` to the same shape.

    A copy's sums get only zeros from the others, so each copy computes the same as ``net``.
    Matrices as small as the network's use a fraction of a processor's vectors; four copies fill
    them.
    """
    wide = copy.deepcopy(net)
    for layer in (wide.layer1, wide.layer2):
        layer.weight.data = torch.block_diag(  # type: ignore[no-untyped-call]
            *[layer.weight] * count
        )
        layer.bias.data = layer.bias.repeat(count)
        layer.out_features, layer.in_features = layer.weight.shape
    return wide


def load_net(weights_file: Path = WEIGHTS_FILE) -> DiagonalFlipNet:
    """Return a network in evaluation mode with the width and weights of a file.

    Args:
        weights_file: JSON object: tensor name to nested lists, shaped (out, in) as
            ``nn.Linear`` stores them; ``layer1.weight`` has a row per hidden value.

    Raises:
        ArtifactError: The file is missing or not JSON, or a tensor is missing,
            superfluous, not numeric, not finite or of another shape.
    """
    try:
        tensors = json.loads(weights_file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{weights_file}: {error}", "a readable JSON file") from error
    if not isinstance(tensors, dict):
        raise ArtifactError(f"a JSON {type(tensors).__name__}", "an object of named tensors")
    rows = tensors.get("layer1.weight")
    hidden = len(rows) if isinstance(rows, list) and rows else 1
    net = DiagonalFlipNet(hidden)
    state = net.state_dict()
    if tensors.keys() != state.keys():
        raise ArtifactError(
            f"{weights_file.name} has tensors {sorted(tensors)}", f"tensors {sorted(state)}"
        )
    for name, wanted in state.items():
        try:
            tensor = torch.tensor(tensors[name], dtype=torch.float32)
        except (ValueError, TypeError, OverflowError) as error:
            raise ArtifactError(f"{name}: {error}", "numbers in nested lists") from error
        if tensor.shape != wanted.shape:
            raise ArtifactError(
                f"{name} has shape {list(tensor.shape)}",
                f"shape {list(wanted.shape)} (out, in)",
                f"correct {weights_file.name}; layer1.weight has a row per hidden value",
            )
        if not tensor.isfinite().all():
            raise ArtifactError(f"{name} has NaN or infinity", "finite numbers")
        state[name] = tensor
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)
