"""A finished study, and the folder that it leaves: report.html, rows.parquet, rows.csv, claims.json, plan.json."""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from layerwise import rows as row_tables
from layerwise.claims import Claim, corrected
from layerwise.errors import StudyError
from layerwise.report import Figure, Report, write_report
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

    def report(self, path: str | Path) -> Path:
        """Write the report as one HTML file, and give its path."""
        made = Report(
            title=study_module(self.name).TITLE,
            answer=self.answer,
            findings=self.findings,
            rows=self.rows,
            claims=[{**claim.as_json(), "unit": claim.unit} for claim in self.claims],
            figures=figures(self.name, self.rows),
            plan=self.plan,
            provenance=self.plan["provenance"],
            notes=(*self.plan["notes"], *self.failures),
        )
        with whole_folder(Path(path).parent) as aside:
            write_report(aside / Path(path).name, made)
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write the report, the rows, the claims and the plan into a folder; gives the report's path."""
        with whole_folder(Path(folder)) as aside:
            row_tables.write(self.rows, aside)
            write_json(aside / "claims.json", [claim.as_json() for claim in self.claims])
            write_json(aside / "plan.json", {**self.plan, "study": self.name, "failures": list(self.failures)})
        return self.report(Path(folder) / "report.html")

    def _repr_html_(self) -> str:
        from html import escape

        claims = pd.DataFrame([claim.as_json() for claim in self.claims])
        shown = claims[["id", "statement", "estimate", "interval", "clusters", "verdict"]] if len(claims) else claims
        findings = "".join(f"<li>{escape(finding)}</li>" for finding in self.findings)
        return f"<p>{escape(self.answer)}</p><ol>{findings}</ol>{shown.to_html(index=False)}"


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


def load(folder: str | Path) -> Study:
    """The study that `save` wrote; its claims are made anew from its rows."""
    folder = Path(folder)
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        found = row_tables.read(folder)
        name, failures = plan.pop("study"), tuple(plan.pop("failures"))
        if lacking := {"runs", "totals", "notes", "provenance"} - plan.keys():
            raise KeyError(f"plan.json lacks {', '.join(sorted(lacking))}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        wrong = str(error.strerror if isinstance(error, OSError) else error).partition("\n")[0]
        raise StudyError(
            f"{folder} does not hold a finished study (its rows.parquet and plan.json: {wrong}); "
            "pass what --out of a study has filled, or run the study again: what is stored is not trained again"
        ) from error
    return Study(name, found, claims(name, found), plan, failures)


def write_json(path: Path, value: Any) -> None:
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
