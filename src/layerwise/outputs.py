"""Finished studies, and the folders that they leave: report.html, rows.parquet, rows.csv, claims.json, plan.json."""

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from layerwise import rows as row_tables
from layerwise.claims import Claim, corrected
from layerwise.errors import StudyError
from layerwise.notebook import charts, page
from layerwise.report import Board, Figure, Report, scoreboard, words, write_report, write_scoreboard
from layerwise.studies import study_module


@dataclass(frozen=True)
class Study:
    """A study that has run. In a notebook it shows its answer, its findings and its claims."""

    name: str
    rows: pd.DataFrame = field(repr=False)
    claims: tuple[Claim, ...] = field(repr=False)
    plan: dict[str, Any] = field(repr=False)  # as plan.json: runs, totals, notes, provenance
    failures: tuple[str, ...] = ()  # runs that did not finish, and why

    @property
    def answer(self) -> str:
        """The study's answer, in one paragraph."""
        return str(study_module(self.name).words(self.rows, self.claims)[0])

    @property
    def findings(self) -> tuple[str, ...]:
        """The main findings, a sentence or two each."""
        return tuple(study_module(self.name).words(self.rows, self.claims)[1])

    @property
    def contents(self) -> Report:
        """What its report shows."""
        return Report(
            title=study_module(self.name).TITLE,
            answer=self.answer,
            findings=self.findings,
            rows=self.rows,
            claims=[{**claim.as_json(), "unit": claim.unit} for claim in self.claims],
            figures=figures(self.name, self.rows),
            plan=self.plan,
            provenance=self.plan["provenance"],
            notes=(*self.plan["notes"], *self.failures),
            name=self.name,
        )

    def report(self, path: str | Path) -> Path:
        """Write the report as one HTML file, and give its path."""
        with whole_folder(Path(path).parent) as aside:
            write_report(aside / Path(path).name, self.contents)
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write the report, the rows, the claims and the plan into a folder; gives the report's path."""
        with whole_folder(Path(folder)) as aside:
            row_tables.write(self.rows, aside)
            write_json(aside / "claims.json", [claim.as_json() for claim in self.claims])
            write_json(aside / "plan.json", {**self.plan, "study": self.name, "failures": list(self.failures)})
        return self.report(Path(folder) / "report.html")

    @property
    def figures(self) -> dict[str, Any]:
        """The report's charts, by their titles; none of a study of which nothing is measured yet."""
        return charts(figures(self.name, self.rows)) if len(self.rows) else {}

    def _repr_html_(self) -> str:
        return page(self.answer, self.findings, claim_table(self.claims), self.figures)


@dataclass(frozen=True)
class Scoreboard:
    """Several studies that have run, and all their claims. In a notebook it shows these."""

    studies: tuple[Study, ...]
    plan: dict[str, Any] = field(repr=False)  # as plan.json: runs and totals of all, notes, provenance
    lost: tuple[str, ...] = ()  # studies that are not there, and why

    @classmethod
    def of(cls, studies: Sequence[Study], lost: Sequence[str], command: str) -> "Scoreboard":
        """The board of these studies, their plans added up."""
        plans = [study.plan for study in studies]
        totals = {name: _TOTALS.get(name, sum)(plan["totals"][name] for plan in plans) for name in plans[0]["totals"]}
        provenance = {
            **plans[0]["provenance"],
            "command": command,
            "data": {study.name: study.plan["provenance"]["data"]["name"] for study in studies},
            "seeds": sorted({seed for plan in plans for seed in plan["provenance"]["seeds"]}),
        }
        runs = [{"study": study.name, **run} for study in studies for run in study.plan["runs"]]
        plan = {"runs": runs, "totals": totals, "notes": [], "provenance": provenance}
        return cls(tuple(studies), plan, tuple(lost))

    @property
    def failures(self) -> tuple[str, ...]:
        """Studies that are not there, and runs of the others that did not finish."""
        return *self.lost, *(f"{study.name}: {told}" for study in self.studies for told in study.failures)

    @property
    def rows(self) -> pd.DataFrame:
        """The rows of all studies; the column `study` tells them apart."""
        tables = [study.rows.assign(study=study.name) for study in self.studies]
        return pd.concat(tables, ignore_index=True).astype(row_tables.COLUMNS)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The claims of all studies in their order, corrected for the number of all."""
        return corrected([claim for study in self.studies for claim in study.claims])

    @property
    def together(self) -> tuple[Study, ...]:
        """The studies with their claims corrected for the number of all."""
        left = iter(self.claims)
        return tuple(replace(study, claims=tuple(next(left) for _ in study.claims)) for study in self.studies)

    @property
    def answer(self) -> str:
        """How many claims came out which way."""
        return scoreboard.answer([claim.as_json() for claim in self.claims])

    @property
    def findings(self) -> tuple[str, ...]:
        """A line for each study: which of its claims came out which way."""
        made = {study.name: [claim.as_json() for claim in study.claims] for study in self.studies}
        return tuple(scoreboard.finding(name, claims) for name, claims in made.items() if claims)

    def report(self, path: str | Path) -> Path:
        """Write the report of all as one HTML file, and give its path."""
        made = Board(
            title=f"A scoreboard of {sum(claim.tallied for claim in self.claims)} claims about transfer",
            reports=tuple(study.contents for study in self.together),
            plan=self.plan,
            provenance=self.plan["provenance"],
            notes=(*self.plan["notes"], *self.lost),
        )
        with whole_folder(Path(path).parent) as aside:
            write_scoreboard(aside / Path(path).name, made)
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write the report, the rows, the claims and the plan of all into a folder; gives the report's path."""
        claims = [{"study": study.name, **claim.as_json()} for study in self.together for claim in study.claims]
        plans = {study.name: {**_without(study.plan, "runs"), "failures": study.failures} for study in self.studies}
        with whole_folder(Path(folder)) as aside:
            row_tables.write(self.rows, aside)
            write_json(aside / "claims.json", claims)
            write_json(aside / "plan.json", {**self.plan, "studies": plans, "lost": self.lost})
        return self.report(Path(folder) / "report.html")

    @property
    def figures(self) -> dict[str, Any]:
        """The charts of all reports, by study and title."""
        return {f"{study.name}: {name}": chart for study in self.studies for name, chart in study.figures.items()}

    def _repr_html_(self) -> str:
        return page(self.answer, self.findings, claim_table(self.claims))


