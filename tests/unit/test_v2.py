"""Open Inference Protocol V2: JSON, binary tensors, and everything that is neither."""

from __future__ import annotations

import json
import re
import tracemalloc
from typing import Any

import numpy as np
import pytest

from diagonalflip.errors import InvalidJson, InvalidTensor, TooManyImages, UnsupportedMediaType
from diagonalflip.inference import reading, v2
from diagonalflip.message import Operation, Request
from diagonalflip.wire import MAX_IMAGES, MAX_TEXT_IMAGES, to_pixels, unpack

NUMBERS = [11, 6, 9]
PIXELS = to_pixels(NUMBERS).reshape(-1, 4)
BINARY_OUTPUT = {"binary_data_output": True}
DEEP = "[" * 1010 + "]" * 1010


def tensor(**changes: Any) -> dict[str, Any]:
    made = {"name": "pixels", "datatype": "UINT8", "shape": [3, 4], "data": PIXELS.tolist()}
    return {key: value for key, value in (made | changes).items() if value is not ...}


def request(*inputs: Any, **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs)} | more).encode()


def read(body: bytes, length: int | None = None) -> v2.V2Request:
    headers = {} if length is None else {v2.HEADER_LENGTH: str(length)}
    assert v2.recognises(headers, body)
    found = v2.read(headers, body, strict=False)
    assert found is not None
    return found


def binary(content: bytes, size: Any, **changes: Any) -> v2.V2Request:
    """What is read of a tensor that says it has ``size`` bytes after the JSON."""
    parameters = changes.pop("parameters", {}) | {"binary_data_size": size}
    head = request(tensor(data=..., parameters=parameters, **changes))
    head = head.replace(b'"deep"', DEEP.encode())
    return read(head + content, len(head))


def test_what_one_output_asks_for_goes_before_what_the_whole_request_does() -> None:
    output = {"name": "prediction", "parameters": {"binary_data": False}}
    asked = read(request(tensor(), outputs=[output], parameters=BINARY_OUTPUT))
    assert "data" in json.loads(asked.answer("1.0", np.zeros((3, 4), np.float32))[0])["outputs"][0]


IS_JSON = {"content-type": "application/json"}
PACKED = tensor(name="packed", shape=[1], data=[0])
MALFORMED = [
    # Others are among the vectors.
    *(request(3), request(tensor(shape=...)), request(tensor(shape=[-3, 4]))),
    request(tensor(shape=[True, 4], data=[1, 0, 1, 1])),
    *(request(tensor(data=data)) for data in ([[1], [1, 0]], ["1"] * 12)),
    request(tensor(datatype="FP32", data=[0.5] * 12)),
    *(request(PACKED | {"data": [value]}) for value in (3.5, -1)),
    *(request(tensor(), id=7), request(tensor(), outputs=[{"name": "logits"}])),
    *(request(tensor(), parameters=each) for each in ([1], {"binary_data_output": "false"})),
    *(request(PACKED | {key: "deep"}) for key in ("name", "datatype", "shape", "parameters")),
    *(request(PACKED | {"parameters": {"padding": "deep"}}), request(PACKED, id="deep")),
]


@pytest.mark.parametrize("body", MALFORMED)
def test_what_is_malformed_is_rejected(body: bytes) -> None:
    with pytest.raises(InvalidTensor) as caught:
        read(body.replace(b'"deep"', DEEP.encode()))
    assert len(str(caught.value)) < 300


def test_a_tensor_without_data_is_named_so() -> None:
    with pytest.raises(InvalidTensor, match="No data"):
        read(request(tensor(data=...)))


@pytest.mark.parametrize(
    ("datatype", "length", "size"), [("UINT8", 12, 11), ("UINT8", 12, "deep"), ("FP32", 13, 13)]
)
def test_a_wrong_binary_size_is_rejected(datatype: str, length: int, size: Any) -> None:
    with pytest.raises(InvalidTensor, match=f"{length} binary bytes"):
        binary(bytes(length), size, datatype=datatype)


@pytest.mark.parametrize("length", ["-1", "1" * 5000, "0" * 5000, "٣"])
def test_a_wrong_header_length_is_rejected(length: str) -> None:
    with pytest.raises(InvalidTensor, match="Inference-Header-Content-Length"):
        v2.read({v2.HEADER_LENGTH: length}, request(tensor()), strict=False)


