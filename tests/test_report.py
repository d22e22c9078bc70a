"""The report: what it shows equals what is in the rows, and no text of a user's becomes code.

All rows here are made up by a formula, for tests only: they are nobody's measurements.
"""

import base64
import gzip
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import vl_convert
from PIL import Image

from layerwise.claims import HOW, by_category, interval
from layerwise.report import Figure, Report, figures, words, write_report
from layerwise.report.advice import render_advice
from layerwise.report.costs import cost, costs_of, forecast, frontier
from layerwise.report.figures import OKABE_ITO, VIRIDIS, gap, learning, levels, palette
from layerwise.report.page import packed, spec, table_json
from layerwise.report.probe import MOST_ROWS, by_step, render_probe, scatter
from layerwise.report.strip import Known, Lane, Strip, nothing_known, tiles
from layerwise.report.study import render_study
from layerwise.report.summary import changes, ends, over_clusters
from layerwise.report.thumbnails import cut, sheet
from layerwise.report.transfer_strip import strip
from layerwise.rows import frame, read

from made_up import (
    HOSTILE,
    LAYERS,
    QUANTITIES,
    made_up_accuracy,
    made_up_advice,
    made_up_claims,
    made_up_plan,
    made_up_probe,
    made_up_report,
    made_up_rows,
)


