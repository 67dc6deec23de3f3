"""Fuzzes the reading of requests: decoders behind the handler, and the direct port's parser.

    python -m tests.fuzz.fuzz_decoders --executions 10000000 --seed 1

Guided by coverage (Atheris, libFuzzer) where that is installed, else by mutations alone. A line
a target says how many executions there were and how fast, the share of requests that were
refused, the most processor time a byte with the form that took it, and how far the peak of
memory rose. Whatever is found ends the run with 1, and with a file for ``--reproduce``.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from tests.fuzz.mutation import mutants
from tests.fuzz.source import Execution, Target

ROOT = Path(__file__).parents[2]
TARGETS = ("decoders", "connections")
GUIDED = importlib.util.find_spec("atheris") is not None
INSTRUMENTED = [
    *("flip_decode", "flip_encode", "flip_media", "flip_picture", "flip_request", "flip_v2"),
    *("diagonalflip", "server", "PIL.ImageFile", "PIL.PngImagePlugin", "PIL.PpmImagePlugin"),
]
FLOOR_BYTES = 1 << 10
"""A request counts as at least as long: what it costs in any case is no byte's."""

HANG_S = 20
"""An execution that takes longer is a finding, under libFuzzer."""


class Record:
    """Executions of one target, and their figures."""

    def __init__(self, name: str, target: Target) -> None:
        self._name, self._target = name, target
        self.executions = self._refused = 0
        self._worst, self._form = 0.0, "none"
        for seed in target.seeds():  # loads what is loaded late
            target.run(seed)
        self._started, self._memory = monotonic(), peak_mib()

    def execute(self, data: bytes) -> None:
        """Executes once. The worst time is the least of three: others use the processor too."""
        execution = self._target.run(data)
        self.executions += 1
        self._refused += execution.refused
        if cost(execution) > self._worst:
            least = min(cost(execution), *(cost(self._target.run(data)) for _ in range(2)))
            if least > self._worst:
                self._worst, self._form = least, f"{execution.form}, {execution.length} bytes"

    def line(self) -> str:
        """The figures."""
        seconds = monotonic() - self._started
        return (
            f"{self._name}: {self.executions:,} executions, {self.executions / seconds:,.0f}/s, "
            f"{self._refused / max(1, self.executions):.1%} refused, "
            f"worst {self._worst:,.0f} ns/byte ({self._form}), "
            f"memory +{peak_mib() - self._memory:.1f} MiB, "
            f"{'guided by coverage' if GUIDED else 'mutations'}"
        )


def main() -> int:
    """Fuzzes all targets, each in its own process; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000, help="of each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=TARGETS, help="only this one, in this process")
    parser.add_argument("--reproduce", type=Path, help="execute the bytes of this file once")
    options = parser.parse_args()
    if options.target is None:
        return max(_in_process(name, options) for name in TARGETS)
    if options.reproduce is not None:
        print(load(options.target).run(options.reproduce.read_bytes()))
        return 0
    (guided if GUIDED else unguided)(options.target, options.executions, options.seed)
    return 0


def _in_process(name: str, options: argparse.Namespace) -> int:
    numbers = ("--executions", str(options.executions), "--seed", str(options.seed))
    command = [sys.executable, "-m", "tests.fuzz.fuzz_decoders", "--target", name, *numbers]
    return int(subprocess.run(command, cwd=ROOT, check=False).returncode != 0)


def load(name: str) -> Target:
    """A target, by name."""
    handlers = str(ROOT / "handlers")
    if handlers not in sys.path:
        sys.path.insert(0, handlers)  # the archive's folder is flat: handlers import each other so
    if name == "decoders":
        from tests.fuzz.decode_target import Decoders

        return Decoders()
    from tests.fuzz.connection_target import Connections

    return Connections()


def unguided(name: str, executions: int, seed: int) -> None:
    """Executes the seeds and mutants of them."""
    target = load(name)
    record = Record(name, target)
    execute = reporting(record, name, executions)
    for mutant in mutants(target.seeds(), target.tokens, seed):
        execute(mutant)


def guided(name: str, executions: int, seed: int) -> None:
    """Has libFuzzer choose what to execute, by what it reaches."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        target = load(name)
    folder = tempfile.TemporaryDirectory(prefix="fuzz-")
    tokens = Path(folder.name, "tokens.dict")
    texts = ("".join(f"\\x{byte:02x}" for byte in token) for token in target.tokens)
    tokens.write_text("".join(f'"{text}"\n' for text in texts), encoding="ascii")
    corpus = Path(folder.name, "corpus")
    corpus.mkdir()
    for number, data in enumerate(target.seeds()):
        (corpus / f"{number:04}").write_bytes(data)
    execute = reporting(Record(name, target), name, executions, folder.cleanup)
    limits = [f"-runs={2 * executions}", f"-timeout={HANG_S}", "-max_len=4096"]
    files = [f"-dict={tokens}", f"-artifact_prefix=fuzz-{name}-", str(corpus)]
    atheris.Setup([sys.argv[0], f"-seed={seed}", "-verbosity=0", *limits, *files], execute)
    atheris.Fuzz()


def reporting(
    record: Record, name: str, executions: int, clean_up: Callable[[], None] = lambda: None
) -> Callable[[bytes], None]:
    """Executes; ends the process with the figures, or with a reproducer of what was found."""

    def execute(data: bytes) -> None:
        try:
            record.execute(data)
        except Exception:
            traceback.print_exc()
            path = Path(f"fuzz-{name}-{hashlib.sha256(data).hexdigest()[:12]}.bin").resolve()
            path.write_bytes(data)
            print(f"{name}: after {record.executions:,} executions --reproduce {path}", flush=True)
            sys.stderr.flush()
            clean_up()
            os._exit(1)  # libFuzzer lets no exception through
        if record.executions == executions:
            print(record.line(), flush=True)
            clean_up()
            os._exit(0)

    return execute


def cost(execution: Execution) -> float:
    """Processor time a byte, in nanoseconds."""
    return execution.ns / max(FLOOR_BYTES, execution.length)


def peak_mib() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
