"""Predict many images without a server: one process per core, each with a Predictor of its own."""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import numpy as np

from diagonalflip import Predictor

IMAGES = int(os.environ.get("IMAGES", "20_000_000"))
CHUNK_BYTES = 1 << 20  # two million images
PROCESSES = int(os.environ.get("PROCESSES", "0")) or os.cpu_count()


@cache
def predictor() -> Predictor:
    return Predictor(version="2.0")


def flip(packed: bytes) -> bytes:
    return predictor().flip_packed(packed)


if __name__ == "__main__":
    packed = np.random.default_rng(0).integers(0, 256, IMAGES // 2, np.uint8).tobytes()
    chunks = [packed[at : at + CHUNK_BYTES] for at in range(0, len(packed), CHUNK_BYTES)]
    with ProcessPoolExecutor(PROCESSES, initializer=predictor) as pool:
        list(pool.map(flip, [b"\0"] * 64))  # all processes have loaded the model
        started = time.perf_counter()
        flipped = b"".join(pool.map(flip, chunks))
    seconds = time.perf_counter() - started
    rate = 2 * len(flipped) / seconds / 1e6
    print(f"{2 * len(flipped):,} images, {rate:.1f} million per second")
    ones = np.unpackbits(np.frombuffer(flipped, np.uint8)).sum()
    print(f"ones {ones}, first byte {flipped[0]}")
