"""The playground: every number it shows is ONNX Runtime's, or follows from the weights."""

from __future__ import annotations

import re

import numpy as np
import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route, expect

from tests.integration.conftest import Server
from tests.integration.playground.conftest import PIXELS, TARGETS, Open, Version, choose, flips

pytestmark = pytest.mark.slow


def number(text: str) -> float:
    """Read a number as the page writes it."""
    return float(text.replace("−", "-"))


def numbers(page: Page, selector: str) -> list[float]:
    """Read the four numbers of a 2x2 picture."""
    return [number(text) for text in page.locator(f"{selector} > *").all_inner_texts()]


def test_every_image_is_predicted_as_onnx_runtime_does(page: Page, version: Version) -> None:
    for image in range(16):
        choose(page, image, version.name)
        figure = f"#predictions figure[data-version='{version.name}']"
        wanted = version.predictions[image]
        assert np.allclose(numbers(page, f"{figure} .tile"), wanted, atol=6e-5)
        assert numbers(page, "#pixels") == list(PIXELS[image])
        assert numbers(page, "#target .tile") == list(TARGETS[image])
        verdict = "✓ flipped" if flips(version.predictions)[image] else "✗ not flipped"
        expect(page.locator(figure)).to_contain_text(verdict)
        expect(page.locator("#same")).to_have_text("Equal, to the last bit.")
        cells = page.locator("#rows tbody tr").nth(1).locator("td").all_inner_texts()
        assert np.allclose([number(cell) for cell in cells], wanted, atol=6e-5)


def test_it_shows_which_version_flips(page: Page, versions_by_name: dict[str, Version]) -> None:
    labels = page.locator("#versions .column .told").all_inner_texts()
    for place, (name, version) in enumerate(versions_by_name.items()):
        wanted = flips(version.predictions)
        assert f"Version {name}" in labels[place]
        assert f"flips {wanted.sum()} of 16" in labels[place]
        marks = [
            page.locator("#versions button").nth(image).locator(".mark").nth(place).inner_text()
            for image in range(16)
        ]
        assert marks == ["✓" if is_flipped else "✗" for is_flipped in wanted]
    error = np.mean((versions_by_name["1.0"].predictions - TARGETS) ** 2)
    assert f"error {error:.4f}" in labels[0]
    assert "error below 0.0001" in labels[1]


def test_a_version_is_shown_alone_or_beside_the_other(page: Page) -> None:
    figures, rows = page.locator("#predictions figure"), page.locator("#versions .told")
    expect(figures).to_have_count(2)
    page.locator("#both").uncheck()
    expect(figures).to_have_count(1)
    page.locator("#choices input[value='2.0']").check()
    expect(figures).to_have_attribute("data-version", "2.0")
    expect(rows.first).to_contain_text("flips 16 of 16")
    expect(page.locator("#size")).to_contain_text("49 parameters")
    page.locator("#both").check()
    expect(figures).to_have_count(2)


def test_pixels_are_changed_by_mouse_and_keyboard(page: Page) -> None:
    expect(page.locator("#stage")).to_contain_text("Click a pixel to change it.")
    page.locator("#pixels button").nth(1).click()
    expect(page.locator("#number")).to_have_text("15")
    page.locator("#pixels button").nth(0).focus()
    page.keyboard.press("Space")
    expect(page.locator("#number")).to_have_text("7")
    expect(page.locator("#pixels button").nth(0)).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#pixels button").nth(0)).to_be_focused()


