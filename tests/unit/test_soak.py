"""Growth of memory or descriptors fails a soak."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.soak import compare_thirds, grew


def samples(java: list[float], descriptors: list[int]) -> list[dict[str, Any]]:
    return [
        {"java_mib": mib, "workers_mib": 1.0, "java_descriptors": 9, "workers_descriptors": count}
        for mib, count in zip(java, descriptors, strict=True)
    ]


def test_flat_is_flat_whatever_the_warm_up_did() -> None:
    growth = compare_thirds(samples([1, 1, 100, 100, 100, 101], [1, 1, 9, 9, 9, 9]))
    assert growth["java_mib"] == (100, 100.5)
    assert not grew(growth)


@pytest.mark.parametrize(
    ("java", "descriptors"),
    [([1, 1, 100, 100, 103, 103], [9] * 6), ([100] * 6, [9, 9, 9, 9, 10, 10])],
)
def test_more_memory_or_one_more_descriptor_is_growth(
    java: list[float], descriptors: list[int]
) -> None:
    assert grew(compare_thirds(samples(java, descriptors)))


def test_two_samples_are_too_few() -> None:
    with pytest.raises(SystemExit, match="at least a minute"):
        compare_thirds(samples([1, 1], [1, 1]))