class Page(HTMLParser):
    """The elements of a page, the text of its scripts, and the text a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        elif not self.inside:
            self.text += data

    @property
    def data(self) -> dict:
        return json.loads(gzip.decompress(base64.b64decode(self.scripts[0])))


@pytest.fixture
def html(tmp_path: Path) -> str:
    write_report(tmp_path / "report.html", made_up_report(made_up_rows()))
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_says_the_answer_the_findings_the_notes_and_each_verdict(html):
    text = " ".join(Page(html).text.split())
    for part in ("The answer plain", "first plain", "second", "third", "note plain", "layerwise study gutstein plain"):
        assert part in text
    for claim in made_up_claims():
        assert f"{claim['id']} {claim['statement']}" in text
    assert (
        "+3.2 points 95 %: +1.1 to +5.3 4 pairs, 6 class splits the paper: +1.0 points (its table 2) ✓ reproduced "
        "outlasts the correction: p 0.020, corrected 0.030"
    ) in text
    assert (
        "−2.0 points 95 %: −3.0 to −1.0 4 pairs, 6 class splits ✗ contradicted does not outlast the correction: "
        "p 0.020, corrected 0.060"
    ) in text
    assert "12.5 steps 95 %: −3 to 28 4 pairs, 6 class splits ? undecided The bars" in text
    assert "rule of T2" in text
    assert all(f"{name} {rule}" in text for name, rule in HOW.items())


def test_a_claim_leads_to_the_figure_that_names_it(html):
    links = [attributes["href"] for tag, attributes in Page(html).elements if tag == "a"]
    assert [link for link in links if link.startswith("#figure")] == ["#figure-0"]


def test_sections_are_those_that_have_something_in_them(tmp_path):
    """A study without a grid of n has no strip; one with looks at layers has them under a heading of their own."""
    rows = made_up_rows()
    report = made_up_report(rows)
    inside = replace(report.figures[2], section="inside")
    bare = replace(report, figures=(inside,), rows=rows.assign(trial=pd.NA).astype(rows.dtypes))
    write_report(tmp_path / "report.html", bare)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    sections = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert sections == ["answer", "claims", "inside", "cost", "verdicts", "runs", "remake"]
    linked = [attributes["href"][1:] for tag, attributes in page.elements if tag == "a" and "href" in attributes]
    assert [name for name in linked if name in sections][:7] == sections
    with pytest.raises(
        ValueError, match="a figure is in section 'elsewhere'; sections: levels, learning, inside, cost"
    ):
        write_report(tmp_path / "report.html", replace(report, figures=(replace(inside, section="elsewhere"),)))


def test_the_answer_stands_before_claims_and_claims_before_runs(html):
    names = ("answer", "levels", "claims", "learning", "cost", "verdicts", "runs", "remake")
    places = [html.index(f'id="{name}"') for name in names]
    assert places == sorted(places)


def test_hostile_names_stay_text_everywhere(tmp_path):
    rows = made_up_rows(data=HOSTILE)
    rows["target_task"] = rows["target_task"].where(rows["target_task"] != "new0", HOSTILE)
    rows["layer"] = rows["layer"].where(rows["layer"] != "C3", HOSTILE)
    table = pd.DataFrame({HOSTILE: [HOSTILE], "n": [1]})
    report = made_up_report(rows, HOSTILE)
    figure = Figure(HOSTILE, HOSTILE, report.figures[0].chart, table)
    claims = [{key: HOSTILE if isinstance(value, str) else value for key, value in report.claims[0].items()}]
    hostile = Report(HOSTILE, HOSTILE, (HOSTILE,), rows, claims, (*report.figures, figure), report.plan,
                     report.provenance, (HOSTILE,), HOSTILE)  # fmt: skip
    write_report(tmp_path / "report.html", hostile)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == [{"type": "application/gzip", "id": "report-data"}, {}, {}]
    assert [tag for tag, _ in page.elements if tag == "img"] == []
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert HOSTILE in page.text
    assert page.data["tables"]["figure-4"]["rows"] == [[HOSTILE, 1]]
    assert HOSTILE in {run[8] for run in page.data["tables"]["runs"]["rows"]}


def test_a_string_cannot_end_the_data_block():
    block = packed({"a": HOSTILE + "<!--"})
    assert not set("<>&") & set(block)
    assert json.loads(gzip.decompress(base64.b64decode(block))) == {"a": HOSTILE + "<!--"}


def test_nothing_is_loaded_and_only_the_two_scripts_may_run(html):
    page = Page(html)
    loads = [value for _, attributes in page.elements for name, value in attributes.items() if name in ("src", "href")]
    assert all(load.startswith("#") for load in loads)
    assert "@import" not in html.split("</style>")[0]
    assert "url(" not in html.split("</style>")[0]
    assert not re.search(r"https?://", json.dumps(page.data))
    policy = next(attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.count("'sha256-") == 2
    assert "unsafe-eval" not in policy


def test_the_file_is_under_3_mb_with_5000_runs(tmp_path):
    rows = made_up_rows()
    report = made_up_report(rows)
    run = report.plan["runs"][0]
    plan = {**report.plan, "runs": [{**run, "key": f"{i:016x}"} for i in range(5000)]}
    write_report(tmp_path / "report.html", Report(**{**vars(report), "plan": plan}))
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def made_up_large_probe() -> tuple[pd.DataFrame, dict]:
    """Rows and plan of 20 layers, 200 classes: 16 quantities of each class, 8 of each pair of layers, 2 embeddings."""
    chance = np.random.default_rng(0)
    layers, classes = [f"stage{k}.conv" for k in range(20)], [f"class number {k}" for k in range(200)]
    same = {"study": "probe", "net": "net", "group": "all", "treatment": "F*", "seed": 0}
    of_class = {f"{name} of class": "by_class" for name in "abcdefghijklmnop"}
    of_pair = {f"{name} of pair": "pairs" for name in "abcdefgh"}
    forms = {"accuracy": "by_layer", **of_class, **of_pair, "pca": "scatter", "tsne": "scatter"}
    found = []
    for layer in layers:
        at = {**same, "layer": layer}
        drawn = iter(chance.random(100_000).tolist())
        found.append({**at, "quantity": "accuracy", "value": next(drawn)})
        for name in of_class:
            for one in classes:
                value, width = next(drawn), next(drawn)
                found.append({**at, "quantity": name, "class_name": one, "value": value,
                              "low": value - width, "high": value + width})  # fmt: skip
        for name in of_pair:
            pair = {**at, "quantity": name, "other_net": "net"}
            found += [{**pair, "other_layer": other, "value": next(drawn)} for other in layers]
        for name in ("pca", "tsne"):
            for unit in range(600):
                point = {**at, "quantity": name, "class_name": classes[unit % 200], "unit": unit}
                found += [{**point, "part": part, "value": next(drawn)} for part in ("first", "second")]
    told = {"section": "classes", "unit": "number", "tells": "What.", "misleads": "when.", "source": "made up"}
    quantities = {name: {**told, "form": form, "title": name} for name, form in forms.items()}
    plan = {"quantities": quantities, "layers": layers, "net": "net", "notes": [], "failures": [], "facts": [],
            "provenance": {}, "captions": {}}  # fmt: skip
    return frame(found), plan


def test_a_probe_of_20_layers_and_200_classes_is_under_3_mb():
    rows, plan = made_up_large_probe()
    html = render_probe("The answer.", (), rows, pd.DataFrame({"layer": plan["layers"]}), {}, plan)
    page = Page(html)
    assert len(html) < 3_000_000
    shown = page.data["tables"]["rows"]["rows"]
    assert len(shown) == 20
    told = f"{len(rows) - 20:,} more rows, of single units, images, classes or pairs of layers, are only in rows.csv"
    assert told in " ".join(page.text.split())
    few = rows[rows["quantity"] == "a of class"]
    page = Page(render_probe("The answer.", (), few, pd.DataFrame({"layer": []}), {}, plan))
    assert len(page.data["tables"]["rows"]["rows"]) == len(few) <= MOST_ROWS
    assert "only in rows.csv" not in page.text


def test_what_a_figure_draws_and_tells_is_held_once():
    """A chart's data are the name of its figure's table; thumbnails, which several charts draw, stand there once."""
    data = Page(made_up_probe()).data
    held = list(data["datasets"].values())
    tables = [name for name in held if isinstance(name, str)]
    assert "figure-0" in tables
    assert len(tables) == len(set(tables)) == len(data["charts"])
    pictures = [records for records in held if not isinstance(records, str)]
    assert [list(records[0]) for records in pictures] == [["unit", "image"]]
    assert len({name for chart in data["charts"] for name in chart["datasets"]}) == len(held)


def test_a_mean_is_over_class_splits_after_the_trials_of_each_are_averaged():
    table = pd.DataFrame({"cluster": ["a", "a", "a", "b"], "seed": [0, 0, 0, 1], "trial": [0, 1, 2, 0], "n": 2})
    table["value"] = [0.1, 0.2, 0.3, 0.6]
    (row,) = over_clusters(table, ["n"]).to_dict("records")
    low, high = interval([0.2, 0.6], 0.95)
    assert row["mean"] == pytest.approx(0.4)
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    assert (row["minimum"], row["maximum"], row["clusters"], row["trials"]) == (0.1, 0.6, 2, 4)
    assert row["interval"] == "95 % over 2 class splits"


def test_tasks_of_one_class_split_are_no_repetitions():
    """Two splits of two tasks each, as in a lifetime or in two directions: Student's t has one degree of freedom."""
    table = pd.DataFrame({"cluster": ["s", "s", "t", "t"], "seed": [0, 0, 1, 1], "trial": 0, "n": 2})
    table = table.assign(target_task=["a", "b", "c", "d"], value=[0.1, 0.3, 0.5, 0.7])
    (row,) = over_clusters(table, ["n"]).to_dict("records")
    assert (row["mean"], row["clusters"], row["trials"]) == (pytest.approx(0.4), 2, 4)
    assert (row["low"], row["high"]) == pytest.approx((0.4 - 12.706205 * 0.2, 0.4 + 12.706205 * 0.2))
    (alone,) = over_clusters(table[:2], ["n"]).to_dict("records")
    assert (alone["low"], alone["interval"]) == (None, "none: one trial, given one source")


