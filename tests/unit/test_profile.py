"""Samples fall into the right rows, and none is lost."""

from __future__ import annotations

import json

from benchmarks.profile import JAVA, WORKER, java_stacks, markdown, shares, worker_stacks

LOOP = "<module> (w.py:5);HttpServer.run (worker/listener.py:60);run (uvloop/__init__.py:92)"
RECORDED = f"""\
{LOOP} 3
{LOOP};Batcher._run (worker/batch.py:108);FlipHandler._predict (flip_handler.py:127);run (o.py:9) 4
{LOOP};Batcher._run (worker/batch.py:108);Connection.reply (worker/connection.py:240) 1
<module> (model_service_worker.py:5);somewhere (else.py:1) 2
"""


def test_the_innermost_function_that_is_known_counts() -> None:
    cells = shares("worker", WORKER, worker_stacks(RECORDED))
    assert {name: cell for name, cell in cells.items() if cell != "0 %"} == {
        "worker: event loop and sockets": "30 %",
        "worker: forward pass": "40 %",
        "worker: sending to clients": "10 %",
        "worker: other": "20 %",
    }


def sample(*functions: str) -> dict[str, object]:
    frames = []
    for function in functions:
        kind, _, name = function.rpartition(".")
        frames.append({"method": {"type": {"name": kind}, "name": name}})
    return {"values": {"stackTrace": {"frames": frames}}}


def test_java_counts_only_where_it_works() -> None:
    events = [
        sample(
            "io/netty/channel/epoll/Native.epollWait0", "io/netty/channel/epoll/EpollEventLoop.run"
        ),
        sample("java/lang/ProcessHandleImpl.waitForProcessExit0"),
        sample("java/lang/String.hash", "org/pytorch/serve/util/codec/ModelResponseDecoder.decode"),
        sample("java/lang/String.hash"),
        {"values": {"stackTrace": None}},
    ]
    text = json.dumps({"recording": {"events": events}})
    cells = shares("Java", JAVA, java_stacks(text))
    assert cells["Java: decoding the worker's replies"] == "50 %"
    assert cells["Java: other"] == "50 %"


def test_without_samples_there_are_no_shares() -> None:
    assert set(shares("worker", WORKER, []).values()) == {"-"}


def test_the_table_has_a_row_a_group_and_a_column_a_workload() -> None:
    columns = {"W1": {"worker: other": "1 %", "r": "2"}, "W2": {"worker: other": "3 %", "r": "4"}}
    lines = markdown(columns, "abc", "some CPU").splitlines()
    assert "| worker: other | 1 % | 3 % |" in lines
    assert "| r | 2 | 4 |" in lines
    assert any("abc" in line and "some CPU" in line for line in lines)
