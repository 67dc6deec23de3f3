"""The playground in a real browser: every answer it shows is ONNX Runtime's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect, sync_playwright

from diagonalflip.wire import pack
from tests.integration.conftest import PATH, Oracle, Server

CHROMIUM = shutil.which("chromium") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium (Debian's)")

SIZES = {"wide": (1280, 900), "phone": (360, 740)}


@pytest.fixture(params=[*SIZES, "dark"])
def page(running: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The playground, started; fails for whatever its console says."""
    width, height = SIZES.get(request.param, SIZES["wide"])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if request.param == "dark" else "light",
            accept_downloads=True,
        )
        said: list[str] = []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.on("requestfailed", lambda failed: said.append(f"{failed.url}: {failed.failure}"))
        opened.goto(running.base + "/")
        expect(opened.locator("body")).to_have_attribute("data-started", "yes", timeout=30_000)
        yield opened
        browser.close()
        # A refusal is what one test is about; who leaves a page ends what it still asks.
        expected = ("status of 400", "net::ERR_ABORTED")
        assert not [text for text in said if not any(part in text for part in expected)]


def numbers(page: Page, selector: str) -> list[float]:
    """The four numbers of a 2x2 block."""
    told = page.locator(f"{selector} > *").all_inner_texts()
    return [float(text.replace("−", "-")) for text in told]


def test_every_image_is_predicted_as_the_oracle_does(page: Page, oracle: Oracle) -> None:
    for image in range(16):
        page.locator("#all button").nth(image).click()
        expect(page.locator("#number")).to_have_text(str(image))
        expect(page.locator("#answer")).to_contain_text("predictions")
        expect(page.locator("#curl")).to_contain_text(f"[{image}]")
        wanted = oracle([image])[0]
        page.wait_for_function(
            "wanted => [...document.querySelectorAll('#prediction > *')].every((each, place) =>"
            " Math.abs(Number(each.textContent.replace('−', '-')) - wanted[place]) < 1e-4)",
            arg=[float(value) for value in wanted],
        )
        pixels = numbers(page, "#pixels")
        assert numbers(page, "#target") == [pixels[place] for place in (0, 2, 1, 3)]
    expect(page.locator("#total")).to_have_text("0.53787")


def test_pixels_and_nodes_can_be_reached_by_keyboard(page: Page) -> None:
    page.locator("#all button").nth(0).click()
    page.locator("#pixel-0").focus()
    page.keyboard.press("Space")
    expect(page.locator("#number")).to_have_text("8")
    page.locator("#next").focus()
    for _ in range(5):  # from the last node round to the first, and on
        page.keyboard.press("Enter")
    expect(page.locator("#arithmetic")).to_have_text(
        "sums 1 = 0.1 + 0.2·1 − 0.3·0 + 0.1·0 − 0.4·0 = 0.3"
    )
    page.locator("#graph g[role=button]").last.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#arithmetic")).to_contain_text("prediction 4 = 0 + 0.1·0.3")


def test_a_file_is_predicted_and_its_answers_downloaded(
    page: Page, oracle: Oracle, tmp_path: Path
) -> None:
    images = np.random.default_rng(3).integers(0, 16, 2_000_000)
    (tmp_path / "images.bin").write_bytes(bytes(pack(images).packed))
    page.locator("#file").set_input_files(tmp_path / "images.bin")
    expect(page.locator("#sent")).to_contain_text("2,000,000 images", timeout=60_000)
    with page.expect_download() as downloading:
        page.locator("#sent a").click()
    rows = np.fromfile(downloading.value.path(), "<f4").reshape(-1, 4)
    assert np.abs(rows - oracle(range(16))[images]).max() <= 1e-6


def test_what_the_service_refuses_is_said(page: Page, tmp_path: Path) -> None:
    (tmp_path / "wrong.txt").write_text("no images")
    with page.expect_response(f"**{PATH}") as answered:
        page.locator("#file").set_input_files(tmp_path / "wrong.txt")
    assert answered.value.status == requests.codes.bad_request
    expect(page.locator("#fault")).to_contain_text("hex digits")


def test_everybody_can_use_it(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    width = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert width <= 0, "it scrolls sideways"


def test_the_live_panel_shows_every_worker(page: Page) -> None:
    expect(page.locator("#workers tr")).to_have_count(2, timeout=10_000)
    expect(page.locator("#served")).to_contain_text("Version 1.0 runs on CPU")
    expect(page.locator("#flips")).to_contain_text("it flips 1 of them")


def test_the_contract_is_rendered(page: Page) -> None:
    page.goto(page.url + "docs")
    expect(page.locator("#swagger-ui .opblock-summary-path").first).to_contain_text("predictions")


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/playground/main.js"])
def test_pages_allow_nothing_from_elsewhere(running: Server, path: str) -> None:
    answer = requests.get(running.base + path, timeout=30)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "https://" not in answer.text or path == "/openapi.json"


def test_metrics_are_not_public(running: Server) -> None:
    base = running.base
    assert requests.get(f"{base}/metrics", timeout=30).status_code == requests.codes.not_found