def test_whiskers_of_costs_are_over_class_splits_too():
    rows = made_up_rows()
    other = rows[rows["trial"].notna()].assign(run_key=lambda t: "b-" + t["run_key"], target_task="another")
    both = costs_of(pd.concat([rows, other], ignore_index=True), [])
    alone = costs_of(rows, [])
    assert both["clusters"].tolist() == [2] * len(both)
    assert both[["low", "high"]].to_numpy() == pytest.approx(alone[["low", "high"]].to_numpy())


def test_tables_from_before_clusters_had_a_column_count_by_seed(tmp_path):
    rows = made_up_rows()
    rows.drop(columns="cluster").to_parquet(tmp_path / "rows.parquet")
    found = levels(read(tmp_path)).table
    assert found.equals(levels(rows).table)


def test_one_class_split_is_labelled_given_one_source():
    rows = made_up_rows(seeds=1)
    figure = levels(rows)
    low, high = interval([0.25, 0.252], 0.95)
    first = figure.table.iloc[0]
    assert (first["low"], first["high"]) == pytest.approx((low, high))
    assert set(figure.table["interval"]) == {"95 % over 2 trials, given one source"}
    assert "given one source" in figure.caption
    assert "given one source" not in levels(made_up_rows(seeds=2)).caption
    assert words.bounds(made_up_claims(clusters=1)[0]) == "95 %: +1.1 to +5.3, given one source"


