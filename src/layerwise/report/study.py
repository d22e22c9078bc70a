"""The report of a study: what the paper says, what was measured, the claims, the runs."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from layerwise.claims import HOW, plural
from layerwise.report import words
from layerwise.report.costs import cost, forecast
from layerwise.report.figures import Figure
from layerwise.report.page import render, table_json
from layerwise.report.strip import Strip
from layerwise.report.transfer_strip import strip
from layerwise.rows import final

SECTIONS = {  # where a figure may stand: what it tells
    "levels": "Which layers transfer?",
    "learning": "How it learns",
    "inside": "What the layers hold",
    "cost": "What it costs",
}
MARKS = {"reproduced": "✓", "contradicted": "✗", "undecided": "?"}
RUN_COLUMNS = {  # name in the table: what it is called on the page, how it is printed
    "key": ("run", "key"),
    "treatment": ("treatment", "text"),
    "shots": ("samples", "number"),
    "seed": ("seed", "number"),
    "trial": ("trial", "number"),
    "test_accuracy": ("test accuracy", "percent"),
    "seconds": ("seconds", "seconds"),
    "forecast_seconds": ("forecast", "seconds"),
    "task": ("task", "text"),
    "net": ("net", "text"),
    "source_key": ("source", "key"),
}


@dataclass(frozen=True)
class Report:
    """What the report of a study shows. All texts are plain: they are escaped, never read as HTML."""

    title: str
    answer: str  # one paragraph in plain words
    findings: tuple[str, ...]
    rows: pd.DataFrame
    claims: Sequence[Mapping[str, Any]]  # as in claims.json, and their units
    figures: tuple[Figure, ...]  # each in one of SECTIONS
    plan: Mapping[str, Any]  # as plan.json: runs, totals
    provenance: Mapping[str, Any]  # command, versions, machine, seeds, data, ...
    notes: tuple[str, ...]  # what a reader must know first
    name: str = ""  # of the study


@dataclass(frozen=True)
class Part:
    """A report as a page shows it, alone or among others: figures have their numbers on the page, claims their bars."""

    report: Report
    figures: tuple[tuple[int, Figure], ...]
    strip: Strip | None
    claims: tuple["Shown", ...]
    facts: tuple[tuple[str, str], ...]

    @property
    def sections(self) -> dict[str, str]:
        """The sections that have something in them, and their titles."""
        filled = {figure.section for _, figure in self.figures} | ({"levels"} if self.strip else set())
        if self.report.plan["totals"]:
            filled.add("cost")
        return {name: title for name, title in SECTIONS.items() if name in filled}


@dataclass(frozen=True)
class Shown:
    """A claim as a page shows it: where its interval is drawn, and what it is called and linked to."""

    claim: Mapping[str, Any]  # as in claims.json, and its unit
    forest: Mapping[str, float] | None
    link: str  # the figure that shows it, or its study
    name: str  # among all claims of the page


def part(report: Report, first: int = 0) -> Part:
    """The report with its figures numbered from `first`; those of its costs are made here."""
    runs, cluster = report.plan["runs"], _commonest([claim["cluster"] for claim in report.claims])
    made = cost(report.rows, runs, cluster), forecast(runs)
    figures = tuple(enumerate([*report.figures, *(figure for figure in made if figure)], first))
    if strange := [figure.section for _, figure in figures if figure.section not in SECTIONS]:
        raise ValueError(f"a figure is in section '{strange[0]}'; sections: {', '.join(SECTIONS)}")
    return Part(report, figures, strip(report.rows), tuple(_shown(report, figures)), tuple(facts(report)))


def render_study(report: Report) -> str:
    """The whole page as text."""
    whole = part(report)
    runs = run_table(report.plan["runs"], report.rows)
    return render(
        "study.html", report.title, [figure for _, figure in whole.figures], {"runs": table_json(runs, RUN_COLUMNS)},
        {shown.name: shown.claim["rows"] for shown in whole.claims}, run_commands(report.provenance),
        answer=report.answer, findings=report.findings, notes=report.notes, provenance=report.provenance,
        facts=whole.facts, part=whole, run_count=len(runs), **verdict_words(report.claims),
    )  # fmt: skip


def run_commands(provenance: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """What can be done with a run, and the command that does it: the parts between which the run's key stands."""
    after = f" --store {shlex.quote(provenance['store'])}" if "store" in provenance else ""
    train = (provenance["command"],) if provenance.get("command") else ()
    return {
        "Show all that is known of it, its recipe and learning curve too:": ("layerwise runs show ", after),
        **({"Train it, with what else of its study is not stored:": train} if train else {}),
    }


def verdict_words(claims: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page says of verdicts in general: the tally, the marks, how many claims were tested, and the rules."""
    return {
        "tally": [(verdict, sum(claim["verdict"] == verdict for claim in tallied(claims))) for verdict in MARKS],
        "marks": MARKS,
        "tested": sum(claim["p"] is not None for claim in claims),
        "how": HOW,
        "several_papers": len({claim["paper"] for claim in claims}) > 1,
    }


def tallied(claims: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The claims without those that are one of the others once more, as its paper counted."""
    return [claim for claim in claims if claim["tallied"]]


def _shown(report: Report, figures: Sequence[tuple[int, Figure]]) -> Iterator[Shown]:
    """The claims with the first figure that names them, else the study's own place on the page."""
    for claim, forest in zip(report.claims, words.forests(report.claims), strict=True):
        named = (claim["id"], re.split("[ -]", claim["id"])[0])  # of "Y1 unpaired" also Y1, of "R1-He" also R1
        shows = [f"figure-{i}" for name in named for i, figure in figures if name in figure.claims]
        link = shows[0] if shows else f"study-{report.name}"
        yield Shown(claim, forest, link, f"{report.name} {claim['id']}".strip())


def _commonest(names: Sequence[str]) -> str:
    return max(names, key=list(names).count, default="class split")


def facts(report: Report) -> Iterator[tuple[str, str]]:
    """The sizes of what was done: runs, clusters of each kind, time."""
    totals = report.plan["totals"]
    if runs := totals.get("runs", len(report.plan["runs"])):
        yield "run" if runs == 1 else "runs", f"{runs:,}"
    for cluster in dict.fromkeys(claim["cluster"] for claim in report.claims):
        if most := max(claim["clusters"] for claim in report.claims if claim["cluster"] == cluster):
            yield cluster if most == 1 else plural(cluster), f"{most:,}"
    if totals.get("seconds"):
        yield "of training", words.seconds(totals["seconds"])


def run_table(runs: Sequence[Mapping[str, Any]], rows: pd.DataFrame) -> pd.DataFrame:
    """The planned runs with the trial and the final test accuracy that their rows have; source nets included."""
    wanted = [name for name in RUN_COLUMNS if name not in ("trial", "test_accuracy")]
    table = pd.DataFrame(list(runs)).reindex(columns=wanted).astype({"key": "string"})
    accuracy = final(rows[(rows["quantity"] == "accuracy") & (rows["split"] == "test")])
    accuracy = accuracy.drop_duplicates("run_key").rename(columns={"run_key": "key", "value": "test_accuracy"})
    table = table.merge(accuracy[["key", "trial", "test_accuracy"]], on="key", how="left")
    return table.reindex(columns=list(RUN_COLUMNS))
