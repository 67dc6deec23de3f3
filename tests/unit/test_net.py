"""The network is the published one, and a wrong weights file is refused by name."""

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


def published() -> dict[str, Any]:
    tensors: dict[str, Any] = json.loads(WEIGHTS_FILE.read_text(encoding="utf-8"))
    return tensors


def refused(tmp_path: Path, text: str) -> ArtifactError:
    path = tmp_path / "wrong.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError) as caught:
        load_net(path)
    return caught.value


def test_image_11_has_the_known_answer() -> None:
    net = load_net()
    pixels = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    hidden = torch.relu(net.layer1(pixels))
    assert hidden.numpy() == pytest.approx(np.array([[0.0, 0.0, 0.5]]), abs=1e-7)
    prediction = net(pixels).numpy()
    assert prediction == pytest.approx(np.array([[0.1, -0.1, -0.05, -0.25]]), abs=1e-7)
    assert targets()[11].tolist() == [1, 1, 0, 1]
    assert np.mean((prediction - targets()[11]) ** 2) == pytest.approx(0.89625, abs=1e-6)


def test_the_mean_squared_error_over_all_images_is_the_known_one() -> None:
    predictions = load_net()(torch.from_numpy(all_pixels())).numpy()
    assert np.mean((predictions - targets()) ** 2) == pytest.approx(0.53787, abs=5e-6)


def test_the_float64_reference_is_the_network() -> None:
    net = load_net()
    assert reference(net)[11] == pytest.approx(np.array([0.1, -0.1, -0.05, -0.25]), abs=1e-7)
    assert reference(net) == pytest.approx(net(torch.from_numpy(all_pixels())).numpy(), abs=1e-6)


@pytest.mark.parametrize(("hidden", "parameters"), [(3, 31), (5, 49)])
def test_the_number_of_parameters_is_the_known_one(hidden: int, parameters: int) -> None:
    assert sum(p.numel() for p in DiagonalFlipNet(hidden).parameters()) == parameters


def test_a_loaded_network_is_ready_for_inference() -> None:
    net = load_net()
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("layer1.weight", [3, 5], [3, 4]),
        ("layer1.bias", [4], [3]),
        ("layer2.weight", [3, 4], [4, 3]),
        ("layer2.bias", [1, 4], [4]),
        ("layer2.bias", [], [4]),
    ],
)
def test_a_wrong_shape_names_the_tensor_and_both_shapes(
    tmp_path: Path, name: str, shape: list[int], wanted: list[int]
) -> None:
    tensors = published() | {name: np.ones(shape).tolist()}
    error = refused(tmp_path, json.dumps(tensors))
    assert error.got == f"{name} has shape {shape}"
    assert str(wanted) in error.expected
    assert "wrong.json" in error.action


@pytest.mark.parametrize("hidden", [1, 2, 5, 64])
def test_the_width_is_that_of_the_weights(tmp_path: Path, hidden: int) -> None:
    state = DiagonalFlipNet(hidden).state_dict()
    file = tmp_path / "weights.json"
    file.write_text(json.dumps({name: tensor.tolist() for name, tensor in state.items()}))
    net = load_net(file)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in state.items())


def test_no_hidden_layer_is_refused(tmp_path: Path) -> None:
    tensors = published() | {"layer1.weight": [], "layer1.bias": [], "layer2.weight": [[]] * 4}
    assert "layer1.weight has shape [0]" in refused(tmp_path, json.dumps(tensors)).got


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e39])
@pytest.mark.parametrize("name", ["layer1.bias", "layer2.bias"])
def test_a_value_that_is_not_finite_is_refused(tmp_path: Path, name: str, value: float) -> None:
    tensors = published()
    tensors[name][1] = value
    assert refused(tmp_path, json.dumps(tensors)).got == f"{name} has NaN or infinity"


@pytest.mark.parametrize("value", ["a", None, [[1], [1, 2]], {}, ["0.1", "0", "0"], [10**400] * 3])
def test_a_tensor_that_is_no_array_of_numbers_is_named(tmp_path: Path, value: Any) -> None:
    error = refused(tmp_path, json.dumps(published() | {"layer1.bias": value}))
    assert "layer1.bias" in error.got
    assert error.expected == "numbers in nested lists"


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    tensors = published()
    del tensors["layer2.bias"]
    error = refused(tmp_path, json.dumps(tensors))
    assert "layer2.bias" not in error.got
    assert "layer2.bias" in error.expected


def test_a_superfluous_tensor_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, json.dumps(published() | {"layer3.bias": [0]}))
    assert "layer3.bias" in error.got
    assert "layer3.bias" not in error.expected


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"'])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    assert "JSON" in str(refused(tmp_path, text)) or "object" in str(refused(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere\.json"):
        load_net(tmp_path / "nowhere.json")


def test_a_file_of_other_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match=r"binary\.json"):
        load_net(path)
