"""Histograms to which adding a value is cheap."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-")
"""The trace's id in a valid ``traceparent``: https://www.w3.org/TR/trace-context/"""


class Histogram:
    """Counts of values by bucket.

    Args:
        bounds: The largest value of each bucket, ascending; one more bucket takes larger values.

    Attributes:
        add, extend: Add a value, or several.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0
        self._waiting = array("d")
        self._exemplars: dict[int, tuple[str, float]] = {}
        self.add, self.extend = self._waiting.append, self._waiting.extend

    def mark(self, value: float, traceparent: str) -> None:
        """Make a trace the exemplar of the bucket that ``value`` falls into."""
        self._exemplars[bisect_left(self._bounds, value)] = traceparent, value

    def fold(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Count the values that were added since the last call, and return them."""
        values = np.array(self._waiting)
        del self._waiting[:]
        if values.size:
            places = np.searchsorted(self._bounds, values)
            self._counts += np.bincount(places, minlength=len(self._counts))
            self._sum += float(values.sum())
        return values

    def state(self) -> dict[str, Any]:
        """Return counts by bucket, the sum, and exemplars: bucket's index, trace id, value."""
        exemplars = [
            (place, found[1], value)
            for place, (traceparent, value) in self._exemplars.items()
            if (found := TRACE.match(traceparent))
        ]
        return {"counts": self._counts.tolist(), "sum": self._sum, "exemplars": exemplars}
