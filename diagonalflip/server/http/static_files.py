"""Static files for browsers: the playground, and the API's documentation."""

from __future__ import annotations

import json
from importlib import util
from pathlib import Path

import yaml

from diagonalflip.errors import SettingError
from diagonalflip.message import Response
from diagonalflip.wire import JSON

SERVER = Path(__file__).resolve().parents[1]
PLAYGROUND = SERVER / "playground"

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
"""Not the host's (``/etc/mime.types``): a browser runs no script whose type is ``text/plain``."""

POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'; img-src 'self' data:; style-src 'self'"
)
"""Allow nothing from other hosts, and nothing inline."""

SWAGGER_POLICY = POLICY + " 'unsafe-inline'"
"""Swagger UI styles its elements inline."""

DOCS = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>DiagonalFlipNet: the HTTP contract</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
"""
START = """// Swagger UI resolves no data: URIs, and asks for a file where a body is bytes.
fetch("/openapi.json").then((response) => response.text()).then((text) => {
  const spec = JSON.parse(text, (key, value) => (key === "externalValue" ? undefined : value));
  SwaggerUIBundle({ spec, dom_id: "#swagger-ui" });
});
"""


def pages() -> dict[str, Response]:
    """Return every file by path.

    Raises:
        SettingError: Swagger UI is not installed.
    """
    spec = util.find_spec("swagger_ui")  # not imported: only its files are needed
    if spec is None or spec.origin is None:
        raise SettingError("swagger-ui-py is missing", "it to be installed", "run `make serve`")
    swagger = Path(spec.origin).parent / "static"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 0.1 s faster
    contract = yaml.load((SERVER / "openapi.yaml").read_text(encoding="utf-8"), loader)  # noqa: S506
    contract["servers"] = [{"url": "/"}]
    found = {
        "/openapi.json": _page(json.dumps(contract).encode(), JSON),
        "/docs": _page(DOCS.encode(), "text/html; charset=utf-8", SWAGGER_POLICY),
        "/docs/start.js": _page(START.encode(), "text/javascript; charset=utf-8"),
    }
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        found[f"/docs/{name}"] = _file(swagger / name)
    for path in PLAYGROUND.iterdir():
        found[f"/playground/{path.name}"] = _file(path)
    found["/"] = found.pop("/playground/index.html")
    return found


def _file(path: Path) -> Response:
    kind = TYPES.get(path.suffix, "application/octet-stream")
    return _page(path.read_bytes(), f"{kind}; charset=utf-8")


def _page(body: bytes, content_type: str, policy: str = POLICY) -> Response:
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return Response(body, content_type, headers=headers)
