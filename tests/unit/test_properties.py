"""However images travel, they are the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diagonalflip.inference import reading
from diagonalflip.message import Operation, Request
from diagonalflip.wire import OCTETS, PACKED, pack, to_pixels, unpack, with_padding

NUMBERS = st.lists(st.integers(0, 15), min_size=1, max_size=70)


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


FORMS: dict[str, Any] = {
    "packed": lambda n: (with_padding(OCTETS, len(n)), bytes(pack(n).packed)),
    "vendor": lambda n: (with_padding(PACKED, len(n)), bytes(pack(n).packed)),
    "json": lambda n: ("application/json", json_images(n)),
    "text": lambda n: ("text/plain", "".join(f"{x:x}" for x in n).encode()),
    "pbm": lambda n: ("image/x-portable-bitmap", pbm(n)),
    "v2": lambda n: ("", v2(n)),
}


@pytest.mark.parametrize("form", FORMS)
@given(numbers=NUMBERS)
def test_every_form_brings_the_images_that_were_sent(form: str, numbers: list[int]) -> None:
    content_type, body = FORMS[form](numbers)
    request = Request(Operation.PREDICT, {"content-type": content_type, "accept": OCTETS}, body)
    job = reading.read(request, "1.0", "d")
    assert job is not None
    assert unpack(job.images).tolist() == numbers
