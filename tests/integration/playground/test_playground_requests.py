"""What leaves the page: the requests to copy, and files."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

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


def run(*command: str) -> str:
    """Run what was copied."""
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout


@pytest.mark.parametrize("name", ["curl", "Python", "JavaScript", "Raw bytes"])
def test_what_is_copied_works(page: Page, version: Version, name: str) -> None:
    choose(page, 13, version.name)
    program = copied(page, name)
    if name == "curl":
        found = json.loads(run("bash", "-c", program))["predictions"]
    elif name == "Python":
        found = run(sys.executable, "-c", program).strip().strip("[]").split()
    elif name == "JavaScript":
        found = page.evaluate(f"async () => {{ {program}; return predictions; }}")
    else:
        found = run("bash", "-c", program).split()
    assert np.allclose(np.ravel(np.float64(found)), version.predictions[13], atol=1e-6)


def test_without_a_clipboard_the_request_is_selected(page: Page) -> None:
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_role("button", name="Copy curl").click()
    expect(page.get_by_text("Selected: press Ctrl+C.")).to_be_visible()
    selected = page.evaluate("String(getSelection())")
    assert "diagonal_flip/1.0" in selected


def downloaded(page: Page, suffix: str) -> Path:
    with page.expect_download() as downloading:
        page.locator(f"#sent a[download$='.{suffix}']").click()
    return downloading.value.path()


def test_a_large_file_is_predicted_and_downloaded(
    page: Page, version: Version, tmp_path: Path
) -> None:
    page.locator(f"#choices input[value='{version.name}']").check()
    images = np.random.default_rng(3).integers(0, 16, 2_000_000)
    (tmp_path / "images.bin").write_bytes(bytes(pack(images).packed))
    page.locator("#file").set_input_files(tmp_path / "images.bin")
    expect(page.locator("#sent")).to_contain_text("2,000,000 images", timeout=60_000)
    expect(page.locator("#sent")).to_contain_text(f"version {version.name}")
    rows = np.fromfile(downloaded(page, "f32"), "<f4").reshape(-1, 4)
    assert np.abs(rows - version.predictions[images]).max() <= 1e-6
    expect(page.locator("#sent progress")).to_have_count(0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("images.bin", b"\xb6"),
        ("images.txt", b"b6"),
        ("images.json", b'{"images": [11, 6]}'),
        ("images.png", PNG),
        ("images.PBM", b"P1\n4 2\n1 0 0 1\n1 1 1 0\n"),
    ],
)
def test_every_kind_of_file(
    page: Page, versions_by_name: dict[str, Version], name: str, content: bytes
) -> None:
    page.locator("#file").set_input_files({"name": name, "mimeType": "", "buffer": content})
    expect(page.locator("#sent")).to_contain_text(f"{name}: 2 images")
    wanted = versions_by_name["1.0"].predictions[[11, 6]]
    rows = np.loadtxt(downloaded(page, "csv"), delimiter=",")
    assert np.allclose(rows, wanted, atol=1e-6)
    expect(page.locator("#sent .code")).to_contain_text("[0.1, −0.1, −0.05, −0.25]")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("photo.jpg", JPEG, "it is none of the known types"),
        ("photo", JPEG, "it is none of the known types"),
        ("photo.bin", JPEG, "the content is not what .bin says"),
        ("picture.bin", PNG, "the content is not what .bin says"),
        ("photo.png", JPEG, "the content is not what .png says"),
        ("words.txt", b"no images", "the content is not what .txt says"),
        ("list.json", b"[11]", "the content is not what .json says"),
        ("grey.pbm", b"P5\n2 2\n", "the content is not what .pbm says"),
        ("empty.bin", b"", "the file is empty"),
    ],
)
def test_other_files_are_rejected_and_not_sent(
    page: Page, name: str, content: bytes, why: str
) -> None:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    page.locator("#file").set_input_files({"name": name, "mimeType": "", "buffer": content})
    expect(page.locator("#sent .wrong")).to_contain_text(f"Rejected: {why}")
    assert not [url for url in sent if "predictions" in url]


def test_what_the_service_rejects_is_said_beside_the_file(
    page: Page, expected_errors: list[str]
) -> None:
    expected_errors.append("400")
    content = b'{"images": [77]}'
    page.locator("#file").set_input_files({"name": "a.json", "mimeType": "", "buffer": content})
    expect(page.locator("#sent li")).to_contain_text("a.json The service says: 400")


def drop(page: Page, selector: str, files: dict[str, str]) -> None:
    """Drop files of text at an element."""
    page.locator(selector).evaluate(
        "(place, files) => { const dataTransfer = new DataTransfer();"
        " for (const [name, text] of Object.entries(files))"
        " dataTransfer.items.add(new File([text], name));"
        " for (const type of ['dragover', 'drop']) place.dispatchEvent("
        "new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true })); }",
        files,
    )


def test_two_files_are_answered_in_order(page: Page) -> None:
    drop(page, "#drop", {"first.txt": "b" * 100_000, "second.txt": "6", "third.jpg": "no"})
    lines = page.locator("#sent li")
    expect(lines.nth(0)).to_contain_text("first.txt: 100,000 images")
    expect(lines.nth(1)).to_contain_text("second.txt: 1 image, ")
    expect(lines.nth(2)).to_contain_text("third.jpg Rejected")
    expect(lines).to_have_count(3)


def test_a_file_that_misses_the_box_is_sent_too(page: Page) -> None:
    before = page.url
    drop(page, "h1", {"images.txt": "b6"})
    expect(page.locator("#sent")).to_contain_text("images.txt: 2 images")
    assert page.url == before


def test_an_unreachable_service_is_said_beside_the_file(
    page: Page, expected_errors: list[str]
) -> None:
    expected_errors.append("ERR_INTERNET_DISCONNECTED")
    page.context.set_offline(True)
    drop(page, "#drop", {"images.txt": "b6"})
    expect(page.locator("#sent .wrong")).to_have_text("The service cannot be reached.")
    page.context.set_offline(False)
    expect(page.locator("#fault")).to_be_hidden()
