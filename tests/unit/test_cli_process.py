"""The command as a process of its own, where no server is needed: signals, silence, tokens."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from diagonalflip.cli.inputs import PIECE_IMAGES
from tests.conftest import ROOT
from tests.faults.conftest import unused_url
from tests.unit.test_cli_commands import url

__all__ = ["unused_url", "url"]  # fixtures

SLOW_S = 120


def start(*args: object) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "diagonalflip.cli", *map(str, args)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def silent() -> Iterator[tuple[socket.socket, str]]:
    """A port that takes connections and never answers, and its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SLOW_S)
        yield listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("suffix", ["bin", "npy", "jsonl"])
def test_ctrl_c_leaves_what_was_there(
    silent: tuple[socket.socket, str], tmp_path: Path, suffix: str
) -> None:
    listener, url = silent
    images, output = tmp_path / "in.bin", tmp_path / f"out.{suffix}"
    images.write_bytes(bytes(1 << 20))
    output.write_bytes(b"before")
    process = start("--url", url, "predict", "--input", images, "--output", output)
    with listener.accept()[0]:
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=SLOW_S)
    assert (process.returncode, stdout, stderr) == (130, b"", b"diagonalflip: interrupted\n")
    assert output.read_bytes() == b"before"
    assert sorted(tmp_path.iterdir()) == [images, output]


IN_A_LOCK = """
import signal, threading, diagonalflip.cli
from diagonalflip.client._jobs import Window

def entered(self):
    enter(self)
    if threading.current_thread() is threading.main_thread():
        signal.raise_signal(signal.SIGINT)

def begun(self):
    threading.Condition.__enter__ = entered
    return self

enter, Window.__enter__ = threading.Condition.__enter__, begun
diagonalflip.cli.main()
"""


