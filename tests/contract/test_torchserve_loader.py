"""The archive under TorchServe's own loader, service and framing, without Java."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.contract.frames import Answer, Reply, Request, predict_frame

WORKER = Path(__file__).with_name("worker_process.py")
PACKED, JSON = "application/octet-stream", "application/json"
PROBLEM = "application/problem+json"

GOOD = [
    Request(b"\xb6\x90", {"Content-Type": f"{PACKED};padding=4"}),
    Request(b'{"images":[11,"0110",[[1,0],[0,1]]]}', {"content-type": JSON}),
    Request(b"\xb6", {"CONTENT-TYPE": PACKED, "ACCEPT": JSON, "body": "text/html"}),
]
BAD = [
    (Request(b"x", {}), 415),
    (Request(b"", {"Accept": "text/plain"}), 406),
    (Request(b"", {"Content-Type": PACKED}), 400),
    (Request(b'{"images":[16]}', {"Content-Type": JSON}), 400),
    (Request(b"[" * 500 + b"]" * 500, {"Content-Type": JSON}), 400),
    (Request(b"\xb6", {"Content-Type": PACKED, "Accept": "text/html"}), 406),
    (Request(None, {"Content-Type": "application/x-www-form-urlencoded"}), 415),
]

Ask = Callable[..., list[Answer]]


def environment(archive: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(archive), "TS_DECODE_INPUT_REQUEST": "false"}


def start(archive: Path, cwd: Path, end: socket.socket) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(archive), str(end.fileno())],
        cwd=cwd,
        env=environment(archive),
        pass_fds=[end.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def loaded(
    unpacked_archive: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Ask, dict[str, str]]]:
    """A loaded worker: a way to ask it, and the file of each of our modules in it."""
    ours, its = socket.socketpair()
    worker = start(unpacked_archive, tmp_path_factory.mktemp("elsewhere"), its)
    its.close()
    assert worker.stdout is not None
    log = []
    for line in worker.stdout:
        log.append(line)
        if line.startswith("loaded "):
            break
    else:
        pytest.fail("the worker did not load:\n" + "".join(log))

    def ask(*requests: Request) -> list[Answer]:
        ours.sendall(predict_frame(list(requests)))
        reply = Reply(ours)
        assert (reply.code, reply.message) == (200, "Prediction success"), reply.answers
        assert [a.request_id for a in reply.answers] == [f"id-{i}" for i in range(len(requests))]
        return reply.answers

    yield ask, json.loads(log[-1].removeprefix("loaded "))
    ours.close()
    worker.communicate()
    assert worker.returncode == 0


def predictions(answer: Answer) -> list[list[float]]:
    rows: list[list[float]]
    if answer.content_type == JSON:
        rows = json.loads(answer.body)["predictions"]
        return rows
    rows = np.frombuffer(answer.body, "<f4").reshape(-1, 4).tolist()
    return rows


def test_everything_of_ours_comes_from_the_archive(
    loaded: tuple[Ask, dict[str, str]], unpacked_archive: Path
) -> None:
    _, origins = loaded
    assert {"flip_handler", "flip_engine", "diagonalflip", "diagonalflip.wire"} <= set(origins)
    assert all(Path(origin).is_relative_to(unpacked_archive) for origin in origins.values())


def test_good_requests_are_answered_with_status_type_and_predictions(
    loaded: tuple[Ask, dict[str, str]], unpacked_archive: Path
) -> None:
    answers = loaded[0](*GOOD)
    certificate = json.loads((unpacked_archive / "reference.json").read_text("utf-8"))
    reference = np.array(certificate["predictions"])
    assert [answer.content_type for answer in answers] == [PACKED, JSON, JSON]
    for answer, numbers in zip(answers, ([11, 6, 9], [11, 6, 9], [11, 6]), strict=True):
        assert (answer.status, answer.phrase) == (200, "OK")
        assert answer.headers["content-type"] == answer.content_type
        assert np.array(predictions(answer)) == pytest.approx(reference[numbers], abs=1e-6)


@pytest.mark.parametrize("bad", range(len(BAD)))
@pytest.mark.parametrize("position", [0, 1, len(GOOD)])
def test_one_bad_request_among_good_ones_is_refused_alone(
    loaded: tuple[Ask, dict[str, str]], bad: int, position: int
) -> None:
    ask = loaded[0]
    request, status = BAD[bad]
    answers = ask(*GOOD[:position], request, *GOOD[position:])
    refused = answers.pop(position)
    assert refused.status == status
    assert refused.phrase
    assert refused.content_type == PROBLEM
    assert json.loads(refused.body)["status"] == status
    alone = [ask(request)[0] for request in GOOD]
    assert [(a.status, a.content_type, a.body) for a in answers] == [
        (a.status, a.content_type, a.body) for a in alone
    ]


def test_describe_gives_the_description(loaded: tuple[Ask, dict[str, str]]) -> None:
    (answer,) = loaded[0](Request(None, {"describe": "True"}))
    assert answer.status == 200
    assert json.loads(answer.body)["model"] == "diagonal_flip"


def spoil_certificate(folder: Path) -> None:
    path = folder / "reference.json"
    certificate = json.loads(path.read_text("utf-8"))
    certificate["predictions"][7][2] += 2e-6
    path.write_text(json.dumps(certificate), encoding="utf-8")


def spoil_model(folder: Path) -> None:
    path = folder / "diagonal_flip.x4.onnx"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "error"),
    [(spoil_certificate, "CertificateError: A deviation"), (spoil_model, "ArtifactError: ")],
)
def test_a_spoiled_archive_does_not_load(
    unpacked_archive: Path, tmp_path: Path, spoil: Callable[[Path], None], error: str
) -> None:
    folder = tmp_path / "archive"
    shutil.copytree(unpacked_archive, folder)
    spoil(folder)
    ours, its = socket.socketpair()
    with ours, its, start(folder, tmp_path, its) as worker:
        output, _ = worker.communicate()
    assert worker.returncode != 0
    assert error in output
    assert "loaded {" not in output


@pytest.mark.parametrize("module", ["flip_handler", "flip_engine", "flip_decode", "diagonalflip"])
def test_each_module_imports_from_the_archive_alone(
    unpacked_archive: Path, tmp_path: Path, module: str
) -> None:
    program = (
        f"import sys, {module}\n"
        "for module in list(sys.modules.values()):\n"
        "    print(getattr(module, '__file__', None) or '')\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(unpacked_archive),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    allowed = (unpacked_archive, Path(sys.prefix), Path(sys.base_prefix))
    # torch has modules whose file is a bare name that exists nowhere.
    origins = [Path(line) for line in finished.stdout.splitlines() if line.startswith("/")]
    assert [o for o in origins if not any(map(o.is_relative_to, allowed))] == []
    assert any(origin.is_relative_to(unpacked_archive) for origin in origins)
