"""Reports in a real browser: everything is drawn, nothing is cut, asked for or run, and everybody can use it.

One page of each kind, of made-up rows with hostile names, in Debian's chromium driven by playwright. Pages are opened
once, wide and narrow, and shared by the tests. Without chromium all are skipped.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from layerwise.report import Board, write_report, write_scoreboard
from layerwise.report.advice import render_advice
from layerwise.report.compare import Side, render_comparison
from layerwise.report.grand import figures
from layerwise.report.transfer_strip import strip
from layerwise.studies.grand_design import design
from layerwise.studies.request import Request
from test_grand import data_like, gained, made_up, moved

from made_up import HOSTILE, made_up_advice, made_up_probe, made_up_report, made_up_rows

DEEP = "deep"  # a probe of a net of 38 layers, such as a vision transformer has
PHONE, DESK, WALL = 390, 1280, 2560
KINDS = ("study", "probe", "advice", "comparison", "scoreboard")
CHARTS = {"study": 6, "probe": 7, "advice": 4, "comparison": 8, "scoreboard": 17}
PAPER = 718  # pixels between the margins of A4
SMALLEST = 7  # pixels of a letter that is still read on a phone
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
MOMENT = 300  # milliseconds in which a picture is drawn anew
SERIOUS = {"serious", "critical"}


@dataclass
class Opened:
    """A page in the browser, and what it did that it should not."""

    page: Any
    asked: list[str] = field(default_factory=list)  # addresses
    said: list[str] = field(default_factory=list)  # on the console, in dialogs, as errors


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of each kind, with names that would like to be code."""
    folder = tmp_path_factory.mktemp("reports")
    paths = {kind: folder / f"{kind}.html" for kind in (*KINDS, DEEP)}
    rows = made_up_rows()
    report = made_up_report(rows, HOSTILE)
    write_report(paths["study"], report)
    paths["probe"].write_text(made_up_probe(HOSTILE), encoding="utf-8")
    paths["advice"].write_text(render_advice(made_up_advice(HOSTILE).as_json, folder / "advice.json"), encoding="utf-8")
    blocks = [f"blocks.{k}.{part}" for k in range(12) for part in ("attn", "mlp.fc1", "mlp.fc2")]
    paths[DEEP].write_text(made_up_probe(HOSTILE, ["patch_embed", *blocks, "head"]), encoding="utf-8")
    found, claims = strip(rows), {claim["id"]: claim for claim in report.claims}
    assert found is not None
    one, other = (
        Side(name, "study", report.title, report.answer, report.findings, {"": found}, claims, report.figures, (),
             report.notes, {**report.provenance, "data": name})
        for name in ("one", HOSTILE)
    )  # fmt: skip
    paths["comparison"].write_text(render_comparison(one, other, "layerwise report one other"), encoding="utf-8")
    lesions = made_up(design(Request(data_like(20, 40), net="small40", steps=100)), gained, moved)
    grand = replace(report, name="grand", rows=lesions, figures=figures(lesions))
    board = Board(
        "A board " + HOSTILE,
        (replace(report, name="gutstein"), grand),
        {"totals": {}},
        {"command": "layerwise study all"},
        (),
    )
    write_scoreboard(paths["scoreboard"], board)
    return paths


