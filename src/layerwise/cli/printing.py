"""What commands print: tables that can be cut and grepped, findings, and one line for a mistake."""

import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

import typer


def complain(kind: str, message: str) -> None:
    """One line on standard error, whatever is in the message."""
    typer.echo(printable(f"{kind}: {message}"), err=True)


def printable(text: str) -> str:
    """The text on one line: names of classes and files may hold line breaks, and what a terminal would act on."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def print_entries(heads: list[str], rows: list[list[str]]) -> None:
    """Rows of long texts for a terminal: the first two cells on a line, the others below it, wrapped to fit."""
    width = shutil.get_terminal_size().columns
    for first, second, *texts in rows:
        typer.echo(f"{first}  {second}")
        for head, text in zip(heads[2:], texts, strict=True):
            typer.echo(textwrap.fill(f"{head}: {text}", width, initial_indent="  ", subsequent_indent="    "))


def print_findings(found: Any, path: Path) -> None:
    """The answer, the findings, the claims, and where the report is; of several studies with each claim's statement."""
    typer.echo(f"\n{found.answer}\n")
    for number, finding in enumerate(found.findings, 1):
        typer.echo(f"  {number}. {finding}")
    typer.echo("")
    heads, rows = ["claim", "verdict", "estimate", "interval"], [_claim_row(claim) for claim in found.claims]
    if hasattr(found, "studies"):
        holds = {True: "yes", False: "no", None: "-"}
        heads = [*heads, "outlasts", "statement"]
        rows = [[*row, holds[c.outlasts], c.statement] for row, c in zip(rows, found.claims, strict=True)]
    print_table(heads, rows)
    typer.echo(f"\nReport: {path}")


def print_compared(both: Any, path: Path) -> None:
    """Whether the two say the same, what else differs, and where their report is."""
    typer.echo(f"\n{both.answer}\n")
    for number, difference in enumerate(both.differences, 1):
        typer.echo(f"  {number}. {difference}")
    typer.echo(f"\nReport: {path}")


def _claim_row(claim: Any) -> list[str]:
    from layerwise.report import words

    told = {**claim.as_json(), "unit": claim.unit}
    return [claim.id, claim.verdict, words.estimate(told), words.bounds(told)]


def print_table(heads: list[str], rows: list[list[str]]) -> None:
    """Columns as wide as they need to be, to be cut and grepped; on a terminal the last one is wrapped to fit."""
    rows = [[printable(cell) for cell in row] for row in rows]
    *widths, _ = (max(map(len, column)) for column in zip(heads, *rows, strict=True))
    indent = sum(widths) + 2 * len(widths)
    room = max(20, shutil.get_terminal_size().columns - indent) if sys.stdout.isatty() else sys.maxsize
    for row in [heads, *rows]:
        first, *more = textwrap.wrap(row[-1], room) or [""]
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        typer.echo("\n".join(["  ".join([*cells, first]).rstrip(), *(" " * indent + line for line in more)]))
