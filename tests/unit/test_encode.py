"""Answers hold the very float32 values that the network gave."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from diagonalflip.errors import NotAcceptable
from diagonalflip.inference import encoders
from diagonalflip.wire import FLOAT16, JSON, OCTETS, PACKED, Images, pack, to_pixels

Rows = npt.NDArray[np.float32]
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
PREDICTIONS = hnp.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(4)), elements=FINITE)
EXAMPLE = np.array([[0.1, -0.1, -0.05, -0.25], [0, 1, -1, -1e-7]], dtype=np.float32)


def images_like(predictions: Rows) -> Images:
    return pack(np.arange(len(predictions)) % 16)


def encode(media_type: str, predictions: Rows) -> bytes:
    body, content_type, more = encoders.ENCODERS[media_type](images_like(predictions), predictions)
    assert (content_type, more) == (media_type, {})
    return body


@given(PREDICTIONS)
def test_answers_are_exact_to_the_bit_and_of_their_own_rows_only(predictions: Rows) -> None:
    for rows in (predictions, predictions[:1], predictions[-1:]):
        assert encode(OCTETS, rows) == rows.tobytes() == encode(OCTETS, rows.astype(">f4"))
        document = json.loads(encode(JSON, rows))
        assert list(document) == ["predictions"]
        assert np.array(document["predictions"], np.float32).tobytes() == rows.tobytes()


def test_json_answers_are_short_numbers() -> None:
    assert encode(JSON, EXAMPLE[:1]) == b'{"predictions":[[0.1,-0.1,-0.05,-0.25]]}'


def test_the_model_that_rounds_is_made_of_what_it_says() -> None:
    """Its bytes are in the code, so that a worker needs no package ``onnx``."""
    shape: list[str | int | None] = ["images", 4]
    graph = helper.make_graph(
        [helper.make_node("Cast", ["predictions"], ["halves"], to=TensorProto.FLOAT16)],
        "halving",
        [helper.make_tensor_value_info("predictions", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("halves", TensorProto.FLOAT16, shape)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    assert made.SerializeToString() == encoders.HALVING


def test_every_float16_and_every_tie_between_two_is_rounded_as_by_numpy() -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = (halves[:-1] + halves[1:]) / 2
    near = [np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(0))]
    values = np.concatenate([halves, ties, *near])
    rows = np.concatenate([values, -values])
    rows = rows[: len(rows) // 4 * 4].reshape(-1, 4)
    body = encode(FLOAT16, rows)
    assert body == rows.astype("<f2").tobytes()


@given(st.lists(st.integers(0, 15), min_size=1, max_size=9))
def test_flips_are_thresholded_at_one_half_and_packed_like_images(numbers: list[int]) -> None:
    below = np.nextafter(np.float32(0.5), np.float32(0))
    predictions = np.where(to_pixels(numbers).reshape(-1, 4) == 1, np.float32(0.5), below)
    body, content_type, _ = encoders.encode_flips(images_like(predictions), predictions)
    assert content_type == PACKED + ("; padding=4" if len(numbers) % 2 else "")
    assert body == pack(numbers).packed


@pytest.mark.parametrize("accept", ["text/html", "*/*;q=0", "rubbish", "text/" + 5000 * "x"])
def test_what_accept_rules_out_is_not_sent(accept: str) -> None:
    with pytest.raises(NotAcceptable) as caught:
        encoders.choose(accept, JSON)
    assert accept[:100] in caught.value.got
    assert len(caught.value.got) < 200
    assert JSON in caught.value.expected
    assert OCTETS in caught.value.expected
