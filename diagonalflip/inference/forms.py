"""Take the file out of a form (RFC 7578), as ``curl -F`` and browsers send it."""

from __future__ import annotations

from multipart import ParserLimitReached, PushMultipartParser, parse_options_header

from diagonalflip.errors import InvalidPayload, UnsupportedCoding
from diagonalflip.inference.decoders import unsupported
from diagonalflip.inference.media_types import file_type, parse_media_type
from diagonalflip.wire import FORM, Body

ONE_FILE = "a form with one file and nothing else"

AS_IT_IS = {
    "Content-Encoding": ("", "identity"),
    "Content-Transfer-Encoding": ("", "7bit", "8bit", "binary"),
}
"""Headers that say how a file is encoded, and their values if it is not encoded."""


def file_of(content_type: str, body: Body) -> tuple[str, Body]:
    """Return the file's type and bytes.

    Args:
        content_type: The form's, with its boundary.
        body: The form.

    Returns:
        The file's media type by ``file_type``, and its bytes.

    Raises:
        InvalidPayload: The form is not complete, or has not exactly one file.
        UnsupportedCoding: The file is encoded within the form.
        UnsupportedMediaType: As ``file_type``, or the file is itself a form.
    """
    _, options = parse_options_header(content_type)
    try:
        parser = PushMultipartParser(options.get("boundary", ""), strict=True, max_segment_count=1)
        with parser:
            parts = list(parser.parse(body))
    except ParserLimitReached as error:
        raise InvalidPayload(
            "a form with several parts, or with a long header", ONE_FILE
        ) from error
    except ValueError as error:  # the form or its boundary is malformed
        raise InvalidPayload(f"a broken form: {error}", ONE_FILE) from error
    if not parts:
        raise InvalidPayload("a form without any part", ONE_FILE)
    segment, *data, _end = parts
    if not segment.filename:
        raise InvalidPayload(
            "a form with a field that is no file", ONE_FILE, "with curl, -F data=@FILE"
        )
    for name, plain in AS_IT_IS.items():
        coding = segment.header(name, "")
        if coding.lower() not in plain:
            raise UnsupportedCoding(
                f"{name} {coding[:60]!r} of the file in a form",
                "a file that is not encoded",
                "compress the whole form instead, with Content-Encoding in the request's headers",
            )
    content = b"".join(data)
    declared = segment.header("Content-Type", "")
    kind = file_type(declared, content, segment.filename)
    if parse_media_type(kind).name == FORM:
        raise unsupported(FORM)
    return kind, content