def test_one_run_has_no_interval():
    figure = levels(made_up_rows(seeds=1, trials=1))
    assert figure.table["low"].isna().all()
    assert figure.caption.endswith("One trial each, given one source: no interval.")


def test_the_embedded_data_of_levels_are_the_means_by_hand(html):
    data = Page(html).data
    (name,) = data["charts"][0]["datasets"]
    points = data["datasets"][name]
    assert len(points) == 12
    for point in points:
        n, shots = point["n"], int(point["shots"])
        by_hand = sum(made_up_accuracy(n, shots, seed, trial, 100) for seed in (0, 1) for trial in (0, 1)) / 4
        assert point["test_accuracy"] == pytest.approx(by_hand)
        assert point["kept"] == ["0", "1 C1", "2 S2", "3 C3", "4 S4", "5 C5"][n]
    columns = [column["name"] for column in data["tables"]["figure-0"]["columns"]]
    row = data["tables"]["figure-0"]["rows"][0]
    assert dict(zip(columns, row, strict=True))["test_accuracy"] == pytest.approx(points[0]["test_accuracy"])


def test_levels_at_one_number_of_samples_shows_the_extremes_of_all_trials():
    table = levels(made_up_rows(), 10).table.set_index("n")
    for n in range(6):
        assert table.loc[n, "minimum"] == pytest.approx(made_up_accuracy(n, 10, 0, 0, 100))
        assert table.loc[n, "maximum"] == pytest.approx(made_up_accuracy(n, 10, 1, 1, 100))


def test_learning_has_each_step_and_the_gap_is_training_minus_test():
    table = learning(made_up_rows(), 1).table
    assert sorted(set(table["step"])) == [50, 100]
    early = table[(table["n"] == 3) & (table["step"] == 50)]["test_accuracy"].item()
    assert early == pytest.approx(0.2 + 0.06 + 0.005 + 0.001 + 0.025)
    gaps = gap(made_up_rows()).table
    assert gaps["gap"].tolist() == pytest.approx([0.3 - 0.04 * n for n in gaps["n"]])


def test_source_nets_are_in_no_figure_but_in_the_run_table(html):
    assert not ends(made_up_rows())["run_key"].str.startswith("source").any()
    table = Page(html).data["tables"]["runs"]
    source = next(row for row in table["rows"] if row[0] == "source0")
    names = [column["name"] for column in table["columns"]]
    assert source[names.index("trial")] is None
    assert source[names.index("test_accuracy")] == 0.99


def test_changes_are_paired_with_the_base_of_the_same_split_seed_trial_and_samples():
    found = changes(ends(made_up_rows()))
    assert found["value"].tolist() == pytest.approx([0.02 * n for n in found["n"]])
    assert len(found) == 5 * 2 * 2 * 2


def test_the_strip_has_a_bar_per_layer_kept_and_none_for_the_head():
    found = strip(made_up_rows())
    assert [(tile.name, tile.parameters) for tile in found.tiles] == list(LAYERS.items())
    assert [lane.title for lane in found.lanes] == ["General", "General"]
    assert [lane.tells.split(", ")[1] for lane in found.lanes] == ["1 sample per class", "10 samples per class"]
    *bars, head = found.lanes[0].cells
    assert [bar.value for bar in bars] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert head == "fresh"
    rows = made_up_rows()
    assert strip(rows[rows["layer"].isna()]) is None


def test_the_strip_leaves_out_treatments_that_are_not_kept_then_fresh():
    rows = made_up_rows()
    mixed = rows[rows["n"] == 2].assign(treatment="FTR", value=0.9)
    mixed["run_key"] = "mixed-" + mixed["run_key"]
    assert strip(pd.concat([rows, mixed], ignore_index=True)) == strip(rows)


