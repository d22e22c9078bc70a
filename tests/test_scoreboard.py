"""Every study in one report: what is added up, what a failure leaves, and that the board says what the claims say.

The second study is made here, of Gutstein's runs; its statements, and all numbers of made-up pages, are nobody's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import layerwise
from layerwise.claims import Claim, decide, unmeasured
from layerwise.cli.study import experiments_of
from layerwise.errors import StudyError
from layerwise.outputs import Scoreboard, Study, load
from layerwise.report import Board, Report, write_scoreboard
from layerwise.report.figures import levels
from layerwise.rows import COLUMNS, frame
from layerwise.studies import STUDIES, gutstein, study_module
from layerwise.studies.gutstein_design import SCALES
from test_report import HOSTILE, Page, made_up_report, made_up_rows

SMALL = {"seeds": 1, "trials": 1, "shots": (1, 2), "source_shots": 4, "test": 16, "steps": 4, "source_steps": 4}


def tiny(name: str, **other: object) -> ModuleType:
    """A study of the runs of Gutstein's first experiment under another name, with a claim of its own."""
    module = ModuleType(f"layerwise.studies.{name}")
    vars(module).update({k: v for k, v in vars(gutstein).items() if not k.startswith("_")})
    module.TITLE, module.words = f"The study {name}", lambda rows, claims: (f"What {name} found.", (f"{name} first",))
    module.design = lambda request: gutstein.design(replace(request, experiments="levels"))
    module.claims = lambda rows: [tiny_claim(name, 0.03)]
    module.table = lambda *asked: gutstein.table(*asked).assign(study=pd.NA).astype(COLUMNS)
    vars(module).update(other)
    return module