@pytest.fixture(scope="module")
def opened(written: dict[str, Path]) -> Iterator[Callable[[str, int], Opened]]:
    """Opens a kind of report at a width, the first time that it is asked for."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here (Debian's package of that name)")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        pages: dict[tuple[str, int], Opened] = {}

        def open_once(kind: str, width: int) -> Opened:
            if (kind, width) not in pages:
                pages[kind, width] = _opened(browser, written[kind], width)
            return pages[kind, width]

        yield open_once
        browser.close()


def _opened(browser: Any, path: Path, width: int) -> Opened:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    context.set_default_timeout(120_000)
    found = Opened(context.new_page())
    found.page.on("console", lambda message: found.said.append(message.text))
    found.page.on("pageerror", lambda error: found.said.append(str(error)))
    found.page.on("dialog", lambda dialog: (found.said.append(dialog.message), dialog.dismiss()))
    found.page.on("request", lambda request: found.asked.append(request.url))
    found.page.goto(path.as_uri())
    found.page.wait_for_selector("html.drawn")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_drawn_and_nothing_is_asked_for_said_or_run(
    kind: str, opened: Callable[[str, int], Opened], written: dict[str, Path]
) -> None:
    found = opened(kind, DESK)
    sizes = found.page.evaluate(
        "[...document.querySelectorAll('[data-chart]')].map(place => {"
        "  const box = place.querySelector('svg')?.getBoundingClientRect();"
        "  return box ? [box.width, box.height, place.querySelectorAll('svg path, svg text').length] : [0, 0, 0]; })"
    )
    assert len(sizes) == CHARTS[kind]
    assert all(width > 200 and height > 100 and marks > 5 for width, height, marks in sizes), sizes
    assert found.said == []
    assert [address for address in found.asked if not address.startswith(written[kind].as_uri())] == []
    assert found.page.evaluate("document.querySelectorAll('[onerror], script').length") == 3  # the data and its two
    assert "<script>alert(1)</script>" in found.page.inner_text("body")


@pytest.mark.parametrize("width", [PHONE, DESK, WALL])
@pytest.mark.parametrize("kind", [*KINDS, DEEP])
def test_nothing_is_cut(kind: str, width: int, opened: Callable[[str, int], Opened]) -> None:
    """The page does not scroll sideways, and what stands outside boxes that do is within it; nor is a figure cut."""
    page = opened(kind, PHONE if width == PHONE else DESK).page
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(100)
    try:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        outside = page.evaluate(
            "[...document.querySelectorAll('main *, header *')].filter(one => {"
            "  const box = one.getBoundingClientRect();"
            "  return box.width > 1 && (box.right > innerWidth + 1 || box.left < -1)"
            "    && !one.closest('.scroll, pre, .hidden, svg defs'); }).map(one => one.outerHTML.slice(0, 160))"
        )
        assert outside == []
    finally:
        page.set_viewport_size({"width": PHONE if width == PHONE else DESK, "height": 900})


def test_many_layers_have_their_numbers_and_names_apart(opened: Callable[[str, int], Opened]) -> None:
    """Bugs: each number, with its unit, was as wide as its tile; names on axes were cut where they differ."""
    found = opened(DEEP, DESK)
    axes = found.page.locator("[data-chart] svg text").all_text_contents()
    assert {"0.attn", "5.fc1", "11.fc2"} <= set(axes)
    assert not [name for name in axes if name.startswith("blocks.") and name.endswith("…")]
    assert found.said == []  # Vega says so where a legend leaves names out
    ends = found.page.evaluate(
        "[...document.querySelectorAll('.strip .well b')].map(number => {"
        "  const words = document.createRange(); words.selectNodeContents(number);"
        "  const box = words.getBoundingClientRect(); return [box.left, box.right]; })"
    )
    assert len(ends) == 38
    assert all(right + 4 < left for (_, right), (left, _) in pairwise(ends))


@pytest.mark.parametrize("kind", KINDS)
def test_letters_of_figures_are_large_enough_on_a_phone(kind: str, opened: Callable[[str, int], Opened]) -> None:
    """A picture of a width of its own was shrunk to the page's, and its letters with it."""
    sizes = opened(kind, PHONE).page.evaluate(
        "[...document.querySelectorAll('[data-chart] svg text')].filter(text => text.textContent).map(text => {"
        "  const drawn = text.getScreenCTM();"
        "  return Math.hypot(drawn.a, drawn.b) * parseFloat(getComputedStyle(text).fontSize); })"
    )
    assert len(sizes) > 20
    assert min(sizes) >= SMALLEST