def test_copied_and_tuned_layers_have_a_lane_of_their_own():
    rows = made_up_rows()
    tuned = rows[rows["n"] == 2].assign(treatment="T2R", value=0.9)
    tuned["run_key"] = "tuned-" + tuned["run_key"]
    *others, last = strip(pd.concat([rows, tuned], ignore_index=True)).lanes
    assert tuple(others) == strip(rows).lanes
    assert [getattr(cell, "value", cell) for cell in last.cells[2:]] == ["unknown"] * 3 + ["fresh"]
    assert last.cells[1].value == pytest.approx(0.9 - made_up_accuracy(0, 1, 0, 0, 100) - 0.006)  # of seeds and trials


def test_the_strip_is_of_an_experiment_in_which_n_says_what_was_done():
    """Copies from the own half (BnB) and from the other (AnB) are both F3R: no bar is the mean of the two."""
    rows = made_up_rows()
    both = pd.concat([rows, rows[rows["n"] > 0].assign(value=0.9)], ignore_index=True)
    both["run_key"] = both["run_key"].where(~both.index.isin(range(len(rows), len(both))), "b-" + both["run_key"])
    assert strip(both) is None
    apart = pd.concat([both[both["run_key"].notna()].assign(experiment="halves"), rows], ignore_index=True)
    assert strip(apart) == strip(rows)


def test_a_strip_says_what_to_do_by_its_rule_and_what_is_unknown():
    """Kept layers gain surely at every n; where seeds disagree nothing is sure; where they lose, a layer is fresh."""
    assert [tile.deed.text for tile in strip(made_up_rows()).tiles] == [*["freeze"] * 5, "fresh"]
    assert list(strip(made_up_rows()).lacking) == ["Fragile", "Specific"]
    rows = made_up_rows()
    kept = (rows["n"] > 0) & (rows["quantity"] == "accuracy")
    sign = rows["seed"].map({0: 1.0, 1: -1.0})
    torn = rows.assign(value=rows["value"].where(~kept, rows["value"] + sign))
    assert [tile.deed.letters for tile in strip(torn).tiles] == [*"?????", "R"]
    worse = rows.assign(value=rows["value"].where(~kept, rows["value"] - 0.3))
    assert [tile.deed.letters for tile in strip(worse).tiles] == [*"RRRRRR"]
    some = strip(rows[~rows["n"].isin([2])])
    assert some.lanes[0].cells[1] == "unknown"
    assert some.tiles[1].deed.text == "unknown"


def test_a_study_of_lesions_has_a_strip_of_what_each_layer_brings():
    """Whole nets reach 0.8 and 0.9; without the first layer 0.2 less, without the second 0.1 more, the third mixed."""
    lesions = {"111": (0.8, 0.9), "011": (0.6, 0.7), "101": (0.9, 1.0), "110": (0.7, 1.0), "001": (0.1, 0.1)}
    same = {"net": "small", "quantity": "accuracy", "split": "test", "source_task": "s", "seed": 0, "trial": 0}
    found = [{"net": "small", "layer": layer, "quantity": "parameters", "value": 10} for layer in "abc"]
    for mask, values in lesions.items():
        for target, value in enumerate(values):
            of = {"run_key": f"{mask}{target}", "cluster": str(target), "target_task": str(target), "step": 5,
                  "class_name": str(target), "other_class": f"of {target}"}  # fmt: skip
            found.append({**same, **of, "condition": f"lesion {mask}", "value": value})
    made = strip(frame(found))
    assert [cell.value for cell in made.lanes[0].cells] == pytest.approx([0.2, -0.1, 0.0])
    assert [tile.deed.text for tile in made.tiles] == ["tune", "fresh", "unknown"]


def test_lesions_of_pairs_that_go_round_are_counted_by_category():
    """Bug: six pairs in which each category is a source and a target were six independent clusters."""
    gains = [0.1, 0.3, 0.2, 0.5, 0.1, 0.4]
    same = {"net": "small", "quantity": "accuracy", "split": "test", "seed": 0, "trial": 0, "step": 5}
    found = [{"net": "small", "layer": layer, "quantity": "parameters", "value": 10} for layer in "ab"]
    for target, gain in enumerate(gains):
        source = (target + 1) % 6
        tasks = {"target_task": f"{target}", "source_task": f"{source}", "cluster": f"{target}"}
        tasks.update({"class_name": f"{target}", "other_class": f"{source}"})
        for mask, value in (("11", 0.9), ("01", 0.9 - gain), ("10", 0.9)):
            name = f"lesion {mask}"
            found.append({**same, **tasks, "run_key": f"{mask}{target}", "condition": name, "value": value})
    cell = strip(frame(found)).lanes[0].cells[0]
    pairs = pd.MultiIndex.from_tuples([(str((k + 1) % 6), str(k)) for k in range(6)])
    wanted = by_category(pd.Series(gains, pairs), 0.95)
    assert cell.value == pytest.approx(wanted.estimate)
    assert (cell.low, cell.high) == pytest.approx(wanted.bounds)
    assert (cell.low, cell.high) != pytest.approx(interval(gains, 0.95))


