"""The network is the published one, and a wrong weights file is rejected by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diagonalflip.errors import ArtifactError
from export.net import WEIGHTS_FILE, DiagonalFlipNet, load_net
from export.verify import all_pixels, reference, targets


def test_the_network_is_the_published_one() -> None:
    net = load_net()
    image_11 = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    hidden = torch.relu(net.layer1(image_11))
    assert hidden.numpy() == pytest.approx(np.array([[0.0, 0.0, 0.5]]), abs=1e-7)
    known = np.array([[0.1, -0.1, -0.05, -0.25]])
    assert net(image_11).numpy() == pytest.approx(known, abs=1e-7)
    assert targets()[11].tolist() == [1, 1, 0, 1]
    predictions = net(torch.from_numpy(all_pixels())).numpy()
    errors = np.mean((predictions - targets()) ** 2, axis=1)
    assert errors[11] == pytest.approx(0.89625, abs=1e-6)
    assert errors.mean() == pytest.approx(0.53787, abs=5e-6)
    assert reference(net) == pytest.approx(predictions, abs=1e-6)
    assert sum(tensor.numel() for tensor in net.state_dict().values()) == 31


SHAPES = [("layer1.weight", [3, 5]), ("layer1.bias", [4]), ("layer2.weight", [3, 4])]
SHAPES += [("layer2.bias", [1, 4]), ("layer2.bias", [])]
NO_WIDTH: dict[str, Any] = {"layer1.weight": [], "layer1.bias": [], "layer2.weight": [[]] * 4}
NOT_FINITE = (float("nan"), float("inf"), float("-inf"), 1e39)
NO_NUMBERS: list[Any] = ["a", None, [[1], [1, 2]], {}, ["0.1", "0", "0"], [10**400] * 3]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        *(({name: np.ones(shape).tolist()}, f"{name} has shape {shape}") for name, shape in SHAPES),
        (NO_WIDTH, "layer1.weight has shape [0]"),
        *(({"layer1.bias": [0, x, 0]}, "layer1.bias has NaN or infinity") for x in NOT_FINITE),
        *(({"layer1.bias": value}, "layer1.bias") for value in NO_NUMBERS),
        ({"layer3.bias": [0]}, "layer3.bias"),
    ],
)
def test_a_wrong_tensor_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(json.loads(WEIGHTS_FILE.read_bytes()) | change), encoding="utf-8")
    with pytest.raises(ArtifactError) as caught:
        load_net(path)
    assert told in caught.value.got


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe\x00", b"[" * 9999]
)
def test_a_file_without_the_tensors_is_rejected(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "wrong.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"wrong\.json|named tensors"):
        load_net(path)


@pytest.mark.parametrize("hidden", [1, 2, 5, 64])
def test_the_width_is_that_of_the_weights(tmp_path: Path, hidden: int) -> None:
    state = DiagonalFlipNet(hidden).state_dict()
    file = tmp_path / "weights.json"
    text = json.dumps({name: tensor.tolist() for name, tensor in state.items()})
    file.write_text(text, encoding="utf-8-sig")  # as some editors write it
    found = load_net(file).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
