"""Summarise an export for the person who ran it, in ASCII, which every terminal has."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from export.net import DiagonalFlipNet
from export.verify import IMAGES, Forward, all_pixels, targets


def network_table(net: DiagonalFlipNet, forward: Forward) -> str:
    """Draw all 16 images as 2x2 blocks, with prediction, target and squared error."""
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
    lines += [
        "",
        f"  mean squared error over all {IMAGES} images: {errors.mean():.5f}",
        f"  parameters: {sum(tensor.numel() for tensor in net.parameters())}",
        f"  image 11 alone and in a batch of {IMAGES}: {apart:.1e} apart",
    ]
    return "\n".join(lines)


def _draw(image: npt.NDArray[Any]) -> tuple[str, str]:
    marks = "".join("##" if pixel else ".." for pixel in image)
    return marks[:4], marks[4:]


def parity_report_lines(parity_report: dict[str, Any]) -> str:
    """Show the parity report: a line per pair of engines, and one per engine."""
    sizes = ", ".join(map(str, parity_report["batch_sizes"]))
    positions = parity_report["positions_per_batch_size"]
    lines = [f"  {IMAGES} images at {positions} positions in batches of {sizes}"]
    for pair, worst in parity_report["pairs"].items():
        lines.append(f"  [ok] {pair:28} {worst['deviation']:.2e}  {worst['ulp']} ULP")
    margin = parity_report["margin"]
    by = f", by a margin of {margin:.4f}" if margin else ""
    lines.append(f"  flips {parity_report['flips']} of {IMAGES} images{by}")
    for engine, same in parity_report["batch_invariant"].items():
        bits = "the same bits in every batch" if same else "bits vary with the batch"
        lines.append(f"      {engine:28} {bits}")
    return "\n".join(lines)


def file_lines(files: dict[str, dict[str, Any]]) -> str:
    """List the written files with sizes and digests."""
    return "\n".join(
        f"  {name:22} {entry['bytes']:>7} bytes  sha256 {entry['sha256']}"
        for name, entry in files.items()
    )
