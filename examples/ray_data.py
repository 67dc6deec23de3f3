"""Predict many images on any number of machines, with Ray Data: one actor per core or GPU.

Needs ``pip install 'diagonalflip[serve]' 'ray[data]'``.
"""

import os
import time

import numpy as np
import ray

from diagonalflip import Predictor

IMAGES = int(os.environ.get("IMAGES", "20_000_000"))
ACTORS = int(os.environ.get("ACTORS", "2"))


class Flip:
    """Holds a Predictor, and flips the packed images of each batch."""

    def __init__(self) -> None:
        self.predictor = Predictor(version="2.0")

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Flip the images of a batch."""
        flipped = self.predictor.flip_packed(batch["data"])
        return {"data": np.frombuffer(flipped, np.uint8)}


packed = np.random.default_rng(0).integers(0, 256, IMAGES // 2, np.uint8)
ray.data.DataContext.get_current().execution_options.preserve_order = True
images = ray.data.from_numpy(np.array_split(packed, max(1, len(packed) >> 20)))  # in "data"
started = time.perf_counter()
flips = images.map_batches(
    Flip, batch_size=1 << 20, compute=ray.data.ActorPoolStrategy(size=ACTORS)
)
flipped = np.concatenate([batch["data"] for batch in flips.iter_batches(batch_size=1 << 20)])
seconds = time.perf_counter() - started
count = 2 * len(flipped)
print(f"{count:,} images, {count / seconds / 1e6:.1f} million per second")
print(f"ones {np.unpackbits(flipped).sum()}, first byte {flipped[0]}")