PAINTED = """cell => {
  const painted = document.createElement("canvas").getContext("2d");
  painted.fillStyle = getComputedStyle(cell).backgroundColor;
  painted.fillRect(0, 0, 1, 1);
  return [...painted.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""
"""Red, green and blue of a cell."""


@pytest.mark.parametrize("forced", ["none", "active"])
def test_zero_is_black_one_is_white_and_negative_is_red(open_page: Open, forced: str) -> None:
    page = open_page(forced_colors=forced)
    pixels = page.locator("#pixels > *")
    assert pixels.nth(0).evaluate(PAINTED) == [255, 255, 255]
    assert pixels.nth(1).evaluate(PAINTED) == [0, 0, 0]
    prediction = "#predictions figure[data-version='1.0'] .tile"
    for place, value in enumerate(numbers(page, prediction)):
        red, green, blue = page.locator(f"{prediction} > *").nth(place).evaluate(PAINTED)
        assert (red > green + 30 and red > blue + 30) == (value < 0)
    expect(page.locator("#graph .negative")).to_have_count(4)  # s1, y1, y2 and y3 of image 11
    weights = page.locator("#versions button").evaluate_all(
        "buttons => buttons.map((each) => getComputedStyle(each).fontWeight)"
    )
    assert weights.index("700") == 11, "the chosen one is told by more than colour"


def test_a_lesson_can_be_linked(open_page: Open) -> None:
    page = open_page("#image=6&version=2.0&step=3&both=no")
    expect(page.locator("#number")).to_have_text("6")
    expect(page.locator("#step")).to_have_text("Step 3 of 20: sum s1")
    expect(page.locator("#predictions figure")).to_have_count(1)
    page.locator("#next").click()
    assert page.url.endswith("#image=6&version=2.0&step=4&both=no")
    page.evaluate("location.hash = '#image=9&version=1.0&step=2'")
    expect(page.locator("#step")).to_have_text("Step 2 of 16: sum s0")
    expect(page.locator("#number")).to_have_text("9")
    page = open_page("#image=eleven&version=7.0&step=99")
    expect(page.locator("#step")).to_contain_text("Step 16 of 16")
    assert page.url.endswith("#image=11&version=1.0&step=16"), "what makes no sense is mended"


def test_the_walk_goes_on_where_the_address_may_not_change(page: Page) -> None:
    """Safari takes 100 changes in 10 seconds."""
    page.evaluate("() => { history.replaceState = () => { throw new DOMException(); }; }")
    page.locator("#next").click()
    expect(page.locator("#step")).to_contain_text("Step 2 of 16")


@pytest.mark.parametrize("image", [6, 11, 15])
def test_the_walk_computes_every_step(open_page: Open, version: Version, image: int) -> None:
    page = open_page(f"#image={image}&version={version.name}")
    steps: list[tuple[str, float | None]] = [("pixels", None), *version.steps(image).items()]
    nodes = page.locator("#graph .node .value")
    before = nodes.all_text_contents()
    values = [value for _, value in steps if value is not None]
    shown = [number(text) for text in before]
    assert shown == pytest.approx([*PIXELS[image], *values], abs=6e-5)
    for place, (name, value) in enumerate(steps, 1):
        expect(page.locator("#step")).to_contain_text(f"Step {place} of {len(steps)}:")
        expect(page.locator("#step")).to_contain_text(re.compile(f"{name}$"))
        assert nodes.all_text_contents() == before, "a step wiped what was there"
        if value is not None:
            # What is written out after each sign of equality has the value of the step.
            for line in page.locator("#arithmetic").inner_text().split("\n= ")[1:]:
                written = line.translate(str.maketrans("−·", "-*")).replace("²", "**2")
                computed = eval(written, {"max": max})  # noqa: S307 - the page is ours
                assert computed == pytest.approx(value, abs=5e-4)
            last = page.locator("#arithmetic").inner_text().split("\n= ")[-1]
            assert number(last) == pytest.approx(value, abs=6e-5)
        is_last = str(place == len(steps)).lower()
        expect(page.locator("#next")).to_have_attribute("aria-disabled", is_last)
        page.locator("#next").click(force=True)  # the last one leaves it there
    page.locator("#back").click()
    expect(page.locator("#step")).to_contain_text(f"Step {len(steps) - 1} of")


@pytest.mark.parametrize("width", [390, 1280])
def test_the_graph_is_walked_by_keyboard_and_finger(open_page: Open, width: int) -> None:
    page = open_page(width=width)
    page.locator("#graph .node[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#step")).to_contain_text("Step 2 of 16: sum s0")
    expect(page.locator("#graph .chosen")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#step")).to_contain_text("Step 1 of 16")
    page.keyboard.press("Control+ArrowRight")  # as Alt, by which browsers go back
    expect(page.locator("#step")).to_contain_text("Step 1 of 16")
    for pressed in ("#next", "#graph .node >> nth=12"):  # twice in a row, and nothing is zoomed
        expect(page.locator(pressed)).to_have_css("touch-action", "manipulation")
    page.locator("#graph .node").nth(12).click()
    expect(page.locator("#step")).to_contain_text("Step 10 of 16: output y2")
    expect(page.locator("#graph .edge.used")).to_have_count(3)


def test_later_values_can_be_hidden(page: Page) -> None:
    last = page.locator("#graph .node").last
    expect(last).to_have_attribute("aria-label", "mean squared error m: 0.8963")
    page.locator("#hide").check()
    expect(last).to_have_attribute("aria-label", "mean squared error m: not computed yet")
    expect(last.locator(".value")).to_be_hidden()
    last.click()
    expect(last.locator(".value")).to_be_visible()


@pytest.mark.parametrize("matrix", [1, 2])
def test_both_conventions_light_the_same_edge(page: Page, version: Version, matrix: int) -> None:
    page.locator(f"#choices input[value='{version.name}']").check()
    page.locator(f"#layer-{matrix}").click()
    stored = version.weights[f"layer{matrix}.weight"]
    written, kept = page.locator("#tables table").all()
    expect(written.locator("caption")).to_contain_text(f"W{matrix} {stored.T.shape}")
    expect(kept.locator("caption")).to_contain_text(f"layer{matrix}.weight {stored.shape}")
    for to, row in enumerate(stored):
        for from_, weight in enumerate(row):
            place = to * len(row) + from_
            kept.locator("button").nth(place).click()
            for table, index in ((written, from_ * len(stored) + to), (kept, place)):
                lit = table.locator("button[aria-pressed='true']")
                expect(lit).to_have_count(1)
                expect(table.locator("button").nth(index)).to_have_attribute("aria-pressed", "true")
                assert number(lit.inner_text()) == pytest.approx(weight, abs=6e-5)
            drawn = page.locator("#graph .weight.lit").text_content() or ""
            assert number(drawn) == pytest.approx(weight, abs=6e-5)
    expect(page.locator("#edge")).to_contain_text(f"layer{matrix}.weight[{to}, {from_}] as stored")


def test_an_edge_of_the_graph_and_a_step_light_the_tables(page: Page) -> None:
    page.locator("#graph .node").nth(5).click()  # s1
    expect(page.locator("#edge")).to_contain_text("The edge from x0 to s1 has the weight −0.5")
    page.locator("#graph .hit").last.dispatch_event("click")  # its middle may lie below another
    expect(page.locator("#edge")).to_contain_text("The edge from h2 to y3 has the weight −0.5")


def test_the_batch_has_shapes_and_the_row_of_the_image(page: Page, version: Version) -> None:
    choose(page, 11, version.name)
    hidden = len(version.weights["layer1.bias"])
    told = page.locator("#batch").inner_text()
    for shape in [(16, 4), (4, hidden), (hidden,), (16, hidden), (hidden, 4), (4,)]:
        assert str(shape) in told
    expect(page.locator("#batch .here")).to_have_count(4 + hidden + hidden + 4)
    expect(page.locator("#rows")).to_contain_text("Row 11 of the batch")


def test_larger_requests_are_measured(page: Page) -> None:
    page.locator("#measure").click()
    rows = page.locator("#speed tbody tr")
    expect(rows).to_have_count(4, timeout=60_000)
    sizes, _, rates, *_ = zip(*(row.split("\t") for row in rows.all_inner_texts()), strict=True)
    assert sizes == ("1", "16", "1,024", "65,536")
    assert float(rates[3].replace(",", "")) > float(rates[0].replace(",", ""))
    expect(page.locator("#speed circle")).to_have_count(4)


def test_an_unreachable_service_is_said_and_no_other_prediction_is_shown(
    page: Page, versions_by_name: dict[str, Version], expected_errors: list[str]
) -> None:
    expected_errors.append("ERR_INTERNET_DISCONNECTED")
    page.context.set_offline(True)
    choose(page, 6)
    expect(page.locator("#fault")).to_contain_text("The service cannot be reached.")
    said = page.locator("#fault").evaluate_handle("fault => fault.firstChild")
    for _ in range(2):
        page.wait_for_event("requestfailed")
    assert said.evaluate("text => text.isConnected"), "it is read out once, not every second"
    expect(page.locator("#response")).to_have_text("The service cannot be reached.")
    expect(page.locator("#rows")).to_contain_text("not known")
    for name, version in versions_by_name.items():
        shown = numbers(page, f"#predictions figure[data-version='{name}'] .tile")
        assert np.allclose(shown, version.predictions[6], atol=6e-5)
    page.locator("#measure").click()
    expect(page.locator("#speed")).to_contain_text("cannot be reached")
    page.locator("#compare").click()
    expect(page.locator("#compared")).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    expect(page.locator("#fault")).to_be_hidden()
    expect(page.locator("#same")).to_have_text("Equal, to the last bit.")


@pytest.mark.parametrize(("path", "told"), [("weights", "detail"), ("v2/models", "error")])
def test_a_start_that_fails_is_said(
    open_page: Open, expected_errors: list[str], path: str, told: str
) -> None:
    expected_errors.append("503")
    page = open_page()
    page.route(f"**/{path}/**", lambda route: route.fulfill(status=503, json={told: "Later."}))
    page.reload()
    expect(page.locator("#fault")).to_have_text("The service says: 503, Later.")
    page.unroute(f"**/{path}/**")
    expect(page.locator("body")).to_have_attribute("data-started", "yes")
    expect(page.locator("#fault")).to_be_hidden()


def test_a_late_response_is_not_shown_beside_another_image(page: Page) -> None:
    held: list[Route] = []

    def hold_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/predictions/**", hold_first)
    with page.expect_request("**/predictions/**"):
        choose(page, 6)
    choose(page, 3)
    shown = page.locator("#response")
    expect(shown).to_contain_text("predictions")
    before = shown.inner_text()
    with page.expect_response("**/predictions/**"):
        held[0].continue_()
    page.evaluate("() => new Promise(requestAnimationFrame)")
    assert shown.inner_text() == before


@pytest.mark.parametrize(
    ("width", "scheme"),
    [(320, "light"), (390, "dark"), (768, "light"), (1280, "dark"), (1920, "light")],
)
def test_everybody_can_use_it(open_page: Open, width: int, scheme: str) -> None:
    page = open_page(width=width, color_scheme=scheme)
    expect(page.locator("#workers tbody tr")).to_have_count(2, timeout=10_000)
    page.locator("#relu").check()
    page.locator("#hint").click()
    page.locator("#by-hand input").first.fill("9")
    for details in page.locator("details").all():
        details.locator("summary").click()
    for step in range(2):
        page.locator("#choices input").nth(step).check()
        page.locator("#next").click()
        cut = page.evaluate(
            "[...document.querySelectorAll('body *')].filter(each =>"
            " !each.closest('#workers') && each.getBoundingClientRect().right > innerWidth + 1 ||"
            " each.matches('pre, .code, #graph') && each.scrollWidth > each.clientWidth + 1)"
            ".map(each => each.outerHTML.slice(0, 100))"
        )
        assert cut == []
        over = "document.documentElement.scrollWidth - innerWidth"
        assert page.evaluate(over) <= 0
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    busy = "for (const each of document.querySelectorAll('#workers td')) each.append('000000')"
    assert page.evaluate(f"{busy}; {over}") <= 0


def test_nothing_moves_for_who_wants_that(open_page: Open) -> None:
    for motion, duration in (("reduce", "0s"), ("no-preference", "0.2s")):
        node = open_page(reduced_motion=motion).locator("#graph rect").first
        assert duration in node.evaluate("each => getComputedStyle(each).transitionDuration")


def test_the_live_panel_names_the_device_of_each_version(page: Page) -> None:
    expect(page.locator("#served")).to_contain_text("Version 1.0 runs on CPU")
    page.locator("#choices input[value='2.0']").check()
    expect(page.locator("#served")).to_contain_text("Version 2.0 runs on CPU")


def test_the_contract_is_rendered_and_tried(page: Page) -> None:
    page.goto(page.url.partition("#")[0] + "docs")
    predict = page.locator("#operations-default-predict")
    predict.locator(".opblock-summary-control").click()
    predict.locator(".try-out__btn").click()
    kind = predict.locator("select[aria-label='Request content type']")
    expect(kind).to_have_value("application/json")
    predict.locator(".execute").click()
    statuses = predict.locator(".live-responses-table tbody .response-col_status")
    expect(statuses.first).to_contain_text("200")
    expect(page.locator(".errors-wrapper")).to_have_count(0)


def test_weights_are_served_of_the_default_version_and_of_those_there(service: Server) -> None:
    default, named, unknown = (
        requests.get(f"{service.base}/weights{name}.json", timeout=30)
        for name in ("", "/1.0", "/7.0")
    )
    assert default.json() == named.json()
    assert unknown.status_code == requests.codes.not_found
