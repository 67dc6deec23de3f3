"""What leaves the page: the requests to copy, and files."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from diagonalflip.wire import pack
from tests.integration.conftest import ROOT
from tests.integration.playground.conftest import Version, choose

pytestmark = pytest.mark.slow

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF"
PNG = base64.b64decode(  # images 11 and 6
    "iVBORw0KGgoAAAANSUhEUgAAAAQAAAACAQAAAABX00DOAAAADElEQVR4nGOYwPAAAAKUAXGAuPhhAAAAAElFTkSuQmCC"
)


def copied(page: Page, name: str) -> str:
    """Press the copy button of a request, and return what is in the clipboard."""
    page.get_by_role("button", name=f"Copy {name}").click()
    expect(page.get_by_text("Copied.", exact=True)).to_have_count(1)
    text = str(page.evaluate("navigator.clipboard.readText()"))
    assert text == page.locator(f"pre[aria-label='{name}']").text_content()
    return text


@pytest.mark.parametrize("name", ["curl", "Python", "JavaScript", "Raw bytes"])
def test_what_is_copied_works(page: Page, version: Version, name: str) -> None:
    choose(page, 13, version.name)
    program = copied(page, name)
    if name == "JavaScript":
        found = page.evaluate(f"async () => {{ {program}; return predictions; }}")
    else:
        run = sys.executable if name == "Python" else "bash"
        printed = subprocess.check_output([run, "-c", program], cwd=ROOT, text=True, timeout=60)
        found = re.findall(r"-?\d[\d.e+-]*", printed)
    assert np.allclose(np.ravel(np.float64(found)), version.predictions[13], atol=1e-6)


def test_translators_leave_programs_and_sums_alone(page: Page) -> None:
    codes = page.locator(".code").evaluate_all("codes => codes.map((each) => each.translate)")
    assert codes == [False] * 7


def test_without_a_clipboard_the_request_is_selected(page: Page) -> None:
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_role("button", name="Copy curl").click()
    expect(page.get_by_text("Selected: press Ctrl+C.")).to_be_visible()
    selected = page.evaluate("String(getSelection())")
    assert "diagonal_flip/1.0" in selected


def give(page: Page, name: str, content: bytes) -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": "", "buffer": content})


def downloaded(line: Locator, suffix: str) -> Path:
    with line.page.expect_download() as downloading:
        line.locator(f"a[download$='.{suffix}']").click()
    return downloading.value.path()


def test_a_large_file_is_predicted_and_downloaded(page: Page, version: Version) -> None:
    page.locator(f"#choices input[value='{version.name}']").check()
    images = np.random.default_rng(3).integers(0, 16, 2_000_000)
    give(page, "images.bin", bytes(pack(images).packed))
    expect(page.locator("#sent")).to_contain_text("2,000,000 images", timeout=60_000)
    expect(page.locator("#sent")).to_contain_text(f"version {version.name}")
    rows = np.fromfile(downloaded(page.locator("#sent li"), "f32"), "<f4").reshape(-1, 4)
    assert np.abs(rows - version.predictions[images]).max() <= 1e-6
    expect(page.locator("#sent progress")).to_have_count(0)


def test_every_kind_of_file(page: Page, versions_by_name: dict[str, Version]) -> None:
    wanted = versions_by_name["1.0"].predictions[[11, 6]]
    page.evaluate("() => { performance.now = () => 0; }")  # some browsers round it that much
    for name, content in (
        ("images.bin", b"\xb6"),
        ("images.txt", b"b6"),
        ("images.json", b'{"images": [11, 6]}'),
        ("marked.txt", b"\xef\xbb\xbfb6"),
        ("marked.json", b'\xef\xbb\xbf{"images": [11, 6]}'),
        ("images.png", PNG),
        ("images.PBM", b"P1\n4 2\n1 0 0 1\n1 1 1 0\n"),
    ):
        give(page, name, content)
        line = page.locator("#sent li").last
        expect(line).to_contain_text(re.compile(rf"{name}: 2 images, version 1.0, [\d,]+ images/s"))
        expect(line.locator(".code")).to_contain_text("[0.1, −0.1, −0.05, −0.25]")
        csv = downloaded(line, "csv")
        assert np.allclose(np.loadtxt(csv, delimiter=","), wanted, atol=1e-6)
        assert csv.read_text().startswith("0.1,-0.1,-0.049999997,-0.25\n")


def test_other_files_are_rejected_and_not_sent(page: Page) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    for name, content, why in (
        ("photo.jpg", JPEG, "it is none of the known types"),
        ("photo", JPEG, "it is none of the known types"),
        ("photo.bin", JPEG, "the content is not what .bin says"),
        ("picture.bin", PNG, "the content is not what .bin says"),
        ("photo.png", JPEG, "the content is not what .png says"),
        ("words.txt", b"no images", "the content is not what .txt says"),
        ("list.json", b"[11]", "the content is not what .json says"),
        ("grey.pbm", b"P5\n2 2\n", "the content is not what .pbm says"),
        ("empty.bin", b"", "the file is empty"),
    ):
        give(page, name, content)
        expect(page.locator("#sent li").last).to_contain_text(f"{name} Rejected: {why}")
    assert not [url for url in sent if "predictions" in url]
    # A phone's browser would not let one choose a file of a suffix that it does not know.
    expect(page.locator("#file")).not_to_have_attribute("accept", re.compile(""))


def test_what_the_service_rejects_is_said_beside_it(page: Page, expected_errors: list[str]) -> None:
    expected_errors.append("400")
    give(page, "a.json", b'{"images": [77]}')
    expect(page.locator("#sent li")).to_contain_text("a.json The service says: 400")


def drop(page: Page, selector: str, files: dict[str, str]) -> None:
    page.locator(selector).evaluate(
        "(place, files) => { const dataTransfer = new DataTransfer();"
        " for (const [name, text] of Object.entries(files))"
        " dataTransfer.items.add(new File([text], name));"
        " for (const type of ['dragover', 'drop']) place.dispatchEvent("
        "new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true })); }",
        files,
    )


@pytest.mark.parametrize("place", ["#drop", "h1"])
def test_dropped_files_are_answered_in_order_wherever_they_fall(page: Page, place: str) -> None:
    before = page.url
    drop(page, place, {"first.txt": "b" * 100_000, "second.txt": "6", "third.jpg": "no"})
    lines = page.locator("#sent li")
    expect(lines.nth(0)).to_contain_text("first.txt: 100,000 images")
    expect(lines.nth(1)).to_contain_text("second.txt: 1 image, ")
    expect(lines.nth(2)).to_contain_text("third.jpg Rejected")
    expect(lines).to_have_count(3)
    assert page.url == before


@pytest.mark.parametrize(("place", "left_alone"), [("#by-hand input", True), ("h1", False)])
def test_a_text_may_be_dragged_into_a_field(page: Page, place: str, left_alone: bool) -> None:
    to_the_browser = page.locator(place).first.evaluate(
        "place => { const dataTransfer = new DataTransfer();"
        " dataTransfer.setData('text/plain', '1');"
        " return ['dragover', 'drop'].map((type) => place.dispatchEvent("
        "new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }))); }"
    )
    assert to_the_browser == [left_alone, left_alone]


def test_an_unreachable_service_is_said_beside_it(page: Page, expected_errors: list[str]) -> None:
    expected_errors.append("ERR_INTERNET_DISCONNECTED")
    page.context.set_offline(True)
    drop(page, "#drop", {"images.txt": "b6"})
    expect(page.locator("#sent .wrong")).to_have_text("The service cannot be reached.")
    page.context.set_offline(False)
    expect(page.locator("#fault")).to_be_hidden()
