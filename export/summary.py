"""Summary of an export for the person who ran it."""

from __future__ import annotations

from typing import Any

import numpy as np

from export.net import DiagonalFlipNet
from export.verify import IMAGES, Forward, all_pixels, targets

INK = ("·", "█")


def network_table(net: DiagonalFlipNet, forward: Forward) -> str:
    """All 16 images drawn as 2x2 blocks, with prediction, target and squared error."""
    pixels, flipped = all_pixels(), targets()
    predictions = forward(pixels)
    errors = np.mean((predictions - flipped) ** 2, axis=1)
    lines = ["   #  image  prediction                        target  error"]
    for number in range(IMAGES):
        top, bottom = _draw(pixels[number])
        flip_top, flip_bottom = _draw(flipped[number])
        values = "  ".join(f"{value:+.4f}" for value in predictions[number])
        lines.append(f"  {number:2}  {top}     {values}  {flip_top}      {errors[number]:.4f}")
        lines.append(f"      {bottom}     {'':34}{flip_bottom}")
    apart = float(np.abs(predictions[11] - forward(pixels[11:12])[0]).max())
    parameters = sum(tensor.numel() for tensor in net.state_dict().values())
    lines += [
        "",
        f"  mean squared error over all {IMAGES} images: {errors.mean():.5f}",
        f"  parameters: {parameters}",
        f"  image 11 alone and in a batch of {IMAGES}: {apart:.1e} apart",
    ]
    return "\n".join(lines)


def parity_report_lines(parity_report: dict[str, Any]) -> str:
    """The parity report: a line per pair of engines, and one per engine."""
    sizes = ", ".join(map(str, parity_report["batch_sizes"]))
    positions = parity_report["positions_per_batch_size"]
    lines = [f"  {IMAGES} images at {positions} positions in batches of {sizes}"]
    for pair, worst in parity_report["pairs"].items():
        lines.append(f"  [✓] {pair:28} {worst['deviation']:.2e}  {worst['ulp']} ULP")
    flips, margin = parity_report["flips"], parity_report["margin"]
    lines.append(
        f"  flips {flips} of {IMAGES} images" + (f", by a margin of {margin:.4f}" if margin else "")
    )
    for engine, same in parity_report["batch_invariant"].items():
        told = "the same bits in every batch" if same else "bits vary with the batch"
        lines.append(f"      {engine:28} {told}")
    return "\n".join(lines)


def file_lines(files: dict[str, dict[str, Any]]) -> str:
    """Files written, with sizes and digests."""
    return "\n".join(
        f"  {name:22} {entry['bytes']:>7} bytes  sha256 {entry['sha256']}"
        for name, entry in files.items()
    )


def _draw(image: np.ndarray[Any, Any]) -> tuple[str, str]:
    marks = [INK[int(pixel)] * 2 for pixel in image]
    return "".join(marks[:2]), "".join(marks[2:])
