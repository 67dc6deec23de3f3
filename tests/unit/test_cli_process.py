"""The command as a process of its own, where no server is needed: signals, silence, streams."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diagonalflip.cli.inputs import PIECE_IMAGES
from diagonalflip.cli.outputs import STDOUT
from tests.conftest import ROOT
from tests.unit.test_cli_commands import NOWHERE, url

__all__ = ["url"]  # a fixture

SLOW_S = 120
COMMAND = (sys.executable, "-m", "diagonalflip.cli")
INTERRUPTED = (130, b"", b"diagonalflip: interrupted\n")


def run(*words: str, **environment: str) -> tuple[int, bytes, bytes]:
    given: Any = {"cwd": ROOT, "env": os.environ | environment, "stdin": subprocess.DEVNULL}
    done = subprocess.run(words, capture_output=True, timeout=SLOW_S, check=False, **given)
    return done.returncode, done.stdout, done.stderr


def run_code(code: str, *words: object, **environment: str) -> tuple[int, bytes, bytes]:
    return run(sys.executable, "-c", code, *map(str, words), **environment)


def run_in_shell(words: str, streams: str, **environment: str) -> tuple[int, bytes, bytes]:
    return run("sh", "-c", f"{' '.join(COMMAND)} {words} {streams}", **environment)


@pytest.fixture
def silent() -> Iterator[tuple[socket.socket, str]]:
    """A port that takes connections and never answers, and its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SLOW_S)
        yield listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("suffix", "number"), [("bin", 2), ("npy", 2), ("jsonl", 2), ("bin", 15), ("bin", 1)]
)
def test_ctrl_c_leaves_what_was_there(
    silent: tuple[socket.socket, str], tmp_path: Path, suffix: str, number: int
) -> None:
    """As do SIGTERM, which ``timeout`` sends, and SIGHUP."""
    listener, url = silent
    images, output = tmp_path / "in.bin", tmp_path / f"out.{suffix}"
    images.write_bytes(bytes(1 << 20))
    output.write_bytes(b"before")
    words = [*COMMAND, "--url", url, "predict", "--input", str(images), "--output", str(output)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with listener.accept()[0]:
        process.send_signal(number)
        told = process.communicate(timeout=SLOW_S)
    assert (process.returncode, *told) == (128 + number, *INTERRUPTED[1:])
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
AT_THE_START = """
import signal, sys, diagonalflip.cli

class Interrupting:
    def find_spec(self, name, *_):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
diagonalflip.cli.main()
"""


@pytest.mark.parametrize("code", [IN_A_LOCK, AT_THE_START], ids=["in a lock", "at the start"])
def test_ctrl_c_ends_it_at_once_wherever_it_comes(
    silent: tuple[socket.socket, str], tmp_path: Path, code: str
) -> None:
    """An exception between taking a lock and the block that gives it back would keep a thread."""
    (tmp_path / "in.bin").write_bytes(bytes(1 << 20))
    words = ("--url", silent[1], "predict", "--input", tmp_path / "in.bin")
    assert run_code(code, *words) == INTERRUPTED


def test_ctrl_c_removes_what_it_can_of_unfinished_files(tmp_path: Path) -> None:
    """A folder that cannot be written makes no traceback of it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    code = "import sys, pathlib; from diagonalflip.cli import exits; "
    code += "exits.UNFINISHED.update(map(pathlib.Path, sys.argv[1:])); exits.interrupted()"
    assert run_code(code, *(tmp_path / name for name in ("folder", "file", "none"))) == INTERRUPTED
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


@pytest.mark.parametrize("words", ["wait --timeout-s 0.2", "predict 1", "check", "info"])
def test_silence_is_code_3_at_the_deadline(silent: tuple[socket.socket, str], words: str) -> None:
    status, told, complaint = run_in_shell(f"--url {silent[1]} --deadline-s 0.2 {words}", "")
    assert (status, told, complaint.count(b"\n")) == (3, b"", 1), complaint


SAYING = ("info", "predict 11", "predict --as flips 11", "--help")
CLOSED, FULL = b"diagonalflip: standard input or output is closed\n", b"No space left on device"


@pytest.mark.parametrize(
    ("words", "streams", "said"),
    [
        *((words, ">&-", CLOSED) for words in SAYING),
        *((words, ">/dev/full", FULL) for words in SAYING),
        ("predict --input - --from packed", "<&-", CLOSED),
        ("predict --input - --from packed --to npy --output /dev/null", "<&-", CLOSED),
        ("serve FLIP_WORKERS=2 PORTS=1", "", b"the nearest is FLIP_PORT"),
        ("serve port=99999", "", b"FLIP_PORT=99999"),
    ],
)
def test_a_useless_stream_is_an_error(url: str, words: str, streams: str, said: bytes) -> None:
    status, told, complaint = run_in_shell(f"--url {url} {words}", streams)
    assert (status, told, complaint.count(b"\n")) == (2, b"", 1), complaint
    assert said in complaint


BAD = [f"--deadline-s 0.1 --url {NOWHERE} wait --timeout-s 0.1", "predict", "nonsense"]
SLOW = [">&-", "<&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize(
    "streams", ["2>/dev/full", *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)]
)
@pytest.mark.parametrize("words", BAD)
def test_errors_are_the_same_whoever_reads_them(words: str, streams: str) -> None:
    status, told, complaint = run_in_shell(words, streams)
    usual_status, _, usually = run_in_shell(words, "")
    assert (status, told) == (usual_status, b"")
    wanted = b"" if "2>" in streams else usually.partition(b"The last error")[0]
    assert complaint.partition(b"The last error")[0] == wanted


@pytest.mark.slow
@pytest.mark.parametrize("streams", ["", "<&-", "2>&-", ">&-", "<&- >&- 2>&-"])
def test_no_word_of_ours_gets_into_a_file(url: str, tmp_path: Path, streams: str) -> None:
    """A file that is opened takes the number of a closed stream."""
    (tmp_path / "in.bin").write_bytes(bytes(PIECE_IMAGES))
    work = f"--url {url} predict --input {tmp_path}/in.bin --output {tmp_path}/out.bin"
    assert run_in_shell(work, streams) == (0, b"", b"")
    assert (tmp_path / "out.bin").stat().st_size == 2 * PIECE_IMAGES * 16
    assert run_in_shell(f"{work} --count 7", streams)[0] == 2  # what was there stays
    assert (tmp_path / "out.bin").stat().st_size == 2 * PIECE_IMAGES * 16


@pytest.mark.parametrize("name", STDOUT)
def test_stdout_by_any_name_is_no_file_to_replace(url: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "in.bin").write_bytes(b"\xb6")
    (tmp_path / "all").write_bytes(b"before")
    work = f"--url {url} predict --input {tmp_path}/in.bin --to npy --output {name}"
    assert run_in_shell(work, f">> {tmp_path}/all") == (0, b"", b"")
    assert (tmp_path / "all").read_bytes().startswith(b"before\x93NUMPY")
    assert len(list(tmp_path.iterdir())) == 2


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
    ("words", "encoding", "wanted"),
    [
        ("predict --as flips 11 6", "cp1252", "1011 -> 1010  ##..  ##.."),
        ("predict 11 6", "cp437", "1011  ##.."),
        ("predict 11 6", "utf-8", "1011  ██░░"),
        ("predict ümlaut", "ascii", r"image '\xfcmlaut'"),
    ],
)
def test_any_output_encoding_will_do(url: str, words: str, encoding: str, wanted: str) -> None:
    variables = {"PYTHONIOENCODING": encoding, "LC_ALL": "C.UTF-8"}
    status, told, complaint = run_in_shell(f"--url {url} {words}", "", **variables)
    assert status == (2 if "ü" in words else 0), complaint
    assert wanted.encode(encoding) in (complaint if status else told)
    assert b"Traceback" not in complaint


def test_what_the_encoding_has_not_is_written_as_its_number() -> None:
    code = "from diagonalflip import cli; cli._open_streams(); print('\\u00fc')"
    assert run_code(code, PYTHONIOENCODING="ascii") == (0, b"\\xfc\n", b"")


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    code = "import sys; sys.modules['typer'] = None; import diagonalflip.cli as c; c.main()"
    status, _, complaint = run_code(code)
    said = b"package typer is missing. Expected diagonalflip installed with its extra cli"
    assert (status, said in complaint) == (2, True), complaint
