"""What is found shows in notebooks: whole, escaped, and with the report's own figures."""

import base64
import re
from dataclasses import asdict
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import pytest

import layerwise
from layerwise.adapting.adapted import AdaptedNet
from layerwise.adapting.described import Described, Learnt, Preprocessing
from layerwise.adapting.measured import measured
from layerwise.advising.advice import Advice, Considered
from layerwise.advising.reasons import Reason
from layerwise.nets import build
from layerwise.notebook import charts, page
from layerwise.outputs import Scoreboard, Study
from layerwise.report.advice import figures as advice_figures
from layerwise.report.figures import Figure

HOSTILE = "<script>alert(\"1\")</script> & 'x'"


def chart(name: str = "a") -> alt.Chart:
    table = pd.DataFrame({"x": [name, "other"], "y": [1.0, 2.0]})
    return alt.Chart(table, width="container").mark_bar().encode(x=alt.X("x:N", title="layer"), y="y:Q")


def drawn(html: str) -> str:
    """The one picture in a page, as SVG."""
    (found,) = re.findall(r'<img alt="[^"]*" src="data:image/svg\+xml;base64,([^"]*)">', html)
    return base64.b64decode(found).decode()


def is_contained(html: str) -> bool:
    """Is nothing loaded, and no script in it?"""
    return not re.search(r"<script|<link|<iframe|onload|https?:", html)


def test_a_page_is_escaped_and_contained() -> None:
    html = page(HOSTILE, [HOSTILE], pd.DataFrame({HOSTILE: [HOSTILE]}), {HOSTILE: chart(HOSTILE), "second": chart()})
    assert is_contained(html)
    assert html.count("&lt;script&gt;") == 6  # answer, finding, head, cell, caption, text alternative
    assert "More in <code>.figures</code>: second." in html
    svg = drawn(html)
    assert "<script" not in svg
    assert "layer" in svg
    assert re.search(r'<svg [^>]*width="(\d+)', svg)[1] > "640"  # type: ignore[index]


def test_a_long_table_says_how_much_is_not_shown() -> None:
    html = page("answer", (), pd.DataFrame({"n": range(1025)}))
    assert html.count("<tr") == 21
    assert "<p>and 1,005 lines more</p>" in html
    assert "<ol>" not in html
    assert page("answer", (), pd.DataFrame()) == "<p>answer</p>"