@pytest.mark.parametrize("data", [["a" * 10**6, *[""] * 10**5], [["a" * 10**6, *[""] * 10**5]]])
def test_a_long_text_among_many_values_takes_no_memory(data: list[Any]) -> None:
    tracemalloc.start()
    with pytest.raises(InvalidTensor, match="not numbers"):
        read(request(tensor(data=data)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


@pytest.mark.parametrize(
    "shape", [[MAX_TEXT_IMAGES + 1, 4], [MAX_IMAGES + 1, 4], [2**62, 4], [MAX_TEXT_IMAGES // 2 + 1]]
)
def test_too_many_images_are_rejected_by_the_shape_alone(shape: list[int]) -> None:
    name = "pixels" if shape[1:] else "packed"
    with pytest.raises(TooManyImages):
        read(request(tensor(name=name, shape=shape, data=[])))
    with pytest.raises(InvalidTensor):  # of the packed ones one may be padding: too little data
        read(request(tensor(name="packed", shape=[MAX_TEXT_IMAGES // 2], data=[])))


def test_the_images_of_an_answer_in_text_are_fewer_than_of_one_in_binary() -> None:
    content = bytes(MAX_TEXT_IMAGES // 2 + 1)
    said: Any = {"name": "packed", "shape": [len(content)], "data": ...}
    said["parameters"] = {"binary_data_size": len(content)}
    head = request(tensor(**said), parameters=BINARY_OUTPUT)
    assert read(head + content, len(head)).images.count == MAX_TEXT_IMAGES + 2
    head = request(tensor(**said))
    with pytest.raises(TooManyImages):
        read(head + content, len(head))


@pytest.mark.parametrize("body", [b'{"images": ["inputs"]}', b'"inputs"', b"\xb6", b""])
@pytest.mark.parametrize("headers", [{}, IS_JSON])
def test_other_requests_are_not_taken_for_v2(headers: dict[str, str], body: bytes) -> None:
    assert not v2.recognises(headers, body)
    assert v2.read(headers, body, strict=False) is None
    with pytest.raises(InvalidJson):
        v2.read(headers, body, strict=True)


OTHER_TYPES = [
    *("application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "application/xml"),
    *("text/xml; charset=utf-8", "multipart/form-data", "text/plain", "image/png", "rubbish"),
    "application/octet-stream",
]
FORM = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.json"\r\n\r\n%b\r\n--b--\r\n'


@pytest.mark.parametrize("content_type", OTHER_TYPES)
@pytest.mark.parametrize("body", [request(tensor()), FORM % request(tensor()), b"\xb6", b""])
@pytest.mark.parametrize("in_binary", [False, True])
def test_another_type_is_named(content_type: str, body: bytes, in_binary: bool) -> None:
    """On V2's own path, which tells that it is meant; curl's default is one of them."""
    headers = {"content-type": content_type}
    if in_binary and content_type != "application/octet-stream":
        headers[v2.HEADER_LENGTH] = str(len(body))
    asked = Request(Operation.INFER, headers, body)
    reading.cost_of(asked)
    with pytest.raises(UnsupportedMediaType, match=content_type.partition(";")[0]):
        reading.read(asked, "1.0", "")


@pytest.mark.parametrize("headers", [{}, {"content-type": ""}, IS_JSON])
def test_a_missing_type_is_told_with_the_error(headers: dict[str, str]) -> None:
    assert reading.read(Request(Operation.INFER, headers, request(tensor())), "1.0", "")
    for body in (b"\xb6", b""):
        with pytest.raises(InvalidJson) as caught:
            reading.read(Request(Operation.INFER, headers, body), "1.0", "")
        assert ("No Content-Type" in str(caught.value)) == (headers is not IS_JSON)


@pytest.mark.parametrize(
    ("broken", "column"),
    [
        *(('{"inputs": [NaN]}', 13), ('{"inputs": [-Infinity]}', 14), ('{"inputs": [1,]}', 15)),
        *(('{"id": "\\ud800", "inputs": []}', 8), ('{"inputs": []} {}', 16)),
        *(('{"inputs": [1', 14), ("{'inputs': []}", 2)),
    ],
)
@pytest.mark.parametrize("operation", [Operation.INFER, Operation.PREDICT])
@pytest.mark.parametrize("in_binary", [False, True])
def test_where_json_breaks_is_told(
    broken: str, column: int, operation: Operation, in_binary: bool
) -> None:
    body = f"\n{broken}".encode()
    more = {v2.HEADER_LENGTH: str(len(body))} if in_binary else {}
    with pytest.raises(InvalidJson) as caught:
        reading.read(Request(operation, IS_JSON | more, body), "1.0", "")
    found = re.search(r"line 2 column (\d+)", str(caught.value))
    assert found
    assert abs(int(found[1]) - column) <= 1


@pytest.mark.parametrize(
    "more",
    [
        *({name: None} for name in ("parameters", "outputs", "id")),
        {"outputs": []},
        {"outputs": [{"name": "prediction", "parameters": None}]},
        {"outputs": [{"name": "prediction", "parameters": {"binary_data": None}}]},
        {"parameters": {"binary_data_output": None}},
    ],
)
def test_what_is_optional_and_null_is_as_if_it_were_absent(more: dict[str, Any]) -> None:
    predictions = np.zeros((3, 4), np.float32)
    same: dict[str, Any] = {} if "parameters" in more else {"parameters": BINARY_OUTPUT}
    without = read(request(tensor(), **same)).answer("1.0", predictions)
    for changes in ({}, {"parameters": None}, {"parameters": {"padding": None}}):
        asked = read(request(tensor(**changes), **same | more))
        assert unpack(asked.images).tolist() == NUMBERS
        assert asked.answer("1.0", predictions) == without
    packed = tensor(name="packed", shape=[1], data=[182], parameters={"padding": None})
    assert read(request(packed)).images.count == 2


@pytest.mark.parametrize("outputs", [0, "", False, {}, [None], [{}]])
def test_outputs_that_are_none_are_rejected(outputs: Any) -> None:
    with pytest.raises(InvalidTensor, match="outputs"):
        read(request(tensor(), outputs=outputs))
