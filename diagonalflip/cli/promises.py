"""Promises of docs/wire-format.md that no single request can show."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from diagonalflip import wire
from diagonalflip.cli.target import Raw
from diagonalflip.cli.vectors import ask, require, vectors
from diagonalflip.client._answers import info
from diagonalflip.client._endpoint import Reply
from diagonalflip.errors import InvalidAnswer

THREADS = 8
ROUNDS = 64
ATTEMPTS = 5
PAUSE_S = 0.2

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Kit:
    """Clients and data to check promises with.

    Attributes:
        raw: The server.
        alone: Predictions of all images, each asked for alone, ``float32[16, 4]``.
        batch_invariant: Whether the server promises the same bits in every batch.
        version: Of the model that answers.
    """

    raw: Raw
    alone: Rows
    batch_invariant: bool
    version: str

    def compare(self, got: npt.NDArray[np.floating[Any]], numbers: npt.ArrayLike) -> None:
        """Compares predictions with those of the same images asked for alone.

        Args:
            got: ``float32[n, 4]``, or ``float16[n, 4]`` rounded from it.
            numbers: The images, ``int[n]``.

        Raises:
            InvalidAnswer: They differ: by a bit where the server promises the same bits,
                else by more than two answers within the tolerance can.
        """
        expected = self.alone[np.asarray(numbers)].astype(got.dtype)
        require("shape", got.shape, expected.shape)
        if self.batch_invariant:
            bits = f"u{got.itemsize}"
            right = got.view(bits) == expected.view(bits)
        else:
            rounding = np.abs(expected) * np.finfo(got.dtype).eps
            right = np.abs(got - expected) <= 2 * wire.TOLERANCE + rounding
        wrong = np.flatnonzero(~right.all(axis=1))
        if wrong.size:
            row = int(wrong[0])
            raise InvalidAnswer(f"{got[row].tolist()} in row {row}", f"{expected[row].tolist()}")


def kit(raw: Raw) -> Kit:
    """Ask for every image alone; what everything else is compared with."""
    alone = np.concatenate([rows(post(raw, [number]), 1) for number in range(16)])
    told = info(raw.post(b"", {}))
    return Kit(raw, alone, told.batch_invariant, told.version)


def post(raw: Raw, numbers: npt.ArrayLike, **headers: str) -> Reply:
    """Send images packed, and again where the contract says so: 503."""
    images = wire.pack(numbers)
    sent = {"Content-Type": wire.with_padding(wire.OCTETS, images.count)} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    for _ in range(ATTEMPTS):
        answer = raw.post(bytes(images.packed), sent)
        if answer.status != 503:
            break
        time.sleep(PAUSE_S)
    return answer


def rows(answer: Reply, count: int) -> Rows:
    """The predictions in a binary answer, ``float32[count, 4]``."""
    require("status", answer.status, 200)
    require("Content-Type", answer.headers.get("Content-Type"), wire.OCTETS)
    require("bytes", len(answer.body), 4 * wire.PIXELS * count)
    return np.frombuffer(answer.body, "<f4").reshape(-1, wire.PIXELS)


def _every_length(kit: Kit) -> None:
    for count in range(1, 34):
        numbers = np.arange(count) % 16
        answer = post(kit.raw, numbers)
        kit.compare(rows(answer, count), numbers)
        require("Flip-Images", answer.headers.get("Flip-Images"), str(count))


def _batch(count: int, kit: Kit) -> None:
    numbers = np.random.default_rng(count).integers(0, 16, count)
    answer = post(kit.raw, numbers)
    if answer.status == 413 and b"TorchServe" in answer.body:  # whose port answers fewer
        numbers = numbers[: int(answer.headers["Flip-Max-Images"])]
        answer = post(kit.raw, numbers)
    kit.compare(rows(answer, len(numbers)), numbers)


def _finite(kit: Kit) -> None:
    if not np.isfinite(kit.alone).all():
        raise InvalidAnswer("a prediction is not finite", "finite numbers")


def _forms(kit: Kit) -> None:
    for group, file, vector in vectors():
        is_all_16 = len(vector["response"].get("float32", ())) == 16  # the images 0 to 15
        if group == "predictions" and is_all_16:
            answer = ask(kit.raw, file, vector, Accept=wire.OCTETS)
            kit.compare(rows(answer, 16), range(16))


def _json_answers(kit: Kit) -> None:
    answer = post(kit.raw, range(16), Accept=wire.JSON)
    require("status", answer.status, 200)
    kit.compare(np.array(json.loads(answer.body)["predictions"], np.float32), range(16))


def _float16_answers(kit: Kit) -> None:
    answer = post(kit.raw, range(16), Accept=wire.FLOAT16)
    require("status", answer.status, 200)
    require("bytes", len(answer.body), 2 * wire.PIXELS * 16)
    kit.compare(np.frombuffer(answer.body, "<f2").reshape(-1, wire.PIXELS), range(16))


def _flipped_answers(kit: Kit) -> None:
    answer = post(kit.raw, range(15), Accept=wire.PACKED)
    require("status", answer.status, 200)
    require("bytes", len(answer.body), 8)
    *flips, padding = np.unpackbits(np.frombuffer(answer.body, np.uint8)).reshape(-1, wire.PIXELS)
    certain = np.abs(kit.alone[:15] - 0.5) > 2 * wire.TOLERANCE
    wrong = (np.array(flips) != (kit.alone[:15] >= 0.5)) & certain
    require("images flipped otherwise", np.flatnonzero(wrong.any(axis=1)).tolist(), [])
    require("padding", padding.tolist(), [0] * wire.PIXELS)
    require("Content-Type", answer.headers.get("Content-Type"), wire.with_padding(wire.PACKED, 15))


def _own_digest(kit: Kit) -> None:
    digest = post(kit.raw, [11]).headers.get("Flip-Model-Digest", "")
    for condition in (f'"{digest}"', f'"{"0" * 64}", "{digest}"'):
        kit.compare(rows(post(kit.raw, [11], If_Match=condition), 1), [11])
    require("status", post(kit.raw, [11], If_Match=f'"{digest[::-1]}"').status, 412)


def _concurrency(kit: Kit) -> None:
    def one(seed: int) -> None:
        if seed % 4 == 3:  # a bad one among the good, which may share its batch
            broken = kit.raw.post(b"", {"Content-Type": wire.OCTETS})
            require("status of an empty body", broken.status in (400, 503), True)
            return
        numbers = np.random.default_rng(seed).integers(0, 16, 1 + seed % 40)
        name = f"check-{seed}"
        answer = post(kit.raw, numbers, X_Request_Id=name)
        kit.compare(rows(answer, len(numbers)), numbers)
        require("Flip-Request-Id", answer.headers.get("Flip-Request-Id"), name)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(one, range(ROUNDS)))


def promises() -> Iterator[tuple[str, Callable[[Kit], None]]]:
    """Names, which say what is promised, and checks that raise InvalidAnswer if it is not so."""
    yield "predictions are finite", _finite
    yield "1 to 33 images: as each alone, and Flip-Images", _every_length
    for count in (1_000, 65_537, wire.MAX_IMAGES):
        yield f"{count} images in one request: as each alone", partial(_batch, count)
    yield "the 16 images in any form of request: the same predictions", _forms
    yield "JSON answers, read as float32, are exact", _json_answers
    yield "float16 answers are the float32 ones, rounded to nearest even", _float16_answers
    yield "packed answers are 1 where the prediction is at least 0.5", _flipped_answers
    yield "If-Match takes the model's own digest and rejects another", _own_digest
    yield f"{ROUNDS} requests from {THREADS} threads, some bad: each gets its own", _concurrency
