"""Fuzzes the reading of requests: decoders behind the handler, and the parser of HTTP.

    python -m tests.fuzz.fuzz_decoders --executions 10000000 --seed 1

Guided by coverage: Atheris, libFuzzer. A line a target says how many executions there were and how
fast, the share of requests that were rejected, and the most processor time a byte with the form
that took it. Whatever is found ends the run with 1, and with a file for ``--reproduce``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from time import monotonic

import atheris

ROOT = Path(__file__).parents[2]
TARGETS = {"decoders": "tests.fuzz.decode_target", "connections": "tests.fuzz.connection_target"}
"""Modules with ``TOKENS`` that mutations insert, ``seeds`` to start from, and ``run``."""

INSTRUMENTED = [
    *("diagonalflip", "multipart"),
    *("PIL.ImageFile", "PIL.PngImagePlugin", "PIL.PpmImagePlugin"),
]
ROUND = 150_000  # executions of a process: libFuzzer takes 2 GiB for some more, which ours does not
HANG_S = 20  # an execution that takes longer is a finding


def main() -> int:
    """Fuzz all targets, or do what was asked for; return the exit status."""
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
    """Fuzz a target in one process after the other: Atheris gives back no memory."""
    started, done, rejected, worst = monotonic(), 0, 0, (0.0, "none")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        while done < executions:
            number = min(ROUND, executions - done)
            arguments = ("--target", name, "--executions", str(number), "--seed", str(seed))
            command = [sys.executable, "-m", "tests.fuzz.fuzz_decoders", *arguments]
            finished = subprocess.run(
                [*command, "--round", folder], cwd=ROOT, stdout=subprocess.PIPE, check=False
            )
            if finished.returncode:
                print(f"{name}: seed {seed}: {finished.stdout.decode()}", flush=True)
                return 1
            more, ns, form = json.loads(finished.stdout.splitlines()[-1])
            done, rejected, worst = done + number, rejected + more, max(worst, (ns, form))
            seed += 1
    rate, share = done / (monotonic() - started), rejected / done
    told = f"{done:,} executions, {rate:,.0f}/s, {share:.1%} rejected"
    print(f"{name}: {told}, worst {worst[0]:,.0f} ns/byte ({worst[1]})", flush=True)
    return 0


def fuzz(name: str, executions: int, seed: int, folder: Path) -> None:
    """Execute what libFuzzer chooses by what it reaches, corpus in ``folder``.

    It writes down what raises an exception, and ends with another status than 0.
    """
    with atheris.instrument_imports(include=INSTRUMENTED):
        target = import_module(TARGETS[name])
    tokens, corpus = folder / "tokens.dict", folder / "corpus"
    texts = ("".join(f"\\x{byte:02x}" for byte in token) for token in target.TOKENS)
    tokens.write_text("".join(f'"{text}"\n' for text in texts), encoding="ascii")
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (corpus / f"{number:04}").write_bytes(data)
        target.run(data)  # loads what is loaded late
    done, rejected, worst = 0, 0, (0.0, "none")

    def execute(data: bytes) -> None:
        nonlocal done, rejected, worst
        execution = target.run(data)
        done, rejected = done + 1, rejected + execution.rejected
        if execution.ns_per_byte > worst[0]:
            # The least of three: others use the processor too.
            least = min(execution.ns_per_byte, *(target.run(data).ns_per_byte for _ in range(2)))
            worst = max(worst, (least, f"{execution.form}, {execution.length} bytes"))
        if done == executions:
            print(json.dumps([rejected, *worst]), flush=True)
            os._exit(0)  # libFuzzer lets no exception through

    limits = [f"-runs={2 * executions}", f"-timeout={HANG_S}", "-max_len=4096"]
    files = [f"-dict={tokens}", f"-artifact_prefix=fuzz-{name}-", str(corpus)]
    atheris.Setup([sys.argv[0], f"-seed={seed}", "-verbosity=0", *limits, *files], execute)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
