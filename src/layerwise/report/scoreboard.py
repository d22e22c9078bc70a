"""The report of several studies at once: a scoreboard of all their claims, then each study's answer and figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from layerwise.claims import FALSE_DISCOVERIES
from layerwise.report import words
from layerwise.report.page import render, table_json
from layerwise.report.study import (
    MARKS,
    RUN_COLUMNS,
    Part,
    Report,
    part,
    run_commands,
    run_table,
    tallied,
    verdict_words,
)


@dataclass(frozen=True)
class Board:
    """What the report of several studies shows."""

    title: str
    reports: tuple[Report, ...]  # their claims corrected together
    plan: Mapping[str, Any]  # totals of all
    provenance: Mapping[str, Any]
    notes: tuple[str, ...]  # what a reader must know first


def render_scoreboard(board: Board) -> str:
    """The whole page as text."""
    parts, claims = list(_parts(board.reports)), [claim for report in board.reports for claim in report.claims]
    tables = [run_table(report.plan["runs"], report.rows).assign(study=report.name) for report in board.reports]
    runs = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["key", "study"])
    columns = {"key": RUN_COLUMNS["key"], "study": ("study", "text"), **RUN_COLUMNS}
    return render(
        "scoreboard.html", board.title, [figure for one in parts for _, figure in one.figures],
        {"runs": table_json(runs[list(columns)], columns)},
        {shown.name: shown.claim["rows"] for one in parts for shown in one.claims}, run_commands(board.provenance),
        answer=answer(claims), findings=[finding(one.name, one.claims) for one in board.reports if one.claims],
        notes=board.notes, provenance=board.provenance, facts=list(_facts(board)), parts=parts, run_count=len(runs),
        **verdict_words(claims),
    )  # fmt: skip


def _parts(reports: Sequence[Report]) -> Iterator[Part]:
    first = 0
    for report in reports:
        one = part(report, first)
        first += len(one.figures)
        yield one


def answer(claims: Sequence[Mapping[str, Any]]) -> str:
    """How many claims came out which way, and how many of these verdicts outlast the correction."""
    claims = tallied(claims)
    counts = {verdict: [claim for claim in claims if claim["verdict"] == verdict] for verdict in MARKS}
    decided = [claim for claim in claims if claim["verdict"] != "undecided" and claim["adjusted"] is not None]
    stand = sum(claim["adjusted"] <= FALSE_DISCOVERIES for claim in decided)
    tested = sum(claim["p"] is not None for claim in claims)
    told = ", ".join(f"{len(found)} {verdict}" for verdict, found in counts.items())
    outlast = f"{stand} of {words.counted(len(decided), 'verdict')} by an interval outlast"
    return (
        f"Of {words.counted(len(claims), 'claim')}: {told}. {outlast} the correction for "
        f"{words.counted(tested, 'tested claim')}."
    )


def finding(name: str, claims: Sequence[Mapping[str, Any]]) -> str:
    """A study's claims by verdict, by their names.

    >>> verdicts = {"Z1": "reproduced", "Z2": "undecided"}
    >>> finding("zed", [{"id": name, "verdict": verdict, "tallied": True} for name, verdict in verdicts.items()])
    'Zed: Z1 reproduced; Z2 undecided.'
    """
    named = {v: ", ".join(claim["id"] for claim in tallied(claims) if claim["verdict"] == v) for v in MARKS}
    told = "; ".join(f"{names} {verdict}" for verdict, names in named.items() if names)
    return f"{name.capitalize()}: {told}."


def _facts(board: Board) -> Iterator[tuple[str, str]]:
    yield "study" if len(board.reports) == 1 else "studies", str(len(board.reports))
    if runs := board.plan["totals"].get("runs"):
        yield "run" if runs == 1 else "runs", f"{runs:,}"
    if seconds := board.plan["totals"].get("seconds"):
        yield "of training", words.seconds(seconds)