def tiny_claim(name: str, gain: float) -> Claim:
    """A claim for tests: its contrast is made up."""
    contrast = pd.Series({(f"{k}", k, 0): gain + 0.001 * k for k in range(6)})
    claim = unmeasured(f"{name.upper()}1", f"{name} et al.", f"what {name} says", "a made-up contrast", cluster="draw")
    return replace(decide(claim, "direction", contrast, 2), published="+2.0 points")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    labels = np.repeat(np.arange(8), 12)
    images = np.random.default_rng(0).integers(0, 255, (96, 32, 32), dtype=np.uint8)
    np.savez("good.npz", images=images, labels=labels)


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let there be these studies and no other."""

    def let(*modules: ModuleType) -> None:
        monkeypatch.setitem(SCALES, "demo", replace(SCALES["demo"], **SMALL))
        for name in list(STUDIES):
            monkeypatch.delitem(STUDIES, name)
        for module in modules:
            name = module.__name__.rpartition(".")[2]
            pictures = ModuleType(f"layerwise.report.{name}")
            pictures.figures = lambda rows: (levels(rows),)
            monkeypatch.setitem(STUDIES, name, f"the study {name}")
            monkeypatch.setitem(sys.modules, module.__name__, module)
            monkeypatch.setitem(sys.modules, pictures.__name__, pictures)

    return let


def run_all(**options: object) -> Scoreboard:
    found = layerwise.study("all", data="npz:good.npz", executor="serial", quiet=True, **options)
    assert isinstance(found, Scoreboard)
    return found


def test_all_is_each_study_and_their_claims_corrected_together(studies: Callable[..., None]) -> None:
    studies(tiny("one"), tiny("two", claims=lambda rows: [tiny_claim("two", -0.001)]))
    found = run_all(out="out")
    assert [study.name for study in found.studies] == ["one", "two"]
    alone = load("out/one")
    assert isinstance(alone, Study)
    pd.testing.assert_frame_equal(found.studies[0].rows, alone.rows, check_exact=True)
    assert found.rows["study"].value_counts().to_dict() == {"one": len(alone.rows), "two": len(alone.rows)}
    one, two = found.claims
    assert one.p < two.p / 2
    assert (one.adjusted, two.adjusted) == (pytest.approx(2 * one.p), two.p)
    assert alone.claims[0].adjusted == one.p  # a study's own report is corrected for its own claims only
    left = json.loads(Path("out/claims.json").read_text())
    assert [(claim["study"], claim["id"], claim["adjusted"]) for claim in left] == [
        ("one", "ONE1", one.adjusted), ("two", "TWO1", two.adjusted)
    ]  # fmt: skip
    assert {path.name for path in Path("out").iterdir()} == {
        "report.html", "rows.parquet", "rows.csv", "claims.json", "plan.json", "one", "two"
    }  # fmt: skip
    assert (Path("out/two/report.html")).is_file()
    again = load("out")
    assert isinstance(again, Scoreboard)
    pd.testing.assert_frame_equal(again.rows, found.rows, check_exact=True)
    assert (again.claims, again.answer, again.findings) == (found.claims, found.answer, found.findings)
    before = Path("out/report.html").read_text()
    again.report("out/report.html")
    assert Path("out/report.html").read_text() == before


def test_plans_add_up(studies: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    studies(tiny("first"), tiny("second"))
    planned = layerwise.study("all", data="npz:good.npz", executor="serial", dry_run=True)
    totals = [study.plan["totals"] for study in planned.studies]
    assert planned.plan["totals"]["runs"] == sum(one["runs"] for one in totals) == len(planned.plan["runs"]) == 26
    assert planned.plan["totals"]["forecast_seconds"] == sum(one["forecast_seconds"] for one in totals) > 0
    assert planned.plan["totals"]["forecast_memory_bytes"] == max(one["forecast_memory_bytes"] for one in totals)
    assert (len(planned.rows), planned.claims) == (0, ())
    assert planned._repr_html_()
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if line.startswith("Study")] == ["Study first", "Study second"]
    assert told[-1].startswith("All 2 studies: 26 runs wanted, 0 stored, 26 missing; forecast ")
    assert not Path("layerwise-out").exists()


def broken(request: object) -> None:
    raise KeyError("a mistake of ours")


def refused(request: object) -> None:
    raise StudyError("these images will not do; take others")


@pytest.mark.parametrize(
    ("design", "told"),
    [(broken, "KeyError: 'a mistake of ours'"), (refused, "these images will not do; take others")],
)
def test_what_fails_in_one_study_loses_no_other(
    studies: Callable[..., None], run: Callable[..., SimpleNamespace], design: Callable[..., None], told: str
) -> None:
    studies(tiny("bad", design=design), tiny("last"))
    words = ["study", "all", "--data", "npz:good.npz", "--executor", "serial"]
    found = run(*words)
    assert found.code == 1
    assert f"Study bad failed: {told}\n" in found.err
    assert found.err.splitlines()[-1] == f"Failed: study bad failed ({told}); run it by itself to see why"
    board = load("layerwise-out/all")
    assert [study.name for study in board.studies] == ["last"]
    assert board.failures == (f"study bad failed ({told}); run it by itself to see why",)
    assert f"study bad failed ({told})" in Page(Path("layerwise-out/all/report.html").read_text()).text
    studies(tiny("bad", design=refused))
    assert run(*words).err.splitlines()[-1] == "StudyError: these images will not do; take others"


def test_what_all_prints(studies: Callable[..., None], run: Callable[..., SimpleNamespace]) -> None:
    studies(tiny("first"), tiny("second", claims=lambda rows: [tiny_claim("second", -0.05)]))
    found = run("study", "all", "--data", "npz:good.npz", "--executor", "serial", "--out", "out")
    assert found.code == 0
    lines = found.out.splitlines()
    assert lines[1] == (
        "Of 2 claims: 1 reproduced, 1 contradicted, 0 undecided. 2 of 2 verdicts by an interval outlast the correction "
        "for 2 tested claims."
    )
    assert lines[3:5] == ["  1. First: FIRST1 reproduced.", "  2. Second: SECOND1 contradicted."]
    heads, first, second = (line.split() for line in lines[6:9])
    assert heads == ["claim", "verdict", "estimate", "interval", "outlasts", "statement"]
    assert (first[:2], second[:2]) == (["FIRST1", "reproduced"], ["SECOND1", "contradicted"])
    assert lines[7].endswith("yes       what first says")
    assert lines[-1] == "Report: out/report.html"
    assert run("report", "out").out == found.out
    Path("out/plan.json").write_text(json.dumps({"studies": {"gone": {}}, "runs": []}))
    assert run("report", "out").err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--net", "lenet5"],
            "--net lenet5 is for one study; run that one by itself, such as: layerwise study gutstein",
        ),
        (["--shots", "1,5"], "--shots 1,5 is for one study; run that one by itself, such as: layerwise study gutstein"),
        (["--known", "0-4"], "--known 0-4 is for one study; run that one by itself, such as: layerwise study gutstein"),
        (["--classes", "0-4"], "--classes 0-4 needs --data here: without it each study has images of its own"),
        (["--grey"], "--grey needs --data here: without it each study has images of its own"),
        (
            ["--data", "npz:good.npz", "--scale", "papre"],
            "unknown scale 'papre'; did you mean 'paper'? (known: demo, paper)",
        ),
    ],
)
def test_options_of_one_study_are_not_for_all(
    studies: Callable[..., None], run: Callable[..., SimpleNamespace], words: list[str], message: str
) -> None:
    studies(tiny("first"))
    found = run("study", "all", *words)
    assert (found.code, found.out) == (2, "")
    assert found.err.splitlines()[-1] == f"StudyError: {message}"


def test_each_study_takes_images_in_its_own_size(studies: Callable[..., None]) -> None:
    """`--resize` is for those that take any size; the others have one of their own, or images of their own."""
    sizes = {}

    def noted(name: str) -> Callable[..., None]:
        def design(request: object) -> None:
            sizes[name] = request.data.images.shape[2:]
            raise StudyError("seen")

        return design

    studies(
        tiny("any", design=noted("any")),
        tiny("sized", design=noted("sized"), RESIZE=20),
        tiny("own", design=noted("own"), ANY_DATA=False, DATA="digits", RESIZE=None),
    )
    with pytest.raises(StudyError, match="seen"):
        run_all(resize=24)
    assert sizes == {"any": (24, 24), "sized": (20, 20), "own": (8, 8)}


def test_an_interruption_says_in_which_study(studies: Callable[..., None]) -> None:
    def stopped(request: object) -> None:
        raise KeyboardInterrupt

    studies(tiny("first"), tiny("second", design=stopped))
    with pytest.raises(KeyboardInterrupt, match="in study second: nothing is lost; the same command does the rest"):
        run_all()


@cache
def made_up(text: str) -> Report:
    return made_up_report(made_up_rows(), text)


def board_of(*names: str, text: str = "") -> Board:
    """A made-up board: the claims of test_report's report under each of these names."""
    reports = tuple(replace(made_up(text), name=name) for name in names)
    totals = {"runs": 98, "stored": 0, "missing": 98, "seconds": 240.0}
    return Board(f"A made-up board {text}", reports, {"totals": totals}, {"command": "layerwise study all"}, ())


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("board") / "report.html"
    write_scoreboard(path, board_of("one", "two"))
    return Page(path.read_text(encoding="utf-8"))


