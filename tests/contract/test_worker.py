"""The worker that TorchServe's frontend starts, as the frontend sees it, without Java."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import ts

from diagonalflip.message import Response
from supervisor.ports import free_ports
from tests.conftest import ROOT
from tests.contract.frames import Answer, Reply, Request, load_frame, predict_frame
from tests.contract.test_torchserve_loader import BAD, GOOD, PACKED
from worker.frames import FRAME_BYTES, Frame, FrameReader, read_batch, write_responses

METRICS = Path(ts.__file__).parent / "configs/metrics.yaml"


@dataclass
class Worker:
    """A started worker and the frontend's end of its connection."""

    process: subprocess.Popen[str]
    connection: socket.socket

    def load(self, folder: Path) -> None:
        self.connection.sendall(load_frame("diagonal_flip", str(folder), "flip_handler.py"))
        reply = Reply(self.connection)
        assert (reply.code, reply.answers) == (200, [])

    def ask(self, *requests: Request) -> list[Answer]:
        self.connection.sendall(predict_frame(list(requests)))
        return received(self.connection)

    def output(self) -> str:
        """Close the connection; return all that the worker has printed."""
        self.connection.close()
        assert self.process.stdout is not None
        printed = self.process.stdout.read()
        self.process.wait()
        return printed


@contextmanager
def started(folder: Path, scratch: Path, *, port: int = 0) -> Iterator[Worker]:
    """A worker as WorkerLifeCycle.java starts it: same arguments, folder and environment.

    Args:
        folder: The unpacked archive.
        scratch: For its Unix socket.
        port: For TCP in the socket's place, as where Java cannot load a native library.
    """
    name = scratch / ".ts.sock.9000"
    unix, tcp = ("unix", "--sock-name", str(name)), ("tcp", "--port", str(port))
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "worker.__main__", "--sock-type"),
            *(*(tcp if port else unix), "--metrics-config", str(METRICS)),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "Torch worker started.\n":
                break
        else:
            pytest.fail("the worker did not start")
        with socket.socket(socket.AF_INET if port else socket.AF_UNIX) as connection:
            connection.connect(("127.0.0.1", port) if port else str(name))
            worker = Worker(process, connection)
            yield worker
            worker.output()
        assert not name.exists()


@pytest.fixture(scope="module")
def worker(unpacked_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with started(unpacked_archive, tmp_path_factory.mktemp("worker")) as running:
        running.load(unpacked_archive)
        yield running
    assert running.process.returncode == 0


def test_it_answers_over_tcp_as_well(
    worker: Worker, unpacked_archive: Path, tmp_path: Path
) -> None:
    with started(unpacked_archive, tmp_path, port=free_ports()) as over_tcp:
        over_tcp.load(unpacked_archive)
        assert essence(over_tcp.ask(*GOOD)) == essence(worker.ask(*GOOD))


def received(connection: socket.socket) -> list[Answer]:
    """The answers of one batch, from as many frames as it takes, like BatchAggregator.java."""
    answers: dict[str, Answer] = {}
    while True:
        reply = Reply(connection)
        assert (reply.code, reply.message) == (200, "Prediction success")
        for answer in reply.answers:
            if answer.request_id in answers:
                answer.body = answers[answer.request_id].body + answer.body
            answers[answer.request_id] = answer
        if all(answer.headers.get("ts_stream_next") != "true" for answer in reply.answers):
            return [answers[name] for name in sorted(answers, key=lambda n: int(n[3:]))]


def essence(answers: Sequence[Answer]) -> list[tuple[int, str, bytes]]:
    return [(answer.status, answer.content_type, answer.body) for answer in answers]


@pytest.mark.parametrize("bad", range(len(BAD)))
@pytest.mark.parametrize("position", [0, 1, len(GOOD)])
def test_every_request_gets_the_answer_it_gets_alone(
    worker: Worker, bad: int, position: int
) -> None:
    request, status = BAD[bad]
    batch = [*GOOD[:position], request, *GOOD[position:]]
    answers = worker.ask(*batch)
    assert answers[position].status == status
    assert all(answer.phrase and answer.headers for answer in answers)
    assert essence(answers) == essence([worker.ask(one)[0] for one in batch])


@pytest.mark.parametrize("seed", range(5))
def test_requests_may_arrive_in_any_pieces(worker: Worker, seed: int) -> None:
    whole = essence(worker.ask(*GOOD))
    frame = predict_frame(GOOD) * 3  # and any number of commands at once
    cuts = np.random.default_rng(seed).integers(1, len(frame), 40).tolist()
    with ThreadPoolExecutor(1) as frontend:
        reading = frontend.submit(lambda: [received(worker.connection) for _ in range(3)])
        for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(frame)], strict=True):
            worker.connection.sendall(frame[start:stop])
        assert [essence(answers) for answers in reading.result(30)] == [whole] * 3


