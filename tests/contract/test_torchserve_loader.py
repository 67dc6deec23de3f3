"""The archive under TorchServe's own loader, service and framing, without Java."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.contract.frames import Answer, Reply, Request, predict_frame
from tests.unit import test_handler as handler
from tests.unit.test_handler import JSON, PACKED, PROBLEM, V2

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("worker_process.py")
FORMS = ("image/png", "text/plain", "application/vnd.diagonalflip.float16")

GOOD = [Request(*each) for each in handler.GOOD.values()]
BAD = [(Request(*request), status) for request, status, _ in handler.BAD.values()]
DECODED = [
    *((body, JSON) for body in (V2, b"[11]", b"11", b'"0110"', b"null", b"{", b"\xff")),
    *((body, "text/plain") for body in (b"b6 9", b"b6 x", b"\xff", "\u00e4".encode())),
    (V2, f"{JSON}; charset=utf-8"),
]
"""Bodies that TorchServe decodes by default, or tries to."""

Ask = Callable[..., list[Answer]]
Loaded = tuple[Ask, dict[str, str]]
"""A way to ask a worker, and the file of each of our modules in it."""


def missing(archive: Path) -> str:
    """Modules that neither TorchServe nor the archive's requirements bring."""
    lines = (archive / "requirements.txt").read_text("utf-8").splitlines()
    todo = [bare for line in lines if (bare := line.partition("#")[0].strip())]
    todo += ["torch", "torchserve"]
    brought = {"diagonalflip"}  # from the archive: see below
    while todo:
        needed = Requirement(todo.pop())
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        for name in {canonicalize_name(needed.name), f"{needed.name}-gpu"} - brought:
            try:
                todo += metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue
            brought.add(name)
    modules = metadata.packages_distributions().items()
    return ",".join(
        module for module, by in modules if not brought.intersection(map(canonicalize_name, by))
    )


def start(
    archive: Path, cwd: Path, end: socket.socket, decode: str | None = "false", less: str = ""
) -> subprocess.Popen[str]:
    """Start a worker, without the modules ``less`` beside those that nobody brings."""
    variables = os.environ | {"PYTHONPATH": str(archive), "TS_DECODE_INPUT_REQUEST": decode or ""}
    if decode is None:
        del variables["TS_DECODE_INPUT_REQUEST"]
    absent = missing(archive)
    with (cwd / "stderr").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, str(WORKER), str(archive), str(end.fileno()), f"{absent},{less}"],
            cwd=cwd,
            env=variables,
            pass_fds=[end.fileno()],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )


@contextmanager
def running(archive: Path, cwd: Path, decode: str | None) -> Iterator[Loaded]:
    ours, its = socket.socketpair()
    worker = start(archive, cwd, its, decode)
    its.close()
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith("loaded "):
            break
    else:
        pytest.fail("the worker did not load:\n" + (cwd / "stderr").read_text())

    def ask(*requests: Request) -> list[Answer]:
        ours.sendall(predict_frame(list(requests)))
        reply = Reply(ours)
        assert (reply.code, reply.message) == (200, "Prediction success"), reply.answers
        assert [a.request_id for a in reply.answers] == [f"id-{i}" for i in range(len(requests))]
        return reply.answers

    yield ask, json.loads(line.removeprefix("loaded "))
    ours.close()
    worker.communicate()
    assert worker.returncode == 0


