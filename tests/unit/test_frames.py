"""Large answers leave one by one, each once, and the batch still ends as TorchServe expects."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from flip_frames import LARGE_BYTES, send_large_ahead
from ts.context import Context, RequestProcessor
from ts.protocol.otf_message_handler import create_predict_response

from tests.contract.frames import Answer, Reply

SMALL, LARGE = 10, LARGE_BYTES + 1


@dataclass
class Received:
    """What a frontend makes of all frames of one batch."""

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    frames: list[list[str]] = field(default_factory=list)

    def read(self, connection: socket.socket) -> None:
        """Reads frames until one goes without a streaming item, as BatchAggregator does."""
        while True:
            reply = Reply(connection)
            assert reply.code == 200
            self.frames.append([answer.request_id for answer in reply.answers])
            for answer in reply.answers:
                self.answers.setdefault(answer.request_id, []).append(answer)
            if all(a.headers.get("ts_stream_next") != "true" for a in reply.answers):
                return


def serve(sizes: list[int]) -> tuple[list[bytes], Received, list[int]]:
    """Answers one batch with bodies of ``sizes`` as Service.predict does."""
    bodies = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
    context: Any = Context("m", ".", {}, len(sizes), None, "0.12.0")
    context.request_processor = [RequestProcessor({}) for _ in sizes]
    context.request_ids = {index: f"id-{index}" for index in range(len(sizes))}
    for index in range(len(sizes)):
        context.set_response_header(index, "Flip-Images", str(index))
    received = Received()
    ours, theirs = socket.socketpair()
    with ours, theirs, ThreadPoolExecutor(1) as frontend:
        reading = frontend.submit(received.read, theirs)
        context.cl_socket = ours
        send_large_ahead(bodies, context)
        left = list(context.request_ids)
        last = create_predict_response(bodies, context.request_ids, "ok", 200, context)
        ours.sendall(last)
        reading.result(30)
    assert context.stopping_criteria is None
    return bodies, received, left


@pytest.mark.parametrize(
    "sizes",
    [
        [SMALL],
        [LARGE],
        [LARGE, LARGE],
        [SMALL, LARGE, SMALL, LARGE, SMALL],
        [LARGE * 3, LARGE, LARGE * 2, SMALL],
        [LARGE] * 16,
        [0, LARGE, 0, LARGE],
    ],
)
def test_every_body_arrives_once_and_whole(sizes: list[int]) -> None:
    bodies, received, left = serve(sizes)
    for index, body in enumerate(bodies):
        parts = received.answers[f"id-{index}"]
        assert b"".join(part.body for part in parts) == body
        assert sum(1 for part in parts if part.body) <= 1
        assert all(part.headers["Flip-Images"] == str(index) for part in parts)
    large = sum(size > LARGE_BYTES for size in sizes)
    assert len(received.frames) == max(large, 1)
    assert len(left) == len(sizes) - max(large - 1, 0)


def test_no_frame_holds_two_large_answers() -> None:
    _, received, _ = serve([LARGE, SMALL, LARGE * 2, LARGE])
    assert [len(frame) for frame in received.frames] == [2, 2, 2]
    assert received.frames[-1] == ["id-1", "id-2"]


@pytest.mark.parametrize("sizes", [[], [SMALL] * 16, [LARGE, SMALL], [LARGE_BYTES] * 4])
def test_nothing_is_sent_ahead_while_one_frame_will_do(sizes: list[int]) -> None:
    class NoSocket:
        def sendall(self, _: bytes) -> None:
            raise AssertionError("sent")

    context: Any = Context("m", ".", {}, len(sizes), None, "0.12.0")
    context.request_ids = {index: str(index) for index in range(len(sizes))}
    context.cl_socket = NoSocket()
    send_large_ahead([bytes(size) for size in sizes], context)
    assert len(context.request_ids) == len(sizes)
