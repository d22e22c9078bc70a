"""Reports: rows in, one HTML file out, which opens from disk and asks the network for nothing.

    write_report(folder / "report.html", Report(title, answer, findings, rows, claims, figures, plan, ...))
    write_scoreboard(folder / "report.html", Board(title, reports, plan, ...))

Nothing is computed here beyond means, minima, maxima and the interval of `claims`: what is in the file is in the rows.
"""

from pathlib import Path

from layerwise.report.figures import Figure
from layerwise.report.scoreboard import Board, render_scoreboard
from layerwise.report.study import Report, render_study

__all__ = ["Board", "Figure", "Report", "write_report", "write_scoreboard"]


def write_report(path: Path, report: Report) -> None:
    """Write the report as one self-contained HTML file of under 3 MB, of which about 0.9 MB is Vega."""
    path.write_text(render_study(report), encoding="utf-8")


def write_scoreboard(path: Path, board: Board) -> None:
    """Write several studies as one such file, their claims at its top; of all studies under 6 MB."""
    path.write_text(render_scoreboard(board), encoding="utf-8")
