"""Promises of docs/wire-format.md that a single request cannot show."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from diagonalflip import wire
from diagonalflip.cli.target import Raw
from diagonalflip.cli.vectors import ask, require, vectors
from diagonalflip.client._answers import info, read
from diagonalflip.client._endpoint import PREDICTIONS, Reply
from diagonalflip.errors import InvalidAnswer

THREADS = 8
ROUNDS = 64
ATTEMPTS = 5
PAUSE_S = 0.2


class Kit:
    """A server, and methods to check its promises.

    Attributes:
        alone: Predictions of all images, each from its own request, ``float32[16, 4]``.
        version: The version that answers.
    """

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        alone = [read(self.post([number]), 1, PREDICTIONS) for number in range(16)]
        self.alone: npt.NDArray[np.float32] = np.concatenate(alone)
        served = info(raw.send(b"", {}))
        self.version, self._batch_invariant = served.version, served.batch_invariant

    def post(self, numbers: npt.ArrayLike, **headers: str) -> Reply:
        """Send packed images; after a 503, send them again as the contract says."""
        images = wire.pack(numbers)
        sent = {"Content-Type": wire.with_padding(wire.OCTETS, images.count)} | headers
        for _ in range(ATTEMPTS):
            answer = self.raw.send(bytes(images.packed), sent)
            if answer.status != 503:
                break
            time.sleep(PAUSE_S)
        return answer

    def predict(self, numbers: npt.NDArray[np.int64], **headers: str) -> Reply:
        """Predict images in one request, and compare their predictions."""
        answer = self.post(numbers, **headers)
        self.compare(read(answer, len(numbers), PREDICTIONS), numbers)
        return answer

    def compare(self, got: npt.NDArray[np.floating[Any]], numbers: npt.ArrayLike) -> None:
        """Compare predictions with those of the same images alone.

        Args:
            got: ``float32[n, 4]``, or ``float16[n, 4]`` rounded from it.
            numbers: The images, ``int[n]``.

        Raises:
            InvalidAnswer: They differ: in any bit if the server promises the same bits, else by
                more than twice the tolerance.
        """
        expected = self.alone[np.asarray(numbers)].astype(got.dtype)
        require("shape", got.shape, expected.shape)
        if self._batch_invariant:
            bits = f"u{got.itemsize}"
            right = got.view(bits) == expected.view(bits)
        else:
            rounding = np.abs(expected) * np.finfo(got.dtype).eps
            right = np.abs(got - expected) <= 2 * wire.TOLERANCE + rounding
        wrong = np.flatnonzero(~right.all(axis=1))
        if wrong.size:
            row = int(wrong[0])
            raise InvalidAnswer(f"{got[row].tolist()} in row {row}", f"{expected[row].tolist()}")


def _finite(kit: Kit) -> None:
    if not np.isfinite(kit.alone).all():
        raise InvalidAnswer("a prediction is not finite", "finite numbers")


def _batches(counts: Iterable[int], kit: Kit) -> None:
    for count in counts:
        numbers = np.random.default_rng(count).integers(0, 16, count)
        answer = kit.post(numbers)
        if answer.status == 413 and b"TorchServe" in answer.body:  # its port has a lower limit
            numbers = numbers[: int(answer.headers["Flip-Max-Images"])]
            answer = kit.post(numbers)
        kit.compare(read(answer, len(numbers), PREDICTIONS), numbers)
        require("Flip-Images", answer.headers.get("Flip-Images"), str(len(numbers)))


def _forms(kit: Kit) -> None:
    for group, vector in vectors():
        is_all_16 = len(vector["response"].get("float32", ())) == 16  # the images 0 to 15
        if group == "predictions" and is_all_16:
            answer = ask(kit.raw, vector, Accept=wire.OCTETS)
            kit.compare(read(answer, 16, PREDICTIONS), range(16))


def _json_answers(kit: Kit) -> None:
    answer = kit.post(range(16), Accept=wire.JSON)
    require("status", answer.status, 200)
    kit.compare(np.array(json.loads(answer.body)["predictions"], np.float32), range(16))


def _float16_answers(kit: Kit) -> None:
    answer = kit.post(range(16), Accept=wire.FLOAT16)
    require("status", answer.status, 200)
    kit.compare(np.frombuffer(answer.body, "<f2").reshape(-1, wire.PIXELS), range(16))


def _packed_answers(kit: Kit) -> None:
    answer = kit.post(range(15), Accept=wire.PACKED)
    require("status", answer.status, 200)
    require("bytes", len(answer.body), 8)
    *flips, padding = np.unpackbits(np.frombuffer(answer.body, np.uint8)).reshape(-1, wire.PIXELS)
    certain = np.abs(kit.alone[:15] - 0.5) > 2 * wire.TOLERANCE
    wrong = (np.array(flips) != (kit.alone[:15] >= 0.5)) & certain
    require("images flipped otherwise", np.flatnonzero(wrong.any(axis=1)).tolist(), [])
    require("padding", padding.tolist(), [0] * wire.PIXELS)
    require("Content-Type", answer.headers.get("Content-Type"), wire.with_padding(wire.PACKED, 15))


def _own_digest(kit: Kit) -> None:
    image = np.array([11])
    digest = kit.post(image).headers.get("Flip-Model-Digest", "")
    for condition in (f'"{digest}"', f'"{"0" * 64}", "{digest}"'):
        kit.predict(image, **{"If-Match": condition})
    rejected = kit.post(image, **{"If-Match": f'"{digest[::-1]}"'})
    require("status", rejected.status, 412)


def _concurrency(kit: Kit) -> None:
    def one(seed: int) -> None:
        if seed % 4 == 3:  # a bad request, which may share a batch with good ones
            broken = kit.raw.send(b"", {"Content-Type": wire.OCTETS})
            require("status of an empty body", broken.status in (400, 503), True)
            return
        numbers = np.random.default_rng(seed).integers(0, 16, 1 + seed % 40)
        name = f"check-{seed}"
        answer = kit.predict(numbers, **{"X-Request-Id": name})
        require("Flip-Request-Id", answer.headers.get("Flip-Request-Id"), name)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(one, range(ROUNDS)))


PROMISES: dict[str, Callable[[Kit], None]] = {
    "predictions are finite": _finite,
    "1 to 33 images: as each alone, and Flip-Images": partial(_batches, range(1, 34)),
    **{
        f"{count} images in one request: as each alone": partial(_batches, [count])
        for count in (1_000, 65_537, wire.MAX_IMAGES)
    },
    "the 16 images in any form of request: the same predictions": _forms,
    "JSON answers, read as float32, are exact": _json_answers,
    "float16 answers are the float32 ones, rounded to nearest even": _float16_answers,
    "packed answers are 1 where the prediction is at least 0.5": _packed_answers,
    "If-Match takes the model's own digest and rejects another": _own_digest,
    f"{ROUNDS} requests from {THREADS} threads, some bad: each gets its own": _concurrency,
}
"""Promises, each with a check that raises InvalidAnswer if it is broken."""