_TOTALS = {"forecast_memory_bytes": max}  # of studies one after the other; what is not here adds up


def claim_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """A line for each claim, its numbers as the report prints them."""
    told = [{**claim.as_json(), "unit": claim.unit} for claim in claims]
    return pd.DataFrame(
        {
            "claim": claim["id"],
            "statement": claim["statement"],
            "verdict": claim["verdict"],
            "estimate": words.estimate(claim),
            "interval": words.bounds(claim),
        }
        for claim in told
    )


def claims(name: str, rows: pd.DataFrame) -> tuple[Claim, ...]:
    """The claims of a study held against its rows, corrected for their number."""
    return corrected(study_module(name).claims(rows))


def figures(name: str, rows: pd.DataFrame) -> tuple[Figure, ...]:
    """The figures of a study, drawn from its rows."""
    return tuple(import_module(f"layerwise.report.{name}").figures(rows))


def prepare(folder: Path) -> None:
    """Make the folder that `save` will fill: better to learn now that it cannot be written than after hours."""
    with whole_folder(folder):
        pass


def load(folder: str | Path) -> Study | Scoreboard:
    """What `save` wrote: a study, or several; their claims are made anew from the rows."""
    folder = Path(folder)
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        rows = row_tables.read(folder)
        if "studies" not in plan:
            return _loaded(plan, rows)
        studies = [
            _loaded({**told, "study": name, "runs": _of(name, plan["runs"])}, rows[rows["study"] == name])
            for name, told in plan.pop("studies").items()
        ]
        return Scoreboard(tuple(studies), plan, tuple(plan.pop("lost")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        wrong = str(error.strerror if isinstance(error, OSError) else error).partition("\n")[0]
        raise StudyError(
            f"{folder} does not hold a finished study (its rows.parquet and plan.json: {wrong}); "
            "pass what --out of a study has filled, or run the study again: what is stored is not trained again"
        ) from error


def _loaded(plan: dict[str, Any], rows: pd.DataFrame) -> Study:
    name, failures = plan.pop("study"), tuple(plan.pop("failures"))
    if lacking := {"runs", "totals", "notes", "provenance"} - plan.keys():
        raise KeyError(f"plan.json lacks {', '.join(sorted(lacking))}")
    return Study(name, rows.reset_index(drop=True), claims(name, rows), plan, failures)


def _of(name: str, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The runs of one study of several."""
    return [_without(run, "study") for run in runs if run["study"] == name]


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k != name}


def write_json(path: Path, value: Any) -> None:
    """Write plain lists, dicts, strings and finite numbers, indented by one; ValueError for a number that is not."""
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, whose files then take their places in the real one, each of them whole."""
    with _clear_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=folder) as aside:
            yield Path(aside)
            for file in Path(aside).iterdir():
                file.replace(folder / file.name)


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Say that the output folder cannot be written, in place of the system's error."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StudyError(
                f"--out {path} is full; free some space or pass another. "
                "Finished runs are safe, and the same command trains nothing again"
            ) from error
        raise StudyError(f"--out {path} cannot be written ({error.strerror}); pass another") from error