def test_the_board_has_a_row_for_each_claim_that_leads_to_its_figure_or_study(board: Page) -> None:
    rows = [attributes["id"] for tag, attributes in board.elements if tag == "tr" and "id" in attributes]
    assert rows == [f"claim-{name}-{k}" for name in ("one", "two") for k in (1, 2, 3)]
    leads = [a["href"] for tag, a in board.elements if tag == "a" and a.get("class") == "see"]
    figures = [a["id"] for tag, a in board.elements if tag == "figure" and "id" in a]
    assert leads == [
        "#figure-0",
        "#study-one",
        "#study-one",
        f"#figure-{len(figures) // 2}",
        "#study-two",
        "#study-two",
    ]
    assert figures == [f"figure-{k}" for k in range(len(board.data["charts"]))]
    ids = {attributes["id"] for _, attributes in board.elements if "id" in attributes}
    assert {lead[1:] for lead in leads} <= ids
    text = " ".join(board.text.split())
    assert (
        "Of 6 claims: 2 reproduced, 2 contradicted, 2 undecided. 2 of 4 verdicts by an interval outlast the correction "
        "for 6 tested claims."
    ) in text
    assert "T1 statement T1 How it was measured accuracy kept minus fresh rule of T1" in text
    assert "+1.0 points (its table 2) +3.2 points 95 %: +1.1 to +5.3" in text
    assert "none given −2.0 points" in text
    assert "outlasts the correction: p 0.020, corrected 0.030" in text


def test_what_a_paper_pooled_is_shown_and_not_counted(tmp_path: Path) -> None:
    """A twin of a claim has its row and verdict, but the board's tally, answer and findings are without it."""
    board = board_of("one")
    twin = {**board.reports[0].claims[0], "id": "T1 unpaired", "tallied": False, "p": None, "adjusted": None}
    report = replace(board.reports[0], claims=[twin, *board.reports[0].claims])
    write_scoreboard(tmp_path / "report.html", replace(board, reports=(report,)))
    text = " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).text.split())
    assert "Of 3 claims: 1 reproduced, 1 contradicted, 1 undecided. 1 of 2 verdicts" in text
    assert "One: T1 reproduced; T2 contradicted; T3 undecided." in text
    assert "✓ 1 reproduced ✗ 1 contradicted ? 1 undecided" in text
    assert "Of this report 3 claims were tested." in text
    assert "T1 unpaired statement T1" in text
    assert "✓ reproduced as the paper counted: not in the tally" in text