def test_large_requests_and_small_ones_by_turns(worker: Worker) -> None:
    small = essence(worker.ask(*GOOD))
    numbers = np.random.default_rng(3).integers(0, 256, 300_000, dtype=np.uint8)
    large = Request(numbers.tobytes(), {"Content-Type": PACKED})
    with ThreadPoolExecutor(1) as frontend:
        for _ in range(3):
            asked = frontend.submit(worker.ask, GOOD[0], large, GOOD[2], large, large)
            answers = asked.result(60)
            assert essence([answers[0], answers[2]]) == [small[0], small[2]]
            assert len(answers[1].body) == 600_000 * 16
            assert answers[1].body == answers[3].body == answers[4].body
            assert essence(worker.ask(*GOOD)) == small


def test_what_is_no_command_ends_the_worker(unpacked_archive: Path, tmp_path: Path) -> None:
    with started(unpacked_archive, tmp_path) as worker:
        worker.connection.sendall(b"X")
        assert "ValueError: command b'X'" in worker.output()
        assert worker.process.returncode == 1


def test_a_prediction_before_the_model_is_loaded_ends_the_worker(
    unpacked_archive: Path, tmp_path: Path
) -> None:
    with started(unpacked_archive, tmp_path) as worker:
        worker.connection.sendall(predict_frame(GOOD))
        assert "ValueError: command b'I'" in worker.output()
        assert worker.process.returncode == 1


def test_an_archive_that_does_not_load_ends_the_worker(tmp_path: Path) -> None:
    (tmp_path / "flip_handler.py").write_text("raise RuntimeError('spoiled')")
    with started(tmp_path, tmp_path) as worker:
        worker.connection.sendall(load_frame("diagonal_flip", str(tmp_path), "flip_handler.py"))
        assert "RuntimeError: spoiled" in worker.output()
        assert worker.process.returncode == 1


def test_the_reader_gives_back_the_memory_of_a_large_request() -> None:
    ours, theirs = socket.socketpair()
    large = Request(bytes(10 * FRAME_BYTES), {"Content-Type": PACKED})
    with ours, theirs, ThreadPoolExecutor(1) as frontend:
        reader = FrameReader(theirs)
        for request in (large, GOOD[0], large):
            sending = frontend.submit(ours.sendall, predict_frame([request]))
            assert reader.take(1) == b"I"
            assert [item.inputs["body"] for item in read_batch(reader)] == [request.body]
            sending.result(30)
        ours.sendall(predict_frame([GOOD[0]]) * 2)
        assert reader.take(1) == b"I"
        read_batch(reader)
        assert len(reader._buffer) < 2 * FRAME_BYTES


@dataclass
class Frames:
    """Which answers came in which frame."""

    frames: list[list[Answer]] = field(default_factory=list)

    def read(self, connection: socket.socket) -> None:
        while True:
            self.frames.append(Reply(connection).answers)
            if all(a.headers.get("ts_stream_next") != "true" for a in self.frames[-1]):
                return


SMALL, HALF, LARGE = 10, FRAME_BYTES // 2, FRAME_BYTES + 1


@pytest.mark.parametrize(
    ("sizes", "frames"),
    [
        ([SMALL], 1),
        ([LARGE], 1),
        ([SMALL] * 16, 1),
        ([HALF] * 2, 1),
        ([HALF] * 3, 2),
        ([LARGE, LARGE], 2),
        ([SMALL, LARGE, SMALL, LARGE, SMALL], 4),
        ([LARGE * 3, LARGE, LARGE * 2, SMALL], 4),
        ([LARGE] * 16, 16),
        ([0, LARGE, 0, LARGE], 4),
    ],
)
def test_large_answers_leave_in_frames_of_their_own(sizes: list[int], frames: int) -> None:
    bodies = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
    asked = [Frame(f"id-{index}".encode()) for index in range(len(sizes))]
    responses = [
        Response(body, PACKED, headers={"a": str(index)}) for index, body in enumerate(bodies)
    ]
    ours, theirs = socket.socketpair()
    found = Frames()
    with ours, theirs, ThreadPoolExecutor(1) as frontend:
        reading = frontend.submit(found.read, theirs)
        write_responses(ours, zip(asked, responses, strict=True))
        reading.result(30)
    assert len(found.frames) == frames
    whole = [b""] * len(sizes)
    for frame in found.frames:
        assert len(frame) == 1 or sum(len(answer.body) for answer in frame) <= LARGE * 3
        for answer in frame:
            index = int(answer.request_id[3:])
            assert answer.headers["a"] == str(index)
            assert not (whole[index] and answer.body)
            whole[index] += answer.body
    assert whole == bodies


def test_a_refusal_never_goes_on_in_a_later_frame() -> None:
    """TorchServe closes a refused client's connection with the first piece."""
    asked = [Frame(f"id-{index}".encode()) for index in range(3)]
    responses = [Response(b"no", PACKED, 400)] + [Response(bytes(LARGE), PACKED) for _ in "ab"]
    ours, theirs = socket.socketpair()
    found = Frames()
    with ours, theirs, ThreadPoolExecutor(1) as frontend:
        reading = frontend.submit(found.read, theirs)
        write_responses(ours, zip(asked, responses, strict=True))
        reading.result(30)
    refusals = [answer for frame in found.frames for answer in frame if answer.status == 400]
    assert [(answer.request_id, answer.body) for answer in refusals] == [("id-0", b"no")]
    assert len(found.frames) == 3
