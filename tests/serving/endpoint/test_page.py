"""The page in a real browser: an image in, its channels, probabilities, verdicts and the scoreboard out; by mouse, drop and keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.reporting.contact import jpeg
from registry.bundle import read_bundle, write_bundle
from registry.reference import Limits, Thumbnails
from serving.endpoint.server import running
from serving.scoring import Scorer
from serving.settings import Settings
from tests.serving.bundles import TinyBundle, ome

pytestmark = pytest.mark.browser
TOKEN = "a-token-of-this-test"
WHOSE = "Image of `cells`, CC-BY-4.0: Müller & 李 2020; https://example.org."


@pytest.fixture(scope="module")
def url(tiny: TinyBundle, tissue: TinyBundle) -> Iterator[str]:
    with running([Scorer.open(bundle.folder) for bundle in (tiny, tissue)]) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that must not complain."""
    found = browser.new_page(viewport={"width": 1400, "height": 900})
    faults: list[str] = []
    found.on("pageerror", lambda error: faults.append(str(error)))
    found.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    yield found
    found.close()
    # what the service refuses is said on the page, and by the browser too
    assert [fault for fault in faults if "status of 4" not in fault] == []


@pytest.fixture
def cell(tiny: TinyBundle, tmp_path: Path) -> Path:
    path = tmp_path / "cell.ome.tif"
    path.write_bytes(ome(tiny.images[0]))
    return path


def test_a_real_file_is_read(page: Any, url: str, cell: Path, tiny: TinyBundle) -> None:
    page.goto(url)
    page.locator("#file").set_input_files(cell)
    page.get_by_role("button", name="Read this image").click()
    page.get_by_text("On `phase`, tiny is undecided against its controls.", exact=True).first.wait_for()
    page.get_by_text("untrained-tiny (twin, 0.600 on the benchmark)", exact=True).first.wait_for()
    shares = page.evaluate("[...document.querySelectorAll('.voice.encoder .bar > div')].map(e => e.clientWidth / e.parentElement.clientWidth)")
    reading = Scorer.open(tiny.folder).read(cell.read_bytes())
    expected = [p for task in reading.tasks for p in task.encoder.probabilities.values()]
    np.testing.assert_allclose(shares, expected, atol=0.02)
    said = page.locator(".voice.twin .number").all_inner_texts()
    assert said == [f"{100 * p:.1f} %" for task in reading.tasks if task.twin for p in task.twin.probabilities.values()]


def test_channels_are_seen_and_can_be_left_out(page: Any, url: str, cell: Path) -> None:
    page.goto(url)
    page.locator("#file").set_input_files(cell)
    page.get_by_role("button", name="Read this image").click()
    page.locator("section.task").first.wait_for()
    assert page.locator("#channels label").all_inner_texts() == ["dna", "er", "actin"]
    assert page.get_by_role("img", name="The image in false colour: dna, er, actin").count() == 1
    sum_of = """(() => {
        const canvas = document.querySelector("#canvas"), { width, height } = canvas;
        const bytes = canvas.getContext("2d").getImageData(0, 0, width, height).data;
        return bytes.reduce((a, b) => a + b, 0) - 255 * width * height;
    })()"""
    together = page.evaluate(sum_of)
    for name in ("er", "actin"):
        page.get_by_label(name, exact=True).uncheck()
    alone = page.evaluate(sum_of)
    assert 0 < alone < together
    page.get_by_label("dna", exact=True).uncheck()
    assert page.evaluate(sum_of) == 0


def test_a_dropped_file_and_a_field_in_tiles(page: Any, url: str, tiny: TinyBundle) -> None:
    page.goto(url)
    page.locator("#field").select_option("grid")
    body = ome(np.block([[tiny.images[0], tiny.images[1]], [tiny.images[2], tiny.images[3]]]))
    page.evaluate(
        """bytes => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(bytes)], "field.tif"));
            document.querySelector("#drop").dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
        }""",
        list(body),
    )
    page.get_by_text("4 tiles, by their upper left corner").wait_for()
    page.get_by_role("button", name="24, 20").click()
    reading = Scorer.open(tiny.folder).read(ome(tiny.images[3]))
    expected = f"{100 * next(iter(reading.tasks[0].encoder.probabilities.values())):.1f} %"
    page.locator(".voice.encoder .number", has_text=expected).first.wait_for()


