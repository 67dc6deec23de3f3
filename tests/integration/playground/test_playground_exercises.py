"""The exercises: every answer that the page takes is the one that the weights give."""

from __future__ import annotations

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.integration.playground.conftest import PIXELS, TARGETS, Floats, Version, flips

pytestmark = pytest.mark.slow


def field(page: Page, name: str) -> Locator:
    """Return the field of a name, with what it says."""
    return page.locator("label.field").filter(has_text=name)


FIELDS = {"s": "sum ", "h": "ReLU ", "y": "output ", "m": "mean squared error "}


def test_an_input_by_hand_is_checked(page: Page, version: Version) -> None:
    page.locator(f"#choices input[value='{version.name}']").check()
    for image in (6, 11, 0):  # the chapter's, and after it
        expect(page.locator("#by-hand-image")).to_contain_text(f"image {image} = ")
        wanted = {name: value for name, value in version.steps(image).items() if name[0] in FIELDS}
        expect(page.locator("#by-hand .field")).to_have_count(len(wanted))
        for name, value in wanted.items():
            asked = field(page, FIELDS[name[0]] + name)
            asked.locator("input").fill(f"{value:.4f}")
            expect(asked.locator("output")).to_have_text("✓ right")
        page.locator("#hint").click()
        expect(page.locator("#hinted")).to_have_text("All are right.")
        page.locator("#another").click()
    page.locator("#choices input[value='1.0']").check()


def test_it_is_checked_digit_by_digit(page: Page) -> None:
    """The first sum of image 6 is -0.1."""
    told = field(page, "sum s0")
    for typed, said in (
        ("-0.1", "✓ right"),
        ("−0,1", "✓ right"),
        ("-.10", "✓ right"),
        ("- 0.1", "✓ right"),
        ("–0.1", "✓ right"),  # a dash, which text programs make of a hyphen
        ("－０．１", "✓ right"),  # full width, as Japanese keyboards write
        ("-", "right so far"),
        ("-0.", "right so far"),
        ("0.1", "✗ the sign is wrong"),
        ("-0.2", "✗ -0. is right, then 2 is wrong"),
        ("-0.12", "✗ -0.1 is right, then 2 is wrong"),
        ("-9", "✗ - is right, then 9 is wrong"),
        ("-0.1x", "✗ -0.1 is right, then x is wrong"),
        ("", ""),
    ):
        told.locator("input").fill("5")
        told.locator("input").fill(typed)
        expect(told.locator("output")).to_have_text(said)
        expect(told.locator("input")).to_have_attribute("aria-invalid", str("✗" in said).lower())


def test_a_hint_shows_the_way_but_not_the_result(page: Page) -> None:
    page.locator("#hint").click()
    expect(page.locator("#hinted")).to_contain_text("= 0.2·0 − 0.3·1 + 0.1·1 − 0.4·0 + 0.1")
    assert not page.locator("#hinted").inner_text().endswith("= −0.1")
    field(page, "sum s0").locator("input").fill("-0.1")
    page.locator("#hint").click()
    expect(page.locator("#hinted")).to_contain_text("sum s1")


def test_parameters_are_counted_on_the_drawn_network(page: Page) -> None:
    told, counted = page.locator("#parameters"), page.locator("#counted")
    served = {3: "Version 1.0 has this size, and 31", 5: "Version 2.0 has this size, and 49"}
    for hidden in (1, 3, 5, 8):
        page.locator("#hidden").fill(str(hidden))
        parameters = 4 * hidden + hidden + hidden * 4 + 4
        told.locator("input").fill(str(parameters))
        expect(told).to_contain_text("✓ right")
        told.locator("input").fill(str(parameters + 1))
        expect(told).to_contain_text("✗")
        page.locator("#count").click()
        expect(counted).to_contain_text(f"= {parameters}.")
        if hidden in served:
            expect(counted).to_contain_text(served[hidden])
        else:
            expect(counted).not_to_contain_text("Version")


def test_without_relu_the_predictions_change(page: Page, version: Version) -> None:
    page.locator(f"#choices input[value='{version.name}']").check()
    page.locator("#relu").check()
    sums = version.sums(PIXELS)
    linear = version.output(sums)
    changed = (np.abs(linear - version.predictions) > 1e-6).any(axis=1).sum()
    told = page.locator("#changed")
    expect(told).to_contain_text(f"{changed} of 16 predictions change.")
    if (sums < 0).any():
        error = round(float(np.mean((linear - TARGETS) ** 2)), 4)
        expect(told).to_contain_text(f"to {error}.")
    else:
        expect(told).to_contain_text(f"No sum of version {version.name} is below 0")
        assert changed == 0
    label = page.locator("#linear .told").nth(1)
    expect(label).to_contain_text(f"flips {flips(linear).sum()} of 16")
    difference = told.inner_text().rpartition("at most ")[2].rstrip(".")
    assert float(difference) < 1e-6, "the page's arithmetic is not the service's"
    page.locator("#relu").uncheck()
    expect(told).to_be_empty()
    expect(page.locator("#linear button .mark")).to_have_count(16)


def test_through_three_values_at_most_15_images_are_flipped(page: Page) -> None:
    most = 15  # docs/model.md says why, and tests/unit/test_train.py reaches it
    told = page.locator("#most")
    told.locator("input").fill("16")
    expect(told).to_contain_text("✗")
    told.locator("input").fill(str(most))
    expect(told).to_contain_text("✓ right")
    page.get_by_text("Why", exact=True).click()
    expect(page.locator("#bound")).to_contain_text(f"The map below flips {most}")
    expect(page.locator("#best .told").first).to_contain_text(f"flips {most} of 16")
    marks = page.locator("#best button .mark").all_inner_texts()
    assert marks.count("✓") == most


def test_without_relu_an_error_remains(page: Page, versions_by_name: dict[str, Version]) -> None:
    def rank(version: Version) -> int:
        product: Floats = version.weights["layer2.weight"] @ version.weights["layer1.weight"]
        return int(np.linalg.matrix_rank(product))

    flip = np.eye(4)[[0, 2, 1, 3]]
    assert np.array_equal(PIXELS @ flip.T, TARGETS)
    page.get_by_text("Why", exact=True).click()
    why = page.locator("details").first
    expect(why).to_contain_text(f"permutation matrix of rank {np.linalg.matrix_rank(flip)}")
    for name, version in versions_by_name.items():
        page.locator(f"#choices input[value='{name}']").check()
        expect(why).to_contain_text(f"rank {rank(version)} at most")


def test_batch_and_single_pass_are_equal(page: Page, version: Version) -> None:
    page.locator(f"#choices input[value='{version.name}']").check()
    page.locator("#compare").click()
    expect(page.locator("#compared")).to_have_text(
        f"Version {version.name}: 16 of 16 rows are equal to the last bit. "
        "The largest difference is 0."
    )
    page.get_by_text("Why is batching faster?").click()
    expect(page.get_by_text("is paid once per batch")).to_be_visible()


def test_quick_checks(page: Page, version: Version) -> None:
    page.locator(f"#choices input[value='{version.name}']").check()
    stored = version.weights["layer1.weight"].shape
    for check, right in zip(page.locator("#checks .check").all(), (stored, (16, 4)), strict=True):
        expect(check.locator("label")).to_have_count(3)
        for option in check.locator("label").all():
            option.click()
            is_right = option.inner_text().strip() == str(right)
            expect(check.locator("output")).to_contain_text("✓ right" if is_right else "✗ no")