def test_bars_of_a_strip_stand_on_one_scale():
    """From −0.3 to 0.1 by hand: zero is a quarter down; a loss of 0.2 takes half the height, its interval all below."""
    cells = (Known(0.1), Known(-0.2, -0.3, -0.1), "unknown")
    found = Strip(tiles("abc", nothing_known("abc")), (Lane("General", "told", cells, more_is_worse=True),), "rule")
    (_, (gain,)), (_, (loss,)), (_, (nothing,)) = found.drawn
    assert (gain.zero, gain.top, gain.height) == pytest.approx((25, 0, 25))
    assert (loss.top, loss.height, loss.whisker_top, loss.whisker_height) == pytest.approx((25, 50, 50, 50))
    assert (gain.text, gain.bounds, loss.text, loss.bounds) == ("+10.0", "", "−20.0", "−30.0 to −10.0")
    assert (gain.is_good, loss.is_good, loss.label, nothing) == (False, True, 100, "unknown")
    wider = replace(found, beside=(Lane("General", "told", (Known(0.5),)),))
    assert wider.drawn[0][1][0].height == pytest.approx(100 * 0.1 / 0.8)  # from −0.3 to 0.5 now
    assert found.is_upright is False
    long = [f"layer{k}.conv1" for k in range(6)]
    assert Strip(tiles(long, nothing_known(long)), (), "rule").is_upright
    assert not Strip(tiles(long[:5], nothing_known(long[:5])), (), "rule").is_upright


def test_the_frontier_is_what_nothing_cheaper_matches():
    assert frontier([3, 1, 2, 4], [0.6, 0.5, 0.4, 0.6]) == [True, True, False, False]


def by_task(table: pd.DataFrame, which: str) -> dict[str, list[int]]:
    """The n on each task's frontier."""
    best = table[table[which]]
    return {task: sorted(part["n"].tolist()) for task, part in best.groupby("task")}


def test_costs_are_compared_within_a_task_only():
    """In the made-up rows more layers cost fewer FLOPs and bring more: n = 5 is the best buy of either task.

    Seconds, here 1 + n, rise with what they bring: every n is a best buy.
    """
    rows = made_up_rows()
    runs = [{"key": key, "seconds": 1.0 + int(key[1])} for key in rows["run_key"].dropna().unique() if key[0] == "n"]
    table = costs_of(rows, runs)
    assert set(table["task"]) == {"1 sample per class", "10 samples per class"}
    assert by_task(table, "best_by_train_flops") == {"1 sample per class": [5], "10 samples per class": [5]}
    assert by_task(table, "best_by_seconds") == {task: list(range(6)) for task in set(table["task"])}
    (row,) = table[(table["n"] == 3) & (table["task"] == "10 samples per class")].to_dict("records")
    by_hand = sum(made_up_accuracy(3, 10, seed, trial, 100) for seed in (0, 1) for trial in (0, 1)) / 4
    assert row["test_accuracy"] == pytest.approx(by_hand)
    assert (row["train_flops"], row["seconds"], row["parameters_trained"]) == (3e10, 4.0, 51_956)
    assert (row["condition"], row["clusters"], row["trials"]) == ("F3R", 2, 4)


def test_costs_without_samples_n_or_seconds():
    """Other studies have other columns: a lesion has no n, and a stored run of old may lack its seconds."""
    rows = made_up_rows().assign(condition="lesion", shots=pd.NA, n=pd.NA, seed=pd.NA).astype(made_up_rows().dtypes)
    extra = rows[rows["quantity"] == "accuracy"].assign(class_name="a", value=0.0)  # of one class, not of the net
    table = costs_of(pd.concat([rows, extra], ignore_index=True), [])
    assert table[["task", "condition"]].to_numpy().tolist() == [["all", "lesion"]]
    assert table["n"].isna().all()
    assert not table["best_by_seconds"].any()
    assert table["best_by_train_flops"].all()
    assert "seconds" not in json.dumps(cost(rows, []).chart.to_dict()["params"])
    assert cost(rows[rows["trial"].isna()], []) is None
    assert cost(rows[rows["quantity"] == "accuracy"], []) is None


