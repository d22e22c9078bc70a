"""What a folder holds, whichever command filled it, and two of them side by side."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerwise.advising.advice import FILE, Advice, load_advice
from layerwise.errors import StudyError
from layerwise.outputs import Scoreboard, Study, load, whole_folder
from layerwise.probing.examined import Examined, is_examined, load_examined
from layerwise.report import advice as of_advice
from layerwise.report import probe as of_probe
from layerwise.report.compare import Side, answer, both_claims, differences, render_comparison
from layerwise.report.strip import Strip
from layerwise.report.study import Report, facts
from layerwise.report.transfer_strip import strip as transfer_strip

Finished = Study | Scoreboard | Examined | Advice


def load_finished(folder: str | Path) -> Finished:
    """What a command has left in its --out; raises StudyError where that is nothing, or not whole."""
    folder = Path(folder)
    if (folder / FILE).exists():
        return load_advice(folder / FILE)
    return load_examined(folder) if is_examined(folder) else load(folder)


@dataclass(frozen=True)
class Comparison:
    """Two finished things, and what they are called."""

    one: Side
    other: Side
    command: str

    @property
    def answer(self) -> str:
        """Whether the two say the same, in one paragraph."""
        return answer(self.one, self.other, list(both_claims(self.one, self.other)))

    @property
    def differences(self) -> tuple[str, ...]:
        """What else differs, a sentence each."""
        return tuple(differences(self.one, self.other))

    def report(self, path: str | Path) -> Path:
        """Write them side by side as one HTML file, and give its path."""
        page = render_comparison(self.one, self.other, self.command)
        with whole_folder(Path(path).parent) as aside:
            (aside / Path(path).name).write_text(page, encoding="utf-8")
        return Path(path)


def compare(one: str | Path, other: str | Path, command: str | None = None) -> Comparison:
    """Two folders that studies, probes or advice have filled, side by side.

    >>> compare("layerwise-out/yosinski", "layerwise-out/again").report("both.html")    # doctest: +SKIP

    Raises StudyError where a folder holds none of these, or the two are one.
    """
    if Path(one).resolve() == Path(other).resolve():
        raise StudyError(f"{one} and {other} are one folder; name another to compare it with")
    sides = [_side(str(folder), load_finished(folder)) for folder in (one, other)]
    return Comparison(sides[0], sides[1], command or shlex.join(["layerwise", "report", str(one), str(other)]))


def _side(name: str, found: Finished) -> Side:
    match found:
        case Study():
            return _of_reports(name, "study", found.contents.title, found, {"": found.contents})
        case Scoreboard():
            reports = {study.name: study.contents for study in found.together}
            return _of_reports(name, "studies", f"{len(reports)} studies", found, reports)
        case Examined():
            return _of_probe(name, found)
        case Advice():
            return _of_advice(name, found)


def _of_reports(name: str, kind: str, title: str, found: Study | Scoreboard, reports: Mapping[str, Report]) -> Side:
    """A study, or several by their names: of these the figures are left to their own report."""
    strips = {part: strip for part, report in reports.items() if (strip := transfer_strip(report.rows))}
    claims: dict[str, Mapping[str, Any]] = {
        f"{part} {claim['id']}".strip(): claim for part, report in reports.items() for claim in report.claims
    }
    return Side(
        name, kind, title, found.answer, found.findings, strips, claims,
        figures=reports[""].figures if "" in reports else (),
        facts=tuple(fact for report in reports.values() for fact in facts(report)) if len(reports) == 1 else (),
        notes=tuple(found.plan["notes"]),
        provenance=found.plan["provenance"],
    )  # fmt: skip


def _of_probe(name: str, found: Examined) -> Side:
    plan = found.plan
    return Side(
        name, "probe", of_probe.title(plan), found.answer, found.findings,
        {"": of_probe.strip(found.rows, plan["layers"])}, {},
        tuple(of_probe.figures(found.rows, plan["quantities"], plan["layers"])),
        tuple((str(what), str(value)) for what, value in plan["facts"]), tuple(plan["notes"]), plan["provenance"],
    )  # fmt: skip


def _of_advice(name: str, found: Advice) -> Side:
    told = found.as_json
    strips: dict[str, Strip] = {"": of_advice.strip(told)}
    return Side(
        name, "advice", f"What to do with each layer of {of_advice.short(found.net)}", found.answer, found.findings,
        strips, {}, tuple(of_advice.figures(told)), tuple(of_advice.facts(told)), found.notes, found.provenance,
        advised=f"{found.recommended.name} ({found.recommended.treatment})",
    )  # fmt: skip
