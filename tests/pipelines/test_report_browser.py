"""The report in a real browser: sorting, filtering, phone width, dark mode, no script, no requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.report import write_report
from tests.pipelines.report_workspace import HOSTILE, make_workspace

pytestmark = pytest.mark.browser
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    workspace = make_workspace(tmp_path_factory.mktemp("report"), HOSTILE)
    write_report(workspace, workspace.params())
    return (workspace.root / "reports" / "index.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.is_file():
        pytest.skip(f"needs Debian's chromium at {CHROMIUM}: apt-get install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def page(browser: Any, address: str, complaints: list[str]) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(address)
    yield page
    context.close()
    assert complaints == []


def column(page: Any, number: int) -> list[str]:
    texts: list[str] = page.locator("#culture .sortable tbody tr:visible").evaluate_all(
        "(rows, number) => rows.map((row) => row.cells[number].dataset.v ?? row.cells[number].textContent)", number
    )
    return texts


def test_a_click_sorts_by_value_and_another_turns_it_round(page: Any) -> None:
    value = page.locator("#culture .sortable thead th").nth(5)
    value.get_by_role("button").click()
    assert value.get_attribute("aria-sort") == "descending"
    numbers = [float(v) for v in column(page, 5)]
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) > 4
    value.get_by_role("button").click()
    assert value.get_attribute("aria-sort") == "ascending"
    assert [float(v) for v in column(page, 5)] == sorted(numbers)


def test_the_keyboard_sorts_and_missing_intervals_stay_last(page: Any) -> None:
    interval = page.locator("#culture .sortable thead th").nth(6)
    for direction in ("descending", "ascending"):
        interval.get_by_role("button").focus()
        page.keyboard.press("Enter")
        assert interval.get_attribute("aria-sort") == direction
        lows = column(page, 6)
        known = [float(v) for v in lows if v]
        assert lows[len(known) :] == [""] * (len(lows) - len(known))
        assert 0 < len(known) < len(lows)
        assert known == sorted(known, reverse=direction == "descending")
    assert page.locator("#culture [aria-sort]").count() == 1


def test_filters_narrow_the_table_and_say_how_far(page: Any) -> None:
    form = page.locator("#culture form.filter")
    total = len(column(page, 0))
    assert form.locator("output").inner_text() == f"{total} of {total} scores"
    form.locator("input[type=search]").fill("DENSITY auroc")
    assert set(column(page, 0)) == {"density"}
    assert set(column(page, 3)) == {"logistic.auroc"}
    form.locator("select").select_option("chirality")
    assert column(page, 2) == ["chirality"]
    assert form.locator("output").inner_text() == f"1 of {total} scores"
    form.locator("input[type=checkbox]").check()
    assert column(page, 0) == []
    form.locator("input[type=search]").fill("")
    assert set(column(page, 3)) == {"logistic.balanced_accuracy"}
    form.locator("input[type=search]").press("Enter")
    assert page.url.endswith("index.html")


def test_a_cell_of_the_summary_leads_to_its_plot(page: Any) -> None:
    page.locator("#summary a.cell").first.click()
    assert page.url.endswith("#culture--count--simclr")
    plot = page.locator("#culture--count--simclr")
    in_sight = "e => Math.abs(e.getBoundingClientRect().top) < innerHeight"
    for _ in range(50):  # the page scrolls smoothly
        if plot.evaluate(in_sight):
            break
        page.wait_for_timeout(100)
    assert plot.evaluate(in_sight)


def test_forest_marks_lie_where_their_values_are(page: Any) -> None:
    """The mark of each control lies on one line with the axis's own ticks."""
    plot = page.locator("#culture--chirality--simclr table.forest")
    ticks = plot.locator(".axis text").evaluate_all(
        "(texts) => texts.map((t) => { const b = t.getBoundingClientRect(); return [Number(t.textContent.replace('−', '-')), b.x + b.width / 2]; })"
    )
    (first, x_first), (last, x_last) = ticks[0], ticks[-1]
    rows = plot.locator("tbody tr:has(.lane .mark)").evaluate_all(
        "(rows) => rows.map((r) => { const b = r.querySelector('.lane .mark > *').getBoundingClientRect();"
        " return [Number(r.querySelector('td b').textContent.replace('−', '-')), b.x + b.width / 2]; })"
    )
    assert len(rows) == 7
    for gain, x in rows:
        assert x == pytest.approx(x_first + (gain - first) / (last - first) * (x_last - x_first), abs=1.5)


@pytest.mark.parametrize("width", [390, 1280])
def test_zero_is_one_line_through_all_rows(browser: Any, address: str, width: int) -> None:
    """A row with two lines of text (twins have two intervals) is no interruption."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(address)
    lines = page.locator("#culture--texture--simclr table.forest tbody tr:not(.group) .zero").evaluate_all(
        "(lines) => lines.map((l) => { const b = l.getBoundingClientRect();"
        " return [b.x, b.y, b.height, l.closest('tr').getBoundingClientRect().height]; })"
    )
    assert len(lines) == 8
    assert max(x for x, *_ in lines) - min(x for x, *_ in lines) < 0.5
    if width == 1280:
        assert all(abs(height - row) <= 1.5 for _, _, height, row in lines)
        assert max(row for *_, row in lines) > 1.3 * min(row for *_, row in lines)
    context.close()


def test_tables_and_plots_fit_a_laptop(page: Any) -> None:
    assert page.evaluate("[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth).length") == 0
    crowded = page.locator(".plot td.n, .plot th[scope=row]").evaluate_all("(cells) => cells.filter((e) => e.scrollWidth > e.clientWidth + 1).length")
    assert crowded == 0


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_never_scrolls_sideways(browser: Any, address: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844})
    page = context.new_page()
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        "w => [...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > w + 1 && !e.closest('.scroll, .hidden, pre'))"
        ".map((e) => e.outerHTML.slice(0, 120))",
        width,
    )
    assert wide == []
    context.close()


def test_it_is_complete_without_script_and_follows_dark_mode(browser: Any, address: str) -> None:
    paper = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, java_script_enabled=False)
        page = context.new_page()
        page.goto(address)
        assert page.locator("form.filter").first.is_hidden()
        assert page.locator("table.sortable button").count() == 0
        assert page.get_by_text("Everyday photographs").first.is_visible()
        paper[scheme] = page.screenshot(clip={"x": 2, "y": 2, "width": 4, "height": 4})
        context.close()
    assert paper["light"] != paper["dark"]


def test_it_prints_with_every_score(page: Any) -> None:
    page.emulate_media(media="print")
    assert page.locator("#culture .tall[aria-labelledby=culture-scores]").evaluate("e => e.scrollHeight <= e.clientHeight + 1")
    assert page.locator("#culture form.filter").is_hidden()
    assert page.pdf().startswith(b"%PDF")