def test_nets_that_tell_one_class_from_the_others_have_costs_too():
    rows = made_up_rows()
    named = rows.assign(class_name=rows["cluster"])
    pd.testing.assert_frame_equal(costs_of(named, []), costs_of(rows, []))


def test_tasks_to_choose_from_stand_in_the_order_of_their_numbers():
    (chosen,) = [
        p for p in cost(made_up_rows(shots=(1, 5, 10)), []).chart.to_dict()["params"] if p["name"] == "task_shown"
    ]
    assert chosen["bind"]["options"] == ["1 sample per class", "5 samples per class", "10 samples per class"]


def test_costs_with_many_conditions_name_those_on_the_frontier_only():
    rows = pd.concat([made_up_rows().assign(condition=f"lesion {k}") for k in range(24)], ignore_index=True)
    rows["run_key"] = rows["run_key"] + "-" + rows["condition"]
    chart = cost(rows, [], "category").chart.to_dict()
    whiskers, line, labels = chart["layer"][1:]
    assert labels["mark"]["type"] == "text"
    assert labels["transform"][-1] == line["transform"][-1] == {"filter": "datum.best_buy"}
    assert whiskers["mark"]["type"] == "rule"
    (points,) = chart["datasets"].values()
    assert {point["interval"] for point in points} == {"95 % over 2 categories"}
    assert {point["label"] for point in points if point["best_buy"]} <= {
        f"lesion {k} {n}" for k in range(24) for n in range(6)
    }


def test_the_forecast_is_shown_against_what_runs_took():
    rows = made_up_rows()
    table = forecast(made_up_plan(rows)["runs"]).table
    assert set(table["forecast_seconds"]) == {1.5}
    assert set(table["seconds"]) == {2.0}
    assert table["runs"].sum() == len(made_up_plan(rows)["runs"])
    assert forecast([{"treatment": "R6", "shots": 1, "seconds": None, "forecast_seconds": 1.0}]) is None


def test_unknown_values_are_null_in_the_tables():
    table = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [float("nan"), 0.5], "c": ["x", None]})
    assert table_json(table)["rows"] == [[1, None, "x"], [None, 0.5, None]]


def parts_of(value):
    """Every mapping within a chart."""
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from parts_of(part)
    elif isinstance(value, list):
        for part in value:
            yield from parts_of(part)


def test_every_chart_has_colours_that_are_told_apart_by_all():
    """Classes of embeddings were in tableau20, of which some colours look alike to some readers, and of one shape."""
    report = made_up_report(made_up_rows())
    pages = [made_up_probe(), render_advice(made_up_advice().as_json, Path("advice.json")), render_study(report)]
    ours = {f"var(--c-{colour[1:].lower()}, {colour})" for colour in (*OKABE_ITO, *VIRIDIS)}
    coloured = 0
    for page in pages:
        for part in parts_of(Page(page).data["charts"]):
            assert part.get("scheme", "viridis") == "viridis"
            for name in {"color", "fill", "stroke"} & {name for name in part if isinstance(part[name], dict)}:
                if "field" not in part[name]:
                    continue
                scale, coloured = part[name]["scale"], coloured + 1
                assert scale.get("scheme") == "viridis" or set(scale["range"]) <= ours
    assert coloured > 10
    sources = [path.read_text(encoding="utf-8") for path in Path(figures.__file__).parents[1].rglob("*.py")]
    named = [name for source in sources for name in re.findall(r"scheme=\W*(\w+)", source)]
    assert set(named) == {"viridis"}