def test_what_is_not_taken_is_said(page: Any, url: str, cell: Path) -> None:
    page.goto(url)
    page.locator("#model").select_option("tissue")
    page.locator("#file").set_input_files(cell)
    page.get_by_role("button", name="Read this image").click()
    page.get_by_text("expected channels red, green, blue, got dna, er, actin").wait_for()
    assert page.locator("#result").is_hidden()


def held_back(page: Any) -> list[Any]:
    """The first request for a reading waits here, the others go through."""
    waiting: list[Any] = []
    seen: list[Any] = []

    def hold(route: Any) -> None:
        seen.append(route)
        if len(seen) == 1:
            waiting.append(route)
        else:
            route.continue_()

    page.route("**/v1/score*", hold)
    return waiting


def test_a_late_answer_does_not_stand_under_another_image(page: Any, url: str, tiny: TinyBundle, tmp_path: Path) -> None:
    paths = [tmp_path / "first.tif", tmp_path / "second.tif"]
    for path, image in zip(paths, tiny.images, strict=False):
        path.write_bytes(ome(image))
    waiting = held_back(page)
    page.goto(url)
    page.locator("#board tbody tr").first.wait_for()
    for path in paths:
        page.locator("#file").set_input_files(path)
        with page.expect_request("**/v1/score*"):
            page.get_by_role("button", name="Read this image").click()
    title = page.get_by_role("heading", name="second.tif, read by tiny")
    title.wait_for()
    before = page.locator("#reading").inner_html()
    waiting[0].continue_()
    page.wait_for_timeout(500)
    assert page.locator("#reading").inner_html() == before
    assert title.is_visible()
    assert page.get_by_role("status").inner_text() == "second.tif, read by tiny."


def test_another_model_takes_away_what_the_one_before_said(page: Any, url: str, cell: Path) -> None:
    waiting = held_back(page)
    page.goto(url)
    page.locator("#board tbody tr").first.wait_for()
    page.locator("#file").set_input_files(cell)
    with page.expect_request("**/v1/score*"):
        page.get_by_role("button", name="Read this image").click()
    page.locator("#model").select_option("tissue")
    waiting[0].continue_()
    page.wait_for_timeout(500)
    assert page.locator("#result").is_hidden()
    page.locator("#model").select_option("tiny")
    page.get_by_role("button", name="Read this image").click()
    page.get_by_role("heading", name="cell.ome.tif, read by tiny").wait_for()
    page.locator("#model").select_option("tissue")
    assert page.locator("#result").is_hidden()
    assert page.locator("#reading").inner_text() == ""


def test_the_board_says_what_heads_its_columns(page: Any, url: str) -> None:
    page.goto(url)
    assert page.locator("#board th[scope=col]").count() == page.locator("#board th").count() == 8


