"""Breaks the service in every way we know, under load, and prints how it came through.

    make drill
    python -m tests.drills --only worker_killed,java_killed

Every answer is compared with ONNX Runtime's. A drill fails if one was wrong, if the client,
which sends again what is safe to send again, failed at anything, or if the service did
not recover in time.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks import machine
from benchmarks.measures import table
from benchmarks.running import model_store
from tests.drills.faults import DRILLS
from tests.drills.load import COUNTS, Tables, references
from tests.drills.scene import Scene, SkippedError

RESULTS = Path(__file__).with_name("results") / "host.md"
HEAD = ["drill", "detected s", "recovered s", *COUNTS, "verdict", "seen"]


def run(name: str, expected: Tables, folder: Path, *, long: bool) -> Scene:
    """Run one drill, and note in ``faults`` whatever every drill demands."""
    scene = Scene(folder / name, expected, long)
    try:
        DRILLS[name][1](scene)
    except TimeoutError as error:
        scene.faults.append(str(error))
    except SkippedError as error:
        scene.notes.append(f"SKIPPED: {error}")
    tally = scene.tally
    scene.demand(tally.wrong == 0, f"{tally.wrong} wrong answers")
    scene.demand(not tally.failed, f"the client failed: {dict(tally.failed)}")
    scene.demand(not set(tally.rejected) - {503}, f"rejected: {dict(tally.rejected)}")
    return scene


def row(title: str, scene: Scene) -> list[str]:
    times = [f"{s:.1f}" if s is not None else "-" for s in (scene.detected_s, scene.recovered_s)]
    verdict = f"FAILED: {'; '.join(scene.faults)}" if scene.faults else "passed"
    return [title, *times, *scene.tally.counts(), verdict, "; ".join(scene.notes)]


def main() -> int:
    """Run the drills; return 1 if one failed."""
    parser = machine.parser(__doc__, RESULTS)
    names = ",".join(DRILLS)
    parser.add_argument("--only", default=names, help=f"some of {names}")
    parser.add_argument("--short", action="store_true", help="as CI does")
    options = parser.parse_args()
    expected = references(model_store())
    rows, failed = [], 0
    with tempfile.TemporaryDirectory(prefix="drill-", ignore_cleanup_errors=True) as folder:
        for name in options.only.split(","):
            title = DRILLS[name][0]
            print(f"==> {title}", file=sys.stderr, flush=True)
            scene = run(name, expected, Path(folder), long=not options.short)
            rows.append(row(title, scene))
            failed += bool(scene.faults)
            print("    " + " | ".join(rows[-1][1:]), file=sys.stderr, flush=True)
    machine.show(RESULTS, "Drills", table(HEAD, rows), save=options.save)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
