"""The playground in a real browser, of a service with both versions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.workloads import load_reference
from diagonalflip.wire import pack, to_pixels
from tests.integration.conftest import ROOT, Server

CHROMIUM = shutil.which("chromium") or ""

Floats = npt.NDArray[np.float64]
Open = Callable[..., Page]


@dataclass
class Version:
    """A version as the tests know it: ONNX Runtime's predictions, and its published weights."""

    name: str  # its number
    predictions: Floats  # of all 16 images, by ONNX Runtime
    weights: dict[str, Floats]  # by name, shaped (out, in)

    def sums(self, pixels: Floats) -> Floats:
        """Return the hidden layer before ReLU."""
        return pixels @ self.weights["layer1.weight"].T + self.weights["layer1.bias"]

    def steps(self, image: int) -> dict[str, float]:
        """Return the value of every step by its name, as one computes by hand."""
        sums, output = self.sums(PIXELS[image]), self.predictions[image]
        errors = (output - TARGETS[image]) ** 2
        steps: dict[str, float] = {}
        for name, values in zip("shye", (sums, np.maximum(sums, 0), output, errors), strict=True):
            steps |= {f"{name}{index}": float(value) for index, value in enumerate(values)}
        return steps | {"m": float(errors.mean())}

    def output(self, hidden: Floats) -> Floats:
        """Return the second layer."""
        return hidden @ self.weights["layer2.weight"].T + self.weights["layer2.bias"]


PIXELS: Floats = to_pixels(np.arange(16)).reshape(-1, 4).astype(np.float64)
TARGETS: Floats = PIXELS[:, [0, 2, 1, 3]]


def flips(predictions: Floats) -> npt.NDArray[np.bool_]:
    is_flipped: npt.NDArray[np.bool_] = ((predictions >= 0.5) == (TARGETS == 1)).all(axis=1)
    return is_flipped


@pytest.fixture(scope="module")
def versions_by_name(artifacts: Path, exported_2_0: Path) -> dict[str, Version]:
    found = {}
    for name, folder in (("1.0", artifacts), ("2.0", exported_2_0)):
        rows = load_reference(folder / "diagonal_flip.onnx")(bytes(pack(range(16)).packed))
        weights = json.loads((ROOT / f"export/weights-{name}.json").read_text())
        arrays = {key: np.array(each, np.float64) for key, each in weights.items()}
        found[name] = Version(name, rows.astype(np.float64), arrays)
    return found


@pytest.fixture(scope="module", params=["1.0", "2.0"])
def version(request: pytest.FixtureRequest, versions_by_name: dict[str, Version]) -> Version:
    return versions_by_name[request.param]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. Not for longer than a module: its event loop would be in the way of others."""
    if not CHROMIUM:
        pytest.skip("no chromium (Debian's)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def expected_errors() -> list[str]:
    """Parts of the console messages that a test provokes; they may come at any time."""
    return []


@pytest.fixture
def open_page(browser: Browser, service: Server, expected_errors: list[str]) -> Iterator[Open]:
    """Open the playground, by default wide and light; fail for an unexpected console message."""
    contexts = []
    console: list[str] = []

    def open_page(address: str = "", width: int = 1280, started: bool = True, **how: str) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            permissions=["clipboard-read", "clipboard-write"],
            **how,  # type: ignore[arg-type]
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: console.append(message.text))
        page.on("pageerror", lambda error: console.append(str(error)))
        page.goto(f"{service.base}/{address}")
        if started:
            expect(page.locator("body")).to_have_attribute("data-started", "yes", timeout=30_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [text for text in console if not any(part in text for part in expected_errors)] == []


@pytest.fixture
def page(open_page: Open) -> Page:
    return open_page()


def choose(page: Page, image: int, version: str | None = None) -> None:
    if version:
        page.locator(f"#choices input[value='{version}']").check()
    page.locator("#versions button").nth(image).click()
    expect(page.locator("#number")).to_have_text(str(image))
