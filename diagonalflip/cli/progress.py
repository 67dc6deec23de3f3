"""A progress bar on stderr, for people who wait."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SHOW_AFTER_S = 0.5
"""Shorter work shows no bar."""


@contextmanager
def image_progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """Show images done, images/s and the time left, if stderr is a terminal.

    Args:
        total: Images in all; None if unknown.

    Yields:
        A function to call with the number of images that are done.
    """
    bar = Progress(
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    bar.add_task("", total=total)
    [task] = bar.tasks

    def update(done: int) -> None:
        elapsed_s = task.elapsed or 0.0
        text = f"{done:,} images {done / max(elapsed_s, 1e-3):,.0f} images/s"
        bar.update(task.id, completed=done, description=text)
        if elapsed_s > SHOW_AFTER_S:
            bar.start()

    try:
        yield update
    finally:
        bar.live.stop()
