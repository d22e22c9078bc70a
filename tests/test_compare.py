"""Reports of advice and of two things side by side: what they say is what was found, and differences are said."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import altair as alt
import pandas as pd
import pytest

from layerwise.advising.advice import load_advice
from layerwise.comparing import compare
from layerwise.errors import StudyError
from layerwise.report.advice import commands, options, strip
from layerwise.report.compare import Side, answer, both_claims, differences, paired, settings
from layerwise.report.figures import Figure, levels
from layerwise.report.transfer_strip import strip as transfer_strip

from made_up import LAYERS, made_up_advice, made_up_claims, made_up_rows


def test_the_strip_of_an_advice_has_what_is_done_and_why() -> None:
    found = strip(made_up_advice().as_json)
    assert [tile.deed.text for tile in found.tiles] == ["freeze", "freeze", "freeze", "fresh"]
    (lane,) = found.lanes
    assert [getattr(cell, "word", cell) for cell in lane.cells] == ["useful", "harmful", "unknown", "new head"]
    assert list(found.lacking) == ["Fragile", "Specific"]
    staged = made_up_advice().as_json
    staged["recommended"] = {**staged["recommended"], "treatment": "FFFR > TTTT",
                             "recipes": [{"layer_rates": []}, {"layer_rates": [0.5, 1.0, 2.0, 1.0]}]}  # fmt: skip
    told = [(tile.deed.text, tile.deed.note) for tile in strip(staged).tiles]
    assert told[0] == ("freeze, then tune", "rate ×0.5")
    assert told[3] == ("fresh, then tune", "rate ×1")


def test_commands_are_of_the_recommended_option_and_of_the_best_of_other_treatments() -> None:
    told = made_up_advice().as_json
    found = list(commands(told, Path("out/advice.json")))
    words = "layerwise adapt lenet5@weights.safetensors 'folder:my photos' --resize 32 --advice out/advice.json"
    assert [command for _, command in found] == [words, f"{words} --option 4", f"{words} --option 7"]
    table = options(told)
    assert table.loc[3, "treatment"] == "FFTR"
    assert table["option"].tolist() == list(range(1, 10))


def test_advice_is_kept_whole_and_writes_its_report(tmp_path: Path) -> None:
    advice = made_up_advice()
    advice.save(tmp_path)
    assert load_advice(tmp_path / "advice.json") == advice
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    text = " ".join(re.sub("<[^>]*>", " ", html).replace("\N{NO-BREAK SPACE}", " ").split())
    for told in (advice.answer, *advice.findings):
        assert told.replace("\N{NO-BREAK SPACE}", " ") in text
    assert "Freeze C1 to C5, train F6 afresh (linear probe, FFFR), at a learning rate of 0.01." in text
    assert "80.0 % (90 % interval 70.0 % to 90.0 %). Training it so takes 1 GFLOP." in text
    assert len(html) < 3_000_000
    old = json.loads((tmp_path / "advice.json").read_text())
    for name in ("learning_curve", "adapt"):
        del old[name]
    (tmp_path / "advice.json").write_text(json.dumps(old))
    assert load_advice(tmp_path / "advice.json").adapt == ("layerwise", "adapt", "lenet5@weights.safetensors", "DATA")


def side(name: str, change: float = 0.0, **more: object) -> Side:
    """One of two studies, made up."""
    rows = made_up_rows()
    rows["value"] = rows["value"].where(rows["n"] == 0, rows["value"] + change)
    found = transfer_strip(rows)
    assert found is not None
    claims = {claim["id"]: claim for claim in made_up_claims()}
    made = Side(name, "study", "title", "answer", (), {"": found}, claims, (levels(rows, layers=list(LAYERS)),), (), (),
                {"command": name, "data": {"name": "glyphs", "digest": name}, "seeds": [0]})  # fmt: skip
    return replace(made, **more)


def test_what_differs_between_two_studies_is_said() -> None:
    one, other = side("one"), side("other", change=-0.3)
    turned = dict(other.claims)
    turned["T1"] = {**turned["T1"], "verdict": "undecided"}
    del turned["T2"]
    other = replace(other, claims=turned)
    claims = list(both_claims(one, other))
    assert [(claim.name, claim.agrees) for claim in claims] == [("T1", False), ("T2", None), ("T3", True)]
    assert answer(one, other, claims) == (
        "Of 2 claims that both test, 1 have the same verdict. 1 differ: T1 is reproduced in one and undecided in other."
    )
    assert list(differences(one, other)) == [
        "Other things are to be done with C1 (freeze, fresh), S2 (freeze, fresh), C3 (freeze, fresh), S4 (freeze, "
        "fresh) and C5 (freeze, fresh).",
        "They were made with other data digest; the table below has both.",
    ]
    assert list(settings(one.provenance, other.provenance)) == [("data digest", "one", "other")]
    assert list(differences(one, side("one"))) == [
        "The same is to be done with every layer, as far as it is known.",
        "Data, versions and machine are the same.",
    ]


def test_a_claim_once_more_as_its_paper_counted_is_not_counted() -> None:
    one, other = side("one"), side("other")
    twin = {**one.claims["T1"], "id": "T1 unpaired", "tallied": False, "p": None, "adjusted": None}
    one = replace(one, claims={**one.claims, "T1 unpaired": twin})
    other = replace(other, claims={**other.claims, "T1 unpaired": {**twin, "verdict": "undecided"}})
    claims = list(both_claims(one, other))
    assert len(claims) == 4
    assert answer(one, other, claims) == "Of 3 claims that both test, 3 have the same verdict."


def test_figures_of_one_title_stand_side_by_side_on_one_scale() -> None:
    one, other = side("one"), side("other", change=-0.3)
    alone = replace(other.figures[0], title="alone")
    ((left, right), (nothing, last)) = paired(one.figures, (*other.figures, alone))
    assert nothing is None
    assert last is alone
    assert left is not None
    assert right is not None
    ends = pd.concat([figure.table[["low", "high"]].stack() for figure in (left, right)])
    margin = 0.05 * (ends.max() - ends.min())
    for figure in (left, right):
        scales = [
            layer["encoding"]["y"]["scale"] for layer in figure.chart.to_dict()["layer"] if "y" in layer["encoding"]
        ]
        for scale in scales:
            assert scale["domain"] == pytest.approx([ends.min() - margin, ends.max() + margin])


def test_the_scale_of_two_figures_has_room_for_all_that_they_draw() -> None:
    """Single nets and a line of chance have data of their own, which the figure's table does not hold."""
    figure = side("one").figures[0]
    nets = pd.DataFrame({"kept": figure.table["kept"][:2], "net": [-0.5, 1.5]})
    marks = alt.Chart(nets).mark_point().encode(x="kept:N", y=alt.Y("net:Q").scale(zero=False))
    chance = alt.Chart(nets[:1]).mark_rule().encode(y=alt.datum(2.5))
    fuller = replace(figure, chart=alt.layer(*figure.chart.layer, marks, chance))
    ((left, right),) = paired([figure], [fuller])
    assert left is not None
    assert right is not None
    for one in (left, right):
        ups = [layer["encoding"]["y"] for layer in one.chart.to_dict()["layer"] if "y" in layer["encoding"]]
        assert all(up["scale"]["domain"] == pytest.approx([-0.65, 2.65]) for up in ups if "field" in up)


