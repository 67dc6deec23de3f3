"""However images travel and whatever they are batched with, their predictions are the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagonalflip.client._answers import agree
from diagonalflip.inference import reading
from diagonalflip.inference.model import Model
from diagonalflip.inference.torch_engine import TorchEngine
from diagonalflip.message import Operation, Request
from diagonalflip.wire import Images, pack, to_pixels, unpack

NUMBERS = st.lists(st.integers(0, 15), min_size=1, max_size=70)
FLOAT32 = "application/octet-stream"
Rows = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def engine(model: Model) -> TorchEngine:
    return TorchEngine(model.torchscript, "cpu")


def pbm(numbers: list[int]) -> bytes:
    rows = to_pixels(numbers).reshape(-1, 2)
    return f"P1 2 {len(rows)} ".encode() + " ".join(map(str, rows.reshape(-1))).encode()


def v2(numbers: list[int]) -> bytes:
    pixels = to_pixels(numbers).reshape(-1, 4)
    tensor = {"name": "pixels", "datatype": "BOOL", "shape": list(pixels.shape)}
    document = {
        "inputs": [tensor | {"data": pixels.astype(bool).tolist()}],
        "parameters": {"binary_data_output": True},
    }
    return json.dumps(document).encode()


def json_images(numbers: list[int]) -> bytes:
    forms: list[Any] = [
        lambda n: n,
        lambda n: f"{n:04b}",
        lambda n: to_pixels([n])[0].tolist(),
        lambda n: to_pixels([n]).reshape(4).tolist(),
    ]
    images = [forms[index % 4](number) for index, number in enumerate(numbers)]
    return json.dumps({"images": images}).encode()


def padding(numbers: list[int]) -> str:
    return "; padding=4" if len(numbers) % 2 else ""


FORMS: dict[str, Any] = {
    "packed": lambda n: (FLOAT32 + padding(n), bytes(pack(n).packed)),
    "vendor": lambda n: (
        f"application/vnd.diagonalflip.packed{padding(n)}",
        bytes(pack(n).packed),
    ),
    "json": lambda n: ("application/json", json_images(n)),
    "text": lambda n: ("text/plain", "".join(f"{x:x}" for x in n).encode()),
    "pbm": lambda n: ("image/x-portable-bitmap", pbm(n)),
    "v2": lambda n: ("", v2(n)),
}


def read(form: str, numbers: list[int]) -> reading.Job:
    content_type, body = FORMS[form](numbers)
    headers = {"content-type": content_type, "accept": FLOAT32}
    job = reading.read(Request(Operation.PREDICT, headers, body), "1.0", "d")
    assert job is not None
    return job


def answer(job: reading.Job, predictions: Rows) -> Rows:
    """The float32 of an answer, without V2's JSON before them."""
    body, _, headers = job.write(predictions)
    start = int(headers.get("Inference-Header-Content-Length", 0))
    return np.frombuffer(body[start:], "<f4").reshape(-1, 4)


@pytest.mark.parametrize("form", FORMS)
@given(numbers=NUMBERS)
def test_every_form_brings_the_images_that_were_sent(form: str, numbers: list[int]) -> None:
    assert unpack(read(form, numbers).images).tolist() == numbers


@given(batch=st.lists(st.tuples(st.sampled_from(list(FORMS)), NUMBERS), min_size=1, max_size=8))
def test_no_image_depends_on_its_batch(
    engine: TorchEngine, batch: list[tuple[str, list[int]]]
) -> None:
    alone = np.concatenate([engine.predict([pack([number])])[0].copy() for number in range(16)])
    requests = [read(form, numbers) for form, numbers in batch]
    results = engine.predict([request.images for request in requests])
    for request, rows, (_, numbers) in zip(requests, results, batch, strict=True):
        assert answer(request, rows).tobytes() == rows.tobytes()
        assert agree(rows, alone[numbers])


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 65_535, 65_536, 65_537, 200_001])
def test_every_length_class_gives_what_single_images_get(engine: TorchEngine, count: int) -> None:
    alone = np.concatenate([engine.predict([pack([number])])[0].copy() for number in range(16)])
    numbers = np.random.default_rng(count).integers(0, 16, count)
    companion = Images(b"\x50", 1)
    _, rows, _ = engine.predict([companion, pack(numbers), companion])
    assert agree(rows, alone[numbers])