def test_ctrl_c_while_a_lock_is_held_keeps_no_thread_waiting(
    silent: tuple[socket.socket, str], tmp_path: Path
) -> None:
    """An exception between taking the lock and the block that gives it back would."""
    (tmp_path / "in.bin").write_bytes(bytes(1 << 20))
    words = ["--url", silent[1], "predict", "--input", tmp_path / "in.bin"]
    done = subprocess.run(
        [sys.executable, "-c", IN_A_LOCK, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        timeout=SLOW_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, b"diagonalflip: interrupted\n")


@pytest.mark.parametrize(
    "args", [("wait", "--timeout-s", "0.2"), ("predict", "1"), ("check",), ("info",)]
)
def test_silence_is_code_3_within_the_deadline(
    silent: tuple[socket.socket, str], args: tuple[str, ...]
) -> None:
    process = start("--url", silent[1], "--deadline-s", "0.2", *args)
    stdout, stderr = process.communicate(timeout=SLOW_S)
    assert (process.returncode, stdout) == (3, b""), stderr
    assert stderr.count(b"\n") == 1


BAD = ["--deadline-s 0.1 --url http://127.0.0.1:1 wait --timeout-s 0.1", "predict", "nonsense"]


def through_a_shell(
    words: str, streams: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m diagonalflip.cli {words} {streams}"
    return subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=SLOW_S,
    )


@pytest.mark.parametrize("words", ["info", "predict 11", "predict --as flips 11", "--help"])
@pytest.mark.parametrize(
    ("stream", "said"),
    [(">&-", "standard input or output is closed"), (">/dev/full", "No space left")],
)
def test_output_that_cannot_be_written_is_an_error(
    url: str, words: str, stream: str, said: str
) -> None:
    done = through_a_shell(f"--url {url} {words}", stream)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", BAD)
def test_an_error_that_nobody_can_read_has_its_code(words: str) -> None:
    assert through_a_shell(words, "2>/dev/full").returncode == through_a_shell(words, "").returncode


def test_a_terminal_gets_no_bytes(unused_url: str) -> None:
    ours, theirs = os.openpty()
    words = ["--url", unused_url, "--deadline-s", "0.1", "predict", "--input", __file__]
    command = [sys.executable, "-m", "diagonalflip.cli", *words, "--from", "packed", "--to", "npy"]
    done = subprocess.run(
        command, cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, check=False, timeout=SLOW_S
    )
    for end in (ours, theirs):
        os.close(end)
    assert (done.returncode, b"cannot be shown in a terminal" in done.stderr) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("words", BAD)
@pytest.mark.parametrize("streams", [">&-", "<&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_errors_are_the_same_with_closed_streams(words: str, streams: str) -> None:
    done, usual = through_a_shell(words, streams), through_a_shell(words, "")
    assert done.returncode == usual.returncode
    assert done.stdout == ""
    told, usually = (each.stderr.partition("The last error")[0] for each in (done, usual))
    assert told == ("" if "2>&-" in streams else usually)


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["", "<&-", "2>&-", ">&-", "<&- >&- 2>&-"])
def test_no_word_of_ours_gets_into_a_file(url: str, tmp_path: Path, streams: str) -> None:
    """A file that is opened takes the number of a closed stream."""
    (tmp_path / "in.bin").write_bytes(bytes(PIECE_IMAGES))
    work = f"--url {url} predict --input {tmp_path}/in.bin --output {tmp_path}/out.bin"
    done = through_a_shell(work, streams)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out.bin").stat().st_size == 2 * PIECE_IMAGES * 16
    done = through_a_shell(f"{work} --count 7", streams)  # an error, and what was there stays
    assert done.returncode == 2
    assert (tmp_path / "out.bin").stat().st_size == 2 * PIECE_IMAGES * 16


@pytest.mark.parametrize("output", ["-", "out.bin"])
def test_input_that_is_closed_is_an_error(url: str, tmp_path: Path, output: str) -> None:
    path = output if output == "-" else tmp_path / output
    done = through_a_shell(f"--url {url} predict --input - --from packed --output {path}", "<&-")
    assert done.returncode == 2
    assert done.stderr == "diagonalflip: standard input or output is closed\n"
    assert not list(tmp_path.iterdir())


def test_streams_wait_even_if_another_program_has_changed_that() -> None:
    """Else what has not come yet would be an end, and what has no room be lost."""
    code = "import os; from diagonalflip import cli; cli._open_streams(); "
    code += "print([os.get_blocking(n) for n in range(3)])"
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    words = [sys.executable, "-c", code]
    subprocess.run(words, stdin=ends[0], stdout=ends[1], stderr=ends[1], cwd=ROOT, check=True)
    assert os.read(ends[0], 100) == b"[True, True, True]\n"
    for end in ends:
        os.close(end)


@pytest.mark.parametrize(
    ("words", "encoding"),
    [
        ("predict --as flips 11 6", "cp1252"),
        ("predict --as flips 11 6", "ascii"),
        ("predict 11 6", "cp437"),
        ("predict 11 6", "utf-8"),
        ("predict ümlaut", "ascii"),
        ("--help", "cp1252"),
    ],
)
def test_any_encoding_of_the_output_will_do(url: str, words: str, encoding: str) -> None:
    variables = {"PYTHONIOENCODING": encoding, "LC_ALL": "C.UTF-8"}
    done = through_a_shell(f"--url {url} {words}", "", **variables)
    assert done.returncode == (2 if "ü" in words else 0), done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_encoding_has_not_is_written_as_its_number() -> None:
    code = "from diagonalflip import cli; cli._open_streams(); print('\\u00fc')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"\\xfc\n"


INTERRUPTED = """
import signal, sys, diagonalflip.cli

class Interrupting:
    def find_spec(self, name, *_):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
diagonalflip.cli.main()
"""


def test_ctrl_c_removes_what_it_can_of_unfinished_files(tmp_path: Path) -> None:
    """A folder that cannot be written makes no traceback of it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    code = "import sys, pathlib; from diagonalflip.cli import exits; "
    code += "exits.UNFINISHED.update(map(pathlib.Path, sys.argv[1:])); exits.interrupted()"
    paths = [tmp_path / name for name in ("folder", "file", "none")]
    words = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"diagonalflip: interrupted\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_ctrl_c_at_the_start_is_no_traceback() -> None:
    words = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"diagonalflip: interrupted\n")


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    code = "import sys; sys.modules['typer'] = None; import diagonalflip.cli as c; c.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"package typer is missing. Expected diagonalflip installed with its extra cli" in (
        done.stderr
    )