def test_a_figure_without_an_upright_axis_keeps_its_own_scale() -> None:
    table = pd.DataFrame({"x": [0.0, 1.0], "y": [3.0, 4.0]})
    hidden = alt.Chart(table).mark_point().encode(x="x:Q", y=alt.Y("y:Q", axis=None).scale(zero=False))
    figure = Figure("one", "", hidden, table)
    ((left, _),) = paired([figure], [figure])
    assert left is figure


def test_two_folders_are_compared_by_the_command(
    tmp_path: Path, run: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made_up_advice().save(tmp_path / "one")
    best, *rest = made_up_advice().considered
    replace(made_up_advice(), considered=(rest[2], best, *rest)).save(tmp_path / "other")
    done = run("report", "one", "other", "--out", "both")
    assert done.code == 0, done.err
    assert "one advises linear probe (FFFR), other freeze 2 of 3, tune the rest (FFTR)." in done.out
    assert "Other things are to be done with C5 (freeze, tune)." in done.out
    assert (tmp_path / "both" / "report.html").stat().st_size < 3_000_000
    assert run("report", "one").out.startswith("\nFreeze C1 to C5, train F6 afresh")
    assert run("report", "one", "one").err == (
        "StudyError: one and one are one folder; name another to compare it with\n"
    )
    alone = run("report", "one", "--out", "both")
    assert alone.err == (
        "StudyError: --out both is for two folders side by side; the report of one goes into its own folder\n"
    )


def test_what_is_nothing_finished_is_told(tmp_path: Path) -> None:
    made_up_advice().save(tmp_path / "one")
    with pytest.raises(StudyError, match="does not hold a finished study"):
        compare(tmp_path / "one", tmp_path)
