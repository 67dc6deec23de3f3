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
import json
import os
import resource
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from types import ModuleType

from tests.fuzz.source import mutants

ROOT = Path(__file__).parents[2]
TARGETS = {"decoders": "tests.fuzz.decode_target", "connections": "tests.fuzz.connection_target"}
"""Modules with ``TOKENS`` that mutations insert, ``seeds`` to start from, and ``run``."""

GUIDED = find_spec("atheris") is not None
INSTRUMENTED = [
    *("diagonalflip", "multipart"),
    *("PIL.ImageFile", "PIL.PngImagePlugin", "PIL.PpmImagePlugin"),
]
ROUND = 150_000  # executions of a process: libFuzzer takes 2 GiB for some more, which ours does not
HANG_S = 20  # an execution that takes longer is a finding, under libFuzzer


@dataclass
class Figures:
    """Summary of some executions; of what is a worst, the worst."""

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

    def add(self, more: Figures) -> None:
        """Add those of another process."""
        self.executions += more.executions
        self.seconds += more.seconds
        self.rejected += more.rejected
        self.worst, self.form = max((self.worst, self.form), (more.worst, more.form))
        self.memory = max(self.memory, more.memory)


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
        target = import_module(TARGETS[options.target or "decoders"])
        print(target.run(options.reproduce.read_bytes()))
    elif options.round is not None:
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
            total.add(Figures(**json.loads(finished.stdout.splitlines()[-1])))
            seed += 1
    print(f"{name}: {total}", flush=True)
    return 0


def fuzz(name: str, executions: int, seed: int, folder: Path) -> None:
    """Executes what libFuzzer chooses by what it reaches, corpus in ``folder``; else mutants."""
    if not GUIDED:
        target = import_module(TARGETS[name])
        execute = executing(target, name, executions)
        for mutant in mutants(target.seeds(), target.TOKENS, seed):
            execute(mutant)
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        target = import_module(TARGETS[name])
    tokens, corpus = folder / "tokens.dict", folder / "corpus"
    texts = ("".join(f"\\x{byte:02x}" for byte in token) for token in target.TOKENS)
    tokens.write_text("".join(f'"{text}"\n' for text in texts), encoding="ascii")
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (corpus / f"{number:04}").write_bytes(data)
    limits = [f"-runs={2 * executions}", f"-timeout={HANG_S}", "-max_len=4096"]
    files = [f"-dict={tokens}", f"-artifact_prefix=fuzz-{name}-", str(corpus)]
    arguments = [sys.argv[0], f"-seed={seed}", "-verbosity=0", *limits, *files]
    atheris.Setup(arguments, executing(target, name, executions))
    atheris.Fuzz()


def executing(target: ModuleType, name: str, executions: int) -> Callable[[bytes], None]:
    """What executes; it ends the process with the figures, or with a reproducer of a finding."""
    for seed in target.seeds():  # loads what is loaded late
        target.run(seed)
    figures, started, memory = Figures(), monotonic(), peak_mib()

    def execute(data: bytes) -> None:
        try:
            execution = target.run(data)
            figures.executions += 1
            figures.rejected += execution.rejected
            if execution.ns_per_byte > figures.worst:
                # The least of three: others use the processor too.
                others = [target.run(data).ns_per_byte for _ in range(2)]
                least = min(execution.ns_per_byte, *others)
                if least > figures.worst:
                    figures.worst = least
                    figures.form = f"{execution.form}, {execution.length} bytes"
        except Exception:
            traceback.print_exc()
            path = Path(f"fuzz-{name}-{hashlib.sha256(data).hexdigest()[:12]}.bin").resolve()
            path.write_bytes(data)
            print(f"after {figures.executions:,} executions --reproduce {path}", flush=True)
            sys.stderr.flush()
            os._exit(1)  # libFuzzer lets no exception through
        if figures.executions == executions:
            figures.seconds, figures.memory = monotonic() - started, peak_mib() - memory
            print(json.dumps(asdict(figures)), flush=True)
            os._exit(0)

    return execute


def peak_mib() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