@pytest.mark.parametrize("width", [400, 1400])
def test_the_board_is_read_without_scrolling_sideways(page: Any, url: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(url)
    page.locator("#board tbody tr").nth(3).wait_for()
    cells = page.locator("#board tbody tr").first.get_by_role("cell")
    sides = [cell.bounding_box() for cell in cells.all()]
    assert len(sides) == 8
    assert max(side["x"] + side["width"] for side in sides) <= width
    assert page.evaluate("[...document.querySelectorAll('.wide')].every(found => found.scrollWidth <= found.clientWidth)")
    head = page.evaluate("getComputedStyle(document.querySelector('#board td.sentence'), '::before').content")
    assert head == ('"Verdict"' if width == 400 else "none")


def test_the_scoreboard(page: Any, url: str) -> None:
    page.goto(url)
    page.locator("#board tbody tr").nth(3).wait_for()
    first = page.locator("#board tbody tr").first.locator("td").all_inner_texts()
    assert first[:6] == ["tiny", "cells", "phase", "0.800", "0.650", "0.900"]


@pytest.fixture(scope="module")
def confounded(tiny: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model of one confounded task of two, whose references are named and pictured and unlike every new image."""
    bundle = read_bundle(tiny.folder)
    assert bundle.reference is not None
    first, *others = bundle.scorecard.tasks
    n = len(bundle.reference)
    pictures = Thumbnails(tuple(jpeg(np.full((8, 8, 3), i, np.uint8)) for i in range(n)))
    reference = replace(
        bundle.reference,
        image_id=np.array([f"image-{i}" for i in range(n)]),
        labels={first.task: np.array(["G1"] * n)},
        limits=Limits(embedding=0.0, appearance=None, rate=0.05, units=12, unit="plate"),
        why_no_limits="",
        thumbnails=pictures,
        terms="Pictures of `cells`, CC0-1.0.",
    )
    assert bundle.golden is not None
    scorecard = replace(bundle.scorecard, tasks=[replace(first, confounded=True), *others])
    made = write_bundle(
        tmp_path_factory.mktemp("confounded") / "tiny",
        bundle.card,
        scorecard,
        onnx=bundle.onnx,
        heads=bundle.heads,
        golden=replace(bundle.golden, licence="CC-BY-4.0", terms=WHOSE),
        reference=reference,
    )
    with running([Scorer.open(made.folder)]) as address:
        yield address


def test_a_confounded_task_is_said_in_the_reading_and_on_the_board(page: Any, confounded: str, cell: Path) -> None:
    page.goto(confounded)
    words = "Plate layout alone does better: the task supports no conclusion."
    page.locator("#board tbody tr").nth(1).wait_for()
    assert [words in row for row in page.locator("#board tbody tr").all_inner_texts()] == [True, False]
    page.locator("#file").set_input_files(cell)
    page.get_by_role("button", name="Read this image").click()
    page.locator("section.task").nth(1).wait_for()
    assert [words in task for task in page.locator("section.task").all_inner_texts()] == [True, False]
    assert page.locator("section.task .warning").all_inner_texts() == [words]


def test_nearest_images_and_what_is_unlike_them_are_shown(page: Any, confounded: str, cell: Path) -> None:
    page.goto(confounded)
    page.locator("#board tbody tr").first.wait_for()
    page.locator("#file").set_input_files(cell)
    page.get_by_role("button", name="Read this image").click()
    page.locator("#nearest li").nth(4).wait_for()
    assert all(text.startswith("phase: G1\nimage-") for text in page.locator("#nearest li").all_inner_texts())
    assert page.locator("#nearest img").count() == 5
    assert page.evaluate("[...document.querySelectorAll('#nearest img')].every(image => image.complete && image.naturalWidth === 8)")
    page.get_by_text("Pictures of `cells`, CC0-1.0.", exact=True).wait_for()
    assert page.locator("#reading > .warning").first.inner_text().startswith("Unlike anything scored before: ")


def test_whose_the_example_is_stands_under_it_and_under_no_other_image(page: Any, confounded: str, cell: Path) -> None:
    page.goto(confounded)
    page.locator("#board tbody tr").first.wait_for()
    page.get_by_role("button", name="Read an example image").click()
    page.locator("#nearest li").nth(4).wait_for()
    assert page.locator("#picture").get_by_text(WHOSE, exact=True).is_visible()
    page.locator("#file").set_input_files(cell)
    page.get_by_role("button", name="Read this image").click()
    page.get_by_role("heading", name="cell.ome.tif, read by tiny").wait_for()
    assert page.locator("#whose").inner_text() == ""
    assert page.get_by_text(WHOSE, exact=True).count() == 0


def test_by_keyboard_alone(page: Any, url: str) -> None:
    page.goto(url)
    page.locator("#board tbody tr").first.wait_for()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "example":
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.locator("section.task").first.wait_for()


def test_a_token_is_asked_for(page: Any, tiny: TinyBundle) -> None:
    with running([Scorer.open(tiny.folder)], Settings(token=TOKEN)) as address:
        page.goto(address)
        page.get_by_text("Expected `Authorization: Bearer TOKEN`").wait_for()
        page.locator("#token").fill(TOKEN)
        page.locator("#token").press("Tab")
        page.locator("#board tbody tr").first.wait_for()
        page.get_by_role("button", name="Read an example image").click()
        page.locator("section.task").first.wait_for()
        assert page.get_by_role("status").inner_text() == "Example image, read by tiny."
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="openapi.json").click(modifiers=["Control"])
        opened.value.get_by_text('"openapi": "3.1').wait_for()


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_window(page: Any, url: str, cell: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(url)
    page.locator("#file").set_input_files(cell)
    page.get_by_role("button", name="Read this image").click()
    page.locator("section.task").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
