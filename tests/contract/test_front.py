"""The front door's sockets on their way to workers, and the lines that they leave behind."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from supervisor.front import FrontDoor
from supervisor.ports import free_ports
from worker.routes import DRAIN, NOT_READY, front_socket, take_doors


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short enough for a socket's path."""
    return tmp_path_factory.mktemp("f")


@pytest.fixture
def number() -> int:
    return free_ports()


@pytest.fixture
def front(folder: Path, number: int) -> Iterator[FrontDoor]:
    with FrontDoor([("127.0.0.1", number)], 1, folder) as opened:
        yield opened


@contextlib.contextmanager
def worker(folder: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    (listener,), line = take_doors(folder, 0)
    with listener, line:
        yield listener, line


def wait_for(front: FrontDoor, living: list[int]) -> None:
    while front.living() != living:
        time.sleep(0.01)  # the test's own time limit ends this


def test_clients_wait_while_no_worker_is_there(front: FrontDoor, folder: Path, number: int) -> None:
    for _ in range(2):
        with (
            socket.create_connection(("127.0.0.1", number), timeout=30) as client,
            worker(folder) as (listener, _line),
        ):
            listener.settimeout(30)
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(b"a")
                assert client.recv(1) == b"a"
            wait_for(front, [0])
        wait_for(front, [])


@pytest.mark.parametrize("said", [b"", b"\0", b"\xff\xff"])
def test_a_worker_that_ends_at_once_is_nobodys_trouble(
    front: FrontDoor, folder: Path, said: bytes
) -> None:
    """It says nothing, half a number, or one that no worker has."""
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as broken:
            broken.connect(str(front_socket(folder)))
            broken.sendall(said)
            broken.shutdown(socket.SHUT_WR)
            broken.settimeout(30)
            assert broken.recv(1) == b""
    with worker(folder):
        wait_for(front, [0])


def test_it_is_asked_for_the_living_while_it_waits_for_them(front: FrontDoor, folder: Path) -> None:
    """Probes and scrapes do: they must not wait for the end of a drain."""
    with worker(folder) as (_listener, line):
        wait_for(front, [0])
        front.not_ready()
        front.close()
        assert line.recv(len(NOT_READY + DRAIN), socket.MSG_WAITALL) == NOT_READY + DRAIN
        waiting = Thread(target=front.wait, args=(60,))
        waiting.start()
        assert [front.living() for _ in range(3)] == [[0]] * 3
        assert waiting.is_alive()
        line.close()
        waiting.join(30)
        assert not waiting.is_alive()


def test_the_wait_for_workers_is_bounded(front: FrontDoor, folder: Path) -> None:
    with worker(folder):
        wait_for(front, [0])
        front.wait(0.05)


def test_a_worker_that_died_alone_is_counted(front: FrontDoor, folder: Path) -> None:
    """Those that ended with TorchServe are not: that is one restart, of TorchServe."""
    for expected in (0, 1):
        with worker(folder):
            wait_for(front, [0])
            assert front.handed_out_again == expected
    front.forget()
    with worker(folder):
        wait_for(front, [0])
        assert front.handed_out_again == 1


def test_each_worker_gets_a_socket_of_every_door(folder: Path) -> None:
    doors = [("127.0.0.1", free_ports()), ("127.0.0.1", free_ports())]
    with FrontDoor(doors, 2, folder) as front:
        for number in range(2):
            listeners, line = take_doors(folder, number)
            with line:
                wait_for(front, [number])
                assert [listener.getsockname() for listener in listeners] == doors
            for listener in listeners:
                listener.close()