def test_runs_of_two_studies_with_claims_of_one_name_are_kept_apart(board: Page) -> None:
    assert list(board.data["claims"]) == [f"{name} T{k}" for name in ("one", "two") for k in (1, 2, 3)]
    buttons = [a["data-claim"] for tag, a in board.elements if tag == "button" and "data-claim" in a]
    assert buttons == list(board.data["claims"])
    columns = [column["name"] for column in board.data["tables"]["runs"]["columns"]]
    runs = board.data["tables"]["runs"]["rows"]
    assert columns[:2] == ["key", "study"]
    assert [run[1] for run in runs] == ["one"] * (len(runs) // 2) + ["two"] * (len(runs) // 2)


def test_hostile_names_stay_text_on_the_board(tmp_path: Path) -> None:
    write_scoreboard(tmp_path / "report.html", board_of(HOSTILE, text=HOSTILE))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [attributes for tag, attributes in page.elements if tag == "script"] == [
        {"type": "application/gzip", "id": "report-data"}, {}, {}
    ]  # fmt: skip
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert HOSTILE in page.text


def test_five_studies_are_one_file_of_under_6_mb_with_one_copy_of_vega(tmp_path: Path) -> None:
    board = board_of("yosinski", "gutstein", "grand", "sharma", "hierarchy")
    run = board.reports[0].plan["runs"][0]
    plan = {**board.reports[0].plan, "runs": [{**run, "key": f"{k:016x}"} for k in range(1_000)]}
    write_scoreboard(
        tmp_path / "report.html", replace(board, reports=tuple(replace(r, plan=plan) for r in board.reports))
    )
    assert (tmp_path / "report.html").stat().st_size < 6_000_000
    assert (tmp_path / "report.html").read_text().count("window.vegaEmbed=") == 1


def test_every_figure_of_the_board_is_drawn_in_a_browser(tmp_path: Path, drawn: Callable[[Path], str]) -> None:
    write_scoreboard(tmp_path / "report.html", board_of("one", "two"))
    page = Page(drawn(tmp_path / "report.html"))
    charts = [attributes for _, attributes in page.elements if "data-chart" in attributes]
    assert len(charts) == 12
    assert sum(tag == "svg" for tag, _ in page.elements) == 12
    assert next(attributes for tag, attributes in page.elements if tag == "html")["class"] == "drawn"


def test_a_study_that_measured_nothing_is_on_the_board(studies: Callable[..., None]) -> None:
    studies(tiny("first"))
    plan = {"runs": [], "totals": {"runs": 0}, "notes": [], "provenance": {"data": {"name": "d"}, "seeds": []}}
    found = Scoreboard.of([Study("first", frame([]), (), plan, ("run 1: lost",))], [], "the command")
    assert found.failures == ("first: run 1: lost",)
    assert found.save("out").read_text().count("This study tests no claim.") == 1


@pytest.mark.parametrize("name", STUDIES)
def test_experiments_are_completed_without_importing_the_study(name: str) -> None:
    assert experiments_of(name) == study_module(name).EXPERIMENTS


def test_the_shell_completes_all_and_experiments_without_torch() -> None:
    code = (
        "import sys\n"
        "from types import SimpleNamespace\n"
        "from layerwise.cli.study import every_name, experiment_names\n"
        "context = SimpleNamespace(params={}, args=['gutstein'])\n"
        "print(every_name('a'), experiment_names(context, 'lev'), experiment_names(context, 'x,lev'))\n"
        "print(experiment_names(SimpleNamespace(params={'name': 'all'}, args=[]), ''))\n"
        "sys.argv = ['layerwise', 'studies']\n"
        "from layerwise import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print([name for name in ('torch', 'pandas') if name in sys.modules])"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[:2] == ["['all'] ['levels'] ['x,levels']", "[]"]
    assert any(line.split()[:2] == ["gutstein", "levels"] for line in lines)
    assert lines[-2].split()[0] == "all"
    assert lines[-1] == "[]"


def test_the_shell_itself_completes_experiments() -> None:
    words = "layerwise study gutstein --experiments lev"
    asked = {"_LAYERWISE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "4"}
    command = Path(sys.executable).with_name("layerwise")
    found = subprocess.run([command], capture_output=True, text=True, env={**os.environ, **asked})
    assert found.stdout.split() == ["levels"]


def test_an_unknown_experiment_is_told_what_there_is(run: Callable[..., SimpleNamespace]) -> None:
    found = run("study", "gutstein", "--data", "npz:good.npz", "--experiments", "level")
    names = ", ".join(sorted(experiments_of("gutstein")))
    assert found.err == f"StudyError: unknown experiment 'level'; did you mean 'levels'? (known: {names})\n"
