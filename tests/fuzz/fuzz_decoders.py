"""Fuzzes the reading of requests: decoders behind the handler, and the parser of HTTP.

    python -m tests.fuzz.fuzz_decoders --executions 10000000 --seed 1

Guided by coverage (Atheris, libFuzzer) where that is installed, else by mutations alone. A line
a target says how many executions there were and how fast, the share of requests that were
rejected, the most processor time a byte with the form that took it, and how far the peak of
memory rose in a process; a KiB or two of that an execution is Atheris's own. Whatever is found
ends the run with 1, and with a file for ``--reproduce``.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from tests.fuzz.source import Execution, Target, mutants

ROOT = Path(__file__).parents[2]
TARGETS = ("decoders", "connections")
GUIDED = importlib.util.find_spec("atheris") is not None
INSTRUMENTED = [
    *("diagonalflip", "multipart"),
    *("PIL.ImageFile", "PIL.PngImagePlugin", "PIL.PpmImagePlugin"),
]
FLOOR_BYTES = 1 << 10
"""A request counts as at least as long: what it costs in any case is no byte's."""

ROUND = 150_000
"""Executions of a process: libFuzzer takes 2 GiB for some more, which ours does not."""

HANG_S = 20
"""An execution that takes longer is a finding, under libFuzzer."""


class Figures(NamedTuple):
    """Summary of some executions."""

    executions: int = 0
    seconds: float = 0.0
    rejected: int = 0
    worst: float = 0.0
    form: str = "none"
    memory: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.executions:,} executions, {self.executions / self.seconds:,.0f}/s, "
            f"{self.rejected / self.executions:.1%} rejected, "
            f"worst {self.worst:,.0f} ns/byte ({self.form}), memory +{self.memory:.1f} MiB, "
            f"{'guided by coverage' if GUIDED else 'mutations'}"
        )


class Record:
    """Executes one target, and keeps the figures."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.executions = self._rejected = 0
        self._worst, self._form = 0.0, "none"
        for seed in target.seeds():  # loads what is loaded late
            target.run(seed)
        self._started, self._memory = monotonic(), peak_mib()

    def execute(self, data: bytes) -> None:
        """Executes once. The worst time is the least of three: others use the processor too."""
        execution = self._target.run(data)
        self.executions += 1
        self._rejected += execution.rejected
        if cost(execution) > self._worst:
            least = min(cost(execution), *(cost(self._target.run(data)) for _ in range(2)))
            if least > self._worst:
                self._worst, self._form = least, f"{execution.form}, {execution.length} bytes"

    def figures(self) -> Figures:
        """The figures so far."""
        return Figures(
            self.executions,
            monotonic() - self._started,
            self._rejected,
            self._worst,
            self._form,
            peak_mib() - self._memory,
        )


def main() -> int:
    """Fuzzes all targets, or does what was asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000, help="of each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    parser.add_argument("--reproduce", type=Path, help="execute this file's bytes on --target")
    parser.add_argument("--round", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reproduce is not None:
        print(load(options.target or TARGETS[0]).run(options.reproduce.read_bytes()))
    elif options.round is not None:
        fuzz = guided if GUIDED else unguided
        fuzz(options.target, options.executions, options.seed, options.round)
    else:
        names = [options.target] if options.target else TARGETS
        return max(rounds(name, options.executions, options.seed) for name in names)
    return 0


def rounds(name: str, executions: int, seed: int) -> int:
    """Fuzzes a target in one process after the other: Atheris gives back no memory."""
    total = Figures()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        while total.executions < executions:
            number = min(ROUND, executions - total.executions)
            arguments = ("--target", name, "--executions", str(number), "--seed", str(seed))
            command = [sys.executable, "-m", "tests.fuzz.fuzz_decoders", *arguments]
            finished = subprocess.run(
                [*command, "--round", folder], cwd=ROOT, stdout=subprocess.PIPE, check=False
            )
            if finished.returncode:
                print(f"{name}: seed {seed}: {finished.stdout.decode()}", flush=True)
                return 1
            total = add(total, Figures(*json.loads(finished.stdout.splitlines()[-1])))
            seed += 1
    print(f"{name}: {total}", flush=True)
    return 0


def add(total: Figures, more: Figures) -> Figures:
    """Figures of two rounds; the worse of what is a worst."""
    worse = max(total, more, key=lambda figures: figures.worst)
    return Figures(
        total.executions + more.executions,
        total.seconds + more.seconds,
        total.rejected + more.rejected,
        worse.worst,
        worse.form,
        max(total.memory, more.memory),
    )


def load(name: str) -> Target:
    """A target, by name."""
    if name == "decoders":
        from tests.fuzz.decode_target import Decoders

        return Decoders()
    from tests.fuzz.connection_target import Connections

    return Connections()


def unguided(name: str, executions: int, seed: int, _folder: Path) -> None:
    """Executes the seeds and mutants of them."""
    target = load(name)
    execute = reporting(Record(target), name, executions)
    for mutant in mutants(target.seeds(), target.tokens, seed):
        execute(mutant)


def guided(name: str, executions: int, seed: int, folder: Path) -> None:
    """Has libFuzzer choose what to execute, by what it reaches; ``folder`` keeps the corpus."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        target = load(name)
    tokens, corpus = folder / "tokens.dict", folder / "corpus"
    texts = ("".join(f"\\x{byte:02x}" for byte in token) for token in target.tokens)
    tokens.write_text("".join(f'"{text}"\n' for text in texts), encoding="ascii")
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (corpus / f"{number:04}").write_bytes(data)
    execute = reporting(Record(target), name, executions)
    limits = [f"-runs={2 * executions}", f"-timeout={HANG_S}", "-max_len=4096"]
    files = [f"-dict={tokens}", f"-artifact_prefix=fuzz-{name}-", str(corpus)]
    atheris.Setup([sys.argv[0], f"-seed={seed}", "-verbosity=0", *limits, *files], execute)
    atheris.Fuzz()


def reporting(record: Record, name: str, executions: int) -> Callable[[bytes], None]:
    """Executes; ends the process with the figures, or with a reproducer of what was found."""

    def execute(data: bytes) -> None:
        try:
            record.execute(data)
        except Exception:
            traceback.print_exc()
            path = Path(f"fuzz-{name}-{hashlib.sha256(data).hexdigest()[:12]}.bin").resolve()
            path.write_bytes(data)
            print(f"after {record.executions:,} executions --reproduce {path}", flush=True)
            sys.stderr.flush()
            os._exit(1)  # libFuzzer lets no exception through
        if record.executions == executions:
            print(json.dumps(record.figures()), flush=True)
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
