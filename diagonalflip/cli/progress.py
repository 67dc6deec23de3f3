"""A progress bar on stderr, only for people and only for work that takes a while."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn
from rich.text import Text

PATIENCE_S = 0.5
"""Work that takes no longer shows no bar."""


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} images/s")


class ImageProgress:
    """Shows images done, images/s and the time left.

    Args:
        total: Images in all, or None where no one knows.
        visible: None means: if stderr is a terminal.
    """

    def __init__(self, total: int | None, *, visible: bool | None = None) -> None:
        self._visible = sys.stderr.isatty() if visible is None else visible
        self._since = time.monotonic()
        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.completed:,.0f} images"),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeftColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def update(self, done: int) -> None:
        """Says how many images are done so far."""
        self._bar.update(self._task, completed=done)
        late = time.monotonic() - self._since > PATIENCE_S
        if self._visible and late and not self._bar.live.is_started:
            self._bar.start()
