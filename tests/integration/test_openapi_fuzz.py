"""openapi.yaml is true: whatever is sent, the answer is one that it documents."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from diagonalflip.wire import OCTETS, PACKED, PBM, PNG, TEXT
from tests.integration.conftest import Server
from tests.integration.test_openapi import DOCUMENT, OPERATIONS, resolve

pytestmark = pytest.mark.slow

# Left out, for TorchServe makes them impossible or they do not apply:
# - unsupported_method, allow_header_conformance: it runs the handler for every method;
# - missing_required_header: no header is required here;
# - negative_data_rejection: unknown headers and JSON keys of V2 are ignored by design, and a
#   binary body has no schema that a generator could break;
# - positive_data_acceptance: sizes and shapes must agree, which no JSON Schema can say;
# - the rest is about authentication, and about resources that are created and deleted.
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]


@st.composite
def pictures(draw: st.DrawFn, file_format: str) -> bytes:
    """Small pictures of any size, odd ones and other depths included."""
    sizes = st.sampled_from([2, 4, 6, 8, 10, 3])
    width, height = draw(sizes), draw(sizes)
    samples = draw(st.binary(min_size=width * height, max_size=width * height))
    sheet = np.frombuffer(samples, np.uint8).reshape(height, width)
    written = io.BytesIO()
    picture = Image.fromarray(draw(st.sampled_from([sheet % 2 == 1] * 5 + [sheet])))
    picture.save(written, format=file_format)
    whole = written.getvalue()
    return whole[: draw(st.sampled_from([len(whole)] * 5 + [len(whole) // 2]))]


def with_rubbish(valid: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Mostly valid bodies, and any bytes."""
    return st.one_of(valid, valid, st.binary(max_size=64))


packed = st.binary(max_size=300)
padded = with_rubbish(packed.map(lambda body: body + b"\x70"))
BODIES: dict[str, st.SearchStrategy[bytes]] = {
    OCTETS: packed,
    f"{OCTETS}; padding=4": padded,
    PACKED: packed,
    f"{PACKED}; padding=4": padded,
    TEXT: with_rubbish(st.text("0123456789abcdefABCDEF \t\r\n").map(str.encode)),
    PNG: with_rubbish(pictures("PNG")),
    PBM: with_rubbish(pictures("PPM")),
}
for media_type, strategy in BODIES.items():
    schemathesis.openapi.media_type(media_type, strategy)
HEADERS = [
    *[{}] * 12,
    {"Host": "a b"},
    {"Transfer-Encoding": ""},
    {"Content-Encoding": "br"},
    {"Expect": "the unexpected"},
    {"X-Long": "x" * 20_000},
]


def operations() -> Iterator[tuple[str, str | None]]:
    """Operations and one media type of each, or None where there is no body."""
    for operation_id, (method, path) in OPERATIONS.items():
        body = resolve(DOCUMENT["paths"][path][method].get("requestBody", {}))
        for media_type in body.get("content", [None]):
            yield operation_id, media_type


def narrowed(operation_id: str, media_type: str | None) -> Any:
    """The operation as if it took one media type, or else most examples would be of few."""
    document = copy.deepcopy(DOCUMENT)
    method, path = OPERATIONS[operation_id]
    operation = document["paths"][path][method]
    if media_type is not None:
        body = resolve(operation["requestBody"])
        content = {media_type: {"schema": body["content"][media_type]["schema"]}}
        operation["requestBody"] = {"required": True, "content": content}
    return schemathesis.openapi.from_dict(document).find_operation_by_id(operation_id)


@pytest.mark.parametrize(("operation_id", "media_type"), list(operations()))
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_gets_an_answer_that_is_not_documented(
    server: Server, operation_id: str, media_type: str | None, mode: GenerationMode
) -> None:
    if mode is GenerationMode.NEGATIVE and media_type is None:
        return  # it has no input that could be wrong
    operation = narrowed(operation_id, media_type)
    statuses = set()

    @settings(max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(mode), st.integers(0, 3), st.sampled_from(HEADERS))
    def fuzz(case: Any, rarely: int, header: dict[str, str]) -> None:
        if rarely:  # or random headers would end most cases in 412 or 406
            for name in ("If-Match", "Accept", "Inference-Header-Content-Length"):
                case.headers.pop(name, None)
        if media_type is not None:
            # schemathesis drops the parameter padding=4.
            case.headers["Content-Type"] = media_type
        case.headers.update(header)
        response = case.call_and_validate(base_url=server.base, checks=CHECKS, timeout=60)
        statuses.add(response.status_code)

    fuzz()
    # That a tensor's shape and data agree is more than chance can do.
    if mode is GenerationMode.POSITIVE and operation_id != "infer":
        assert 200 in statuses