def test_figures_of_one_title_are_all_there() -> None:
    table = pd.DataFrame()
    made = [Figure(title, "", chart(str(k)), table) for k, title in enumerate(["A", "B", "A", "A"])]
    found = charts(made)
    assert list(found) == ["A", "B", "A (2)", "A (3)"]
    assert [found[name] for name in ("A", "A (2)", "A (3)")] == [made[k].chart for k in (0, 2, 3)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A very small one."""
    found = layerwise.study(
        "gutstein", experiments="levels", data="digits", resize=32, seeds=1, shots=(1, 2), steps=4, source_steps=4,
        executor="serial", quiet=True, store=tmp_path_factory.mktemp("study") / "store",
    )  # fmt: skip
    assert isinstance(found, Study)
    return found


def test_a_study_shows_its_answer_its_claims_and_the_reports_figures(study: Study) -> None:
    assert list(study.figures) == [figure.title for figure in study.contents.figures]
    assert all(isinstance(one, alt.TopLevelMixin) for one in study.figures.values())
    html = study._repr_html_()
    assert is_contained(html)
    assert study.answer.split(".")[0] in html
    assert [claim.id for claim in study.claims] == re.findall(r"<td>(G\d)</td>", html)
    assert "test accuracy" in drawn(html)


def test_a_scoreboard_has_the_figures_of_its_studies(study: Study) -> None:
    board = Scoreboard.of([study], [], "command")
    assert list(board.figures) == [f"gutstein: {name}" for name in study.figures]
    assert is_contained(board._repr_html_())
    assert "<td>G1</td>" in board._repr_html_()


def test_advice_shows_its_options_and_what_each_layer_is_worth() -> None:
    option = Considered("linear probe", "linear probe", "F*R", "FFFR", 0.01, (), 0.91, 0.0, 0.8, 3, 1e9)
    other = Considered(HOSTILE, "tune", "T*R", "TTTR", 0.01, (), 0.8, 0.01, 0.2, 2, 2e9)
    reasons = (
        Reason("C1", "useful", 0.5, 0.2, (0.1, 0.3)),
        Reason("C2", "redundant", 0.6, 0.1, (0.0, 0.2)),
        Reason("C3", "unknown", None, None, None),
    )
    found = Advice(
        "small@w.safetensors", ("C1", "C2", "C3", "F"), "layer", {}, (option, other), (0.85, 0.95), 0.9, reasons, (),
        {"exhaustive": 1e12, "spent": 1e11}, (), {},
    )  # fmt: skip
    html = found._repr_html_()
    assert is_contained(html)
    assert re.findall(r"<td>([\d.]+%)</td>", html) == ["91.0%", "80.0%", "80.0%", "20.0%"]
    assert list(found.rows["treatment"]) == ["F*R", "T*R"]
    assert list(found.figures) == [figure.title for figure in advice_figures(found.as_json)]
    assert len(found.figures) == 3  # options, their cost, what each layer is worth
    assert "linear probe" in drawn(html)
    assert "<script" not in drawn(html)


def adapted(tested: bool) -> AdaptedNet:
    """A net of three classes, right in three of four test images."""
    chances = np.eye(3)[[0, 1, 1, 2]] * 0.8 + 0.05
    test = asdict(measured(chances, np.array([0, 1, 2, 2]))) if tested else None
    classes = ("cat", HOSTILE, "emu")
    learnt = Learnt(
        "pets", 0, classes, "F*R", "FFFFFR", "layer", (), (), 0, "0" * 16, {"name": "pets"}, test, (), "", ""
    )  # fmt: skip
    how = Preprocessing(1, 32, 32, 32, True, (0.5,), (0.5,))
    described = Described("lenet5", None, ("C1",), how, (learnt,), {})
    return AdaptedNet(build("lenet5", (1, 32, 32), 3, 0), described, learnt)


def test_an_adapted_net_shows_how_good_it_is() -> None:
    net = adapted(tested=True)
    assert net.answer.startswith("F*R: 75.0% of 4 test images right (90% interval ")
    assert net.rows.to_dict("list") == {
        "class": ["cat", HOSTILE, "emu"], "support": [1, 1, 2], "recall": [1.0, 1.0, 0.5], "precision": [1.0, 0.5, 1.0]
    }  # fmt: skip
    (figure,) = net.figures.values()
    cells = figure.to_dict()["datasets"].popitem()[1]
    assert [(one["class"], one["predicted"]) for one in cells if one["class"] == "emu" and one["images"]] == [
        ("emu", HOSTILE), ("emu", "emu")
    ]  # fmt: skip
    html = net._repr_html_()
    assert is_contained(html)
    assert "lenet5, F*R: 75.0% of 4 test images right" in html
    assert "predicted class" in drawn(html)


def test_an_adapted_net_without_test_images_says_so() -> None:
    net = adapted(tested=False)
    assert net.answer == "F*R: trained on all images, so its accuracy on others is not known"
    assert net.figures == {}
    assert list(net.rows["class"]) == ["cat", HOSTILE, "emu"]
    assert net.rows["recall"].isna().all()
    assert "its accuracy on others is not known." in net._repr_html_()


def test_a_plan_has_no_figures_yet(tmp_path: Path) -> None:
    planned = Study("gutstein", pd.DataFrame(), (), {"runs": [], "totals": {}, "notes": [], "provenance": {}})
    assert planned.figures == {}
