"""A form with one file (RFC 7578), as ``curl -F`` and browsers send it: the file is the body."""

from __future__ import annotations

import mimetypes

from multipart import (
    MultipartError,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from diagonalflip.errors import InvalidPayload

ONE_FILE = "a form with one file and nothing else"

Body = bytes | bytearray


def file_of(content_type: str, body: Body) -> tuple[str, Body]:
    """The file's type and bytes.

    Args:
        content_type: Of the form, with its boundary.
        body: The form.

    Returns:
        The file's ``Content-Type``, which its name tells where it has none, and its bytes.

    Raises:
        InvalidPayload: No whole form, or not exactly one file in it.
    """
    _, options = parse_options_header(content_type)
    try:
        parser = PushMultipartParser(options.get("boundary", ""), strict=True, max_segment_count=1)
        with parser:
            parts = list(parser.parse(body))
    except ParserLimitReached as error:
        raise InvalidPayload("a form with several parts", ONE_FILE) from error
    except (MultipartError, ValueError) as error:
        raise InvalidPayload(f"a broken form: {error}", ONE_FILE) from error
    if not parts:
        raise InvalidPayload("a form without any part", ONE_FILE)
    segment, *data, _end = parts
    if not segment.filename:
        raise InvalidPayload(
            "a form with a field that is no file", ONE_FILE, "with curl, -F data=@FILE"
        )
    named = mimetypes.guess_type(segment.filename)[0]
    return segment.header("Content-Type") or named or "", b"".join(data)