def test_classes_of_an_embedding_have_a_colour_with_a_shape_and_groups_are_filled_or_hollow():
    classes = [f"c{k:02}" for k in range(48)]
    rows = frame(
        {"layer": "conv", "quantity": "tsne", "unit": k, "class_name": name, "part": part, "value": k / 7,
         "group": ("known", "unknown")[k % 2]}
        for k, name in enumerate(classes) for part in ("first", "second")
    )  # fmt: skip
    (figure,) = scatter(rows, QUANTITIES["tsne"], ["conv"])
    seen = figure.chart.to_dict()["layer"][0]["encoding"]
    looks = {name: seen[name]["scale"] for name in ("stroke", "fill", "shape")}
    assert all(scale["domain"] == classes for scale in looks.values())
    assert looks["stroke"]["range"] == looks["fill"]["range"]
    assert len(set(zip(looks["fill"]["range"], looks["shape"]["range"], strict=True))) == 48
    assert seen["fillOpacity"]["field"] == "group"
    assert seen["fillOpacity"]["scale"] == {"domain": ["known", "unknown"], "range": [1, 0]}
    assert "Filled: known classes; hollow: unknown." in figure.caption


def test_colours_are_distinct_for_up_to_eight_ordered_series():
    for count in range(1, 9):
        assert len(set(palette(count))) == count


def test_a_report_with_nothing_but_a_plan_can_be_written(tmp_path):
    plan = {"runs": [], "totals": {"runs": 0, "stored": 0, "missing": 0}}
    empty = Report("Nothing yet", "Nothing was run.", (), frame([]), [], (), plan, {}, ())
    write_report(tmp_path / "report.html", empty)
    assert "This study tests no claim." in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_every_figure_is_drawn_in_a_browser_without_errors(tmp_path, drawn):
    path = tmp_path / "report.html"
    write_report(path, made_up_report(made_up_rows()))
    page = Page(drawn(path))
    charts = [attributes for _, attributes in page.elements if "data-chart" in attributes]
    assert len(charts) == 6
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert sum(tag == "svg" for tag, _ in page.elements) == 6
    assert next(attributes for tag, attributes in page.elements if tag == "html")["class"] == "drawn"


def test_a_click_in_the_legend_reaches_the_lines():
    """Vega-Lite makes the legend from the first layer: a selection defined in another left it deaf, and pale."""
    rows = made_up_rows()
    for figure, field in ((levels(rows), "shots"), (gap(rows), "shots"), (cost(rows, []), "condition")):
        chart = vl_convert.vegalite_to_vega(spec(figure.chart))
        (legend,) = chart["legends"]
        assert legend["encode"]["symbols"]["interactive"] is True
        assert legend["encode"]["symbols"]["name"] == f"{field}_legend_symbols"
        faded = json.dumps(legend["encode"]["symbols"]["update"]["opacity"])
        assert "0.13" not in faded


def test_thumbnails_are_cut_from_their_sheet_by_number():
    """45 pictures, each of one shade: the second row of the sheet begins with the 41st."""
    shades = np.arange(45, dtype=np.uint8)[:, None, None, None] * np.full((1, 1, 30, 20), 5, np.uint8)
    found = cut(sheet(shades), range(100, 145))
    for number in (100, 139, 140, 144):
        content = base64.b64decode(found[number].removeprefix("data:image/png;base64,"))
        image = np.asarray(Image.open(io.BytesIO(content)))
        assert image.shape == (24, 24)
        assert (image == 5 * (number - 100)).all()


def test_each_part_of_a_layer_has_a_figure_of_its_own_by_step():
    """Weights and biases were one line, which went from one to the other and back at every step."""
    told = QUANTITIES["distance"]
    rows = frame(
        {"layer": layer, "quantity": "distance", "part": part, "step": step, "value": step * times}
        for layer in ("conv1", "head") for part, times in (("weights", 1.0), ("biases", 9.0)) for step in (0, 10, 20)
    )  # fmt: skip
    weights, biases = by_step(rows, told, ["conv1", "head"])
    assert (weights.title, biases.title) == ("distance, of weights", "distance, of biases")
    assert ("when it does." in weights.caption, biases.caption) == (True, "As before.")
    for figure, part, values in ((weights, "weights", [0, 10, 20]), (biases, "biases", [0, 90, 180])):
        assert set(figure.table["part"]) == {part}
        for _, line in figure.table.groupby("layer"):
            assert line["value"].tolist() == values
    (alone,) = by_step(rows[rows["part"] == "weights"], told, ["conv1", "head"])
    assert alone.title == "distance"