@pytest.fixture(scope="module")
def loaded(unpacked_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """A worker that gets what clients sent."""
    with running(unpacked_archive, tmp_path_factory.mktemp("elsewhere"), "false") as worker:
        yield worker


@pytest.fixture(scope="module", params=["true", None])
def decoding(
    unpacked_archive: Path,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Ask]:
    """A worker that gets JSON and text decoded, as TorchServe does by default."""
    folder = tmp_path_factory.mktemp("decoding")
    with running(unpacked_archive, folder, request.param) as (ask, _):
        yield ask


def test_everything_of_ours_comes_from_the_archive(loaded: Loaded, unpacked_archive: Path) -> None:
    _, origins = loaded
    assert {"diagonalflip_handler", "diagonalflip.inference.engine", "diagonalflip.wire"} <= set(
        origins
    )
    assert all(Path(origin).is_relative_to(unpacked_archive) for origin in origins.values())


@pytest.mark.parametrize("position", [0, 1, len(GOOD)])
def test_good_requests_are_answered_and_bad_ones_among_them_rejected(
    loaded: Loaded, unpacked_archive: Path, position: int
) -> None:
    requests = [*GOOD[:position], *(request for request, _ in BAD), *GOOD[position:]]
    answers = loaded[0](*requests)
    rejected = answers[position : position + len(BAD)]
    assert [answer.status for answer in rejected] == [status for _, status in BAD]
    for answer in rejected:
        assert (answer.phrase, answer.content_type) == (HTTPStatus(answer.status).phrase, PROBLEM)
        assert json.loads(answer.body)["status"] == answer.status
    good = answers[:position] + answers[position + len(BAD) :]
    assert [answer.content_type for answer in good] == [PACKED, PACKED, JSON, JSON, PACKED]
    reference = json.loads((unpacked_archive / "reference.json").read_text("utf-8"))
    wanted = [11, 6], [11, 6, 9], [11, 6, 9], [11, 6], [11]
    for answer, numbers in zip(good, wanted, strict=True):
        assert (answer.status, answer.phrase) == (200, "OK")
        assert answer.headers["content-type"] == answer.content_type
        if answer.content_type == JSON:
            rows = np.array(json.loads(answer.body)["predictions"])
        else:
            rows = np.frombuffer(answer.body, "<f4").reshape(-1, 4)
        assert rows == pytest.approx(np.array(reference["predictions"])[numbers], abs=1e-6)


def test_what_torchserve_decodes_by_default_is_answered_alike(
    loaded: Loaded, decoding: Ask
) -> None:
    others = [Request(body, {"content-type": kind}) for body, kind in DECODED]
    others += [Request(b"\xb6", {"content-type": PACKED, "accept": kind}) for kind in FORMS]
    requests = [*GOOD, *others, *(request for request, _ in BAD)]
    given, found = loaded[0](*requests), decoding(*requests)
    assert [answer.status for answer in given].count(200) == len(GOOD) + 3 + len(FORMS)
    for one, other in zip(given, found, strict=True):
        assert (one.status, one.content_type) == (other.status, other.content_type)
        assert one.body == other.body or one.status == 400  # its text may tell another place


def test_describe_gives_the_description(loaded: Loaded) -> None:
    (answer,) = loaded[0](Request(None, {"describe": "True"}))
    assert answer.status == 200
    assert json.loads(answer.body)["model"] == "diagonal_flip"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("reference.json", "ParityError: A deviation"),
        ("diagonal_flip.x4.onnx", "ArtifactError: "),
    ],
)
def test_a_spoiled_archive_does_not_load(
    unpacked_archive: Path, tmp_path: Path, name: str, error: str
) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(unpacked_archive, folder)
    content = (folder / name).read_bytes()[:-100]
    if name == "reference.json":
        reference = json.loads((folder / name).read_bytes())
        reference["predictions"][7][2] += 2e-6
        content = json.dumps(reference).encode()
    (folder / name).write_bytes(content)
    ours, its = socket.socketpair()
    with ours, its, start(folder, tmp_path, its) as worker:
        output, _ = worker.communicate()
    assert worker.returncode != 0
    assert error in (tmp_path / "stderr").read_text()
    assert "loaded {" not in output


@pytest.mark.parametrize("module", ["multipart", "onnxruntime", "orjson", "PIL"])
def test_a_package_that_is_not_installed_is_named_with_what_to_do(
    unpacked_archive: Path, tmp_path: Path, module: str
) -> None:
    ours, its = socket.socketpair()
    with ours, its, start(unpacked_archive, tmp_path, its, less=module) as worker:
        worker.communicate()
    *_, line = (tmp_path / "stderr").read_text().splitlines()
    assert f"RuntimeError: The archive cannot be loaded: No module named '{module}'" in line
    installs = line.partition("pip install ")[2].split()
    assert installs == ["multipart", "numpy", "onnxruntime", "orjson", "pillow", "pyyaml"]