@pytest.mark.parametrize("kind", ["study", "probe", "scoreboard"])
def test_no_figure_is_cut_on_paper(kind: str, opened: Callable[[str, int], Opened]) -> None:
    """What was drawn for a wide screen fits between the margins; controls are gone, but not what they chose."""
    page = opened(kind, DESK).page
    page.emulate_media(media="print")
    page.evaluate(f"document.body.style.width = '{PAPER}px'")
    try:
        edge = page.evaluate("document.body.getBoundingClientRect().right")
        places = page.evaluate(
            "[...document.querySelectorAll('[data-chart] svg')].map(svg => {"
            "  const [box, place] = [svg, svg.closest('figure')].map(one => one.getBoundingClientRect());"
            "  return [box.width, box.left, box.right, box.bottom - place.bottom]; })"
        )
        assert len(places) == CHARTS[kind]
        assert all(w > 200 and left >= 0 and right <= edge + 1 and below <= 0 for w, left, right, below in places)
        assert not page.locator("figure button:visible, figure summary:visible").count()
        assert page.locator(".vega-bind select:visible").count() == page.locator(".vega-bind select").count()
    finally:
        page.evaluate("document.body.style.width = ''")
        page.emulate_media(media="screen")


@pytest.mark.parametrize(("scheme", "width"), [("light", DESK), ("dark", PHONE)])
@pytest.mark.parametrize("kind", KINDS)
def test_an_accessibility_check_finds_no_serious_fault(
    kind: str, scheme: str, width: int, opened: Callable[[str, int], Opened]
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = opened(kind, width).page
    page.emulate_media(color_scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    found = axe.Axe().run(page).response["violations"]
    page.emulate_media(color_scheme="light")
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in SERIOUS] == []
    assert (sum(map(int, paper[4:-1].split(", "))) < 200) == (scheme == "dark")


@pytest.mark.parametrize(
    ("kind", "table", "column", "word"),
    [("study", "runs", "samples", "F3R"), ("probe", "rows", "value", "conv2"), ("advice", "options", "trials", "FFTR")],
)
def test_tables_sort_filter_and_are_saved(
    kind: str, table: str, column: str, word: str, opened: Callable[[str, int], Opened]
) -> None:
    page = opened(kind, DESK).page
    place = page.locator(f"div[data-table={table}]")
    heading = place.locator("th button", has_text=re.compile(f"^{column}$"))
    at = heading.evaluate("button => button.closest('th').cellIndex")
    shown = f"document.querySelectorAll('div[data-table={table}] tbody tr')"
    for direction, falling in (("ascending", False), ("descending", True)):
        heading.click()
        assert heading.evaluate("button => button.closest('th').getAttribute('aria-sort')") == direction
        cells = page.evaluate(f"[...{shown}].map(row => row.cells[{at}].textContent)")
        numbers = [float(cell.removesuffix(" %")) for cell in cells if cell != "–"]
        assert numbers == sorted(numbers, reverse=falling)
        assert len(set(numbers)) > 1
    before = page.evaluate(f"{shown}.length")
    place.get_by_role("searchbox").fill(word.lower())
    texts = page.evaluate(f"[...{shown}].map(row => row.textContent)")
    assert 0 < len(texts) < before
    assert all(word in text for text in texts)
    place.get_by_role("searchbox").fill("")
    with page.expect_download() as download:
        place.get_by_role("button", name="Download csv").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert len(lines) > before
    assert "," in lines[0]


def test_a_click_in_the_legend_fades_the_other_curves(opened: Callable[[str, int], Opened]) -> None:
    page = opened("study", DESK).page
    chart = page.locator("[data-chart='0']")
    faded = "place => [...place.querySelectorAll('.mark-line path')].map(line => line.getAttribute('opacity'))"
    assert set(chart.evaluate(faded)) == {"1"}
    chart.locator(".role-legend-symbol path").first.click()
    page.wait_for_timeout(MOMENT)
    assert sorted(set(chart.evaluate(faded))) == ["0.12", "1"]


def test_names_of_the_legend_are_picked_by_keyboard(opened: Callable[[str, int], Opened]) -> None:
    """The boxes below a figure hold what is picked, by a key or by a click in the legend."""
    page = opened("study", DESK).page
    figure = page.locator("#figure-1")
    faded = "figure => [...figure.querySelectorAll('.mark-line path')].map(line => line.getAttribute('opacity'))"
    figure.locator(".picks summary").focus()
    for pressed in ("Enter", "Tab", "Space"):
        page.keyboard.press(pressed)
    page.wait_for_timeout(MOMENT)
    assert sorted(set(figure.evaluate(faded))) == ["0.12", "1"]
    boxes = figure.get_by_role("checkbox")
    assert [box.is_checked() for box in boxes.all()] == [True] + [False] * (boxes.count() - 1)
    figure.locator(".role-legend-symbol path").first.click()  # the same again: nothing is picked
    page.wait_for_timeout(MOMENT)
    assert not any(box.is_checked() for box in boxes.all())
    assert set(figure.evaluate(faded)) == {"1"}


def test_hostile_names_are_text_where_a_mark_is_pointed_at(opened: Callable[[str, int], Opened]) -> None:
    found = opened("probe", DESK)
    found.page.locator(".mark-rect path").first.hover()
    told = found.page.locator("#vg-tooltip-element.visible")
    told.wait_for()
    assert HOSTILE in told.inner_text()
    assert told.locator("script, img").count() == 0
    assert found.said == []


def test_points_of_an_embedding_are_shown_as_their_images(opened: Callable[[str, int], Opened]) -> None:
    page = opened("probe", DESK).page
    chart = page.locator("figure").filter(has=page.get_by_role("checkbox", name="show the images"))
    assert chart.locator("svg image[width='0']").count() == 8
    shows = chart.get_by_role("checkbox", name="show the images")
    shows.check()
    page.wait_for_timeout(MOMENT)
    shown = chart.locator("svg image[width='22']")
    assert shown.count() == 8
    assert shown.first.evaluate("image => image.getAttribute('href').startsWith('data:image/png;base64,')")
    shows.uncheck()


def test_a_claim_shows_its_runs_and_a_figure_its_numbers(opened: Callable[[str, int], Opened]) -> None:
    page = opened("study", DESK).page
    rule = page.locator("#claim-1 details")
    rule.locator("summary").click()
    rule.get_by_role("button").click()
    assert page.evaluate("document.querySelectorAll('div[data-table=runs] tbody tr').length") == 2
    page.locator("div[data-table=runs] td.key button").first.click()
    assert page.evaluate("document.activeElement.id") == "run"
    told = page.locator("#run").inner_text()
    assert "layerwise runs show n0-1-0-0" in told
    assert "layerwise study gutstein" in told
    assert "--out KEYS" in told
    numbers = page.locator("#figure-0 .numbers")
    assert numbers.locator("table").count() == 0
    numbers.locator("summary").click()
    numbers.locator("tbody tr").first.wait_for()  # it is drawn once it is opened
    assert numbers.locator("tbody tr").count() == 12


def test_the_keyboard_reaches_links_tables_and_the_strip(opened: Callable[[str, int], Opened]) -> None:
    page = opened("advice", DESK).page
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.closest('.strip-figure, .command')?.className"))
    assert {"strip-figure", "command"} <= reached


def test_a_layer_is_read_out_with_what_is_done_and_why(opened: Callable[[str, int], Opened]) -> None:
    page = opened("advice", DESK).page
    row = page.get_by_role("row").filter(has_text="C1").first
    assert " ".join(row.text_content().split()) == "C1 F freeze +20.0 (+15.0 to +25.0) useful"


def test_on_a_phone_layers_stand_one_below_the_other(opened: Callable[[str, int], Opened]) -> None:
    place = "[...document.querySelectorAll('.strip .tile')].slice(0, 2).map(tile => tile.getBoundingClientRect())"
    first, second = opened("study", PHONE).page.evaluate(f"{place}.map(box => [box.left, box.top])")
    assert first[0] == second[0]
    assert first[1] < second[1]
    first, second = opened("study", DESK).page.evaluate(f"{place}.map(box => [box.left, box.top])")
    assert first[0] < second[0]
    assert first[1] == second[1]
