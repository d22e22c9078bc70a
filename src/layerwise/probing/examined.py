"""A net that has been probed, and the folder that it leaves: report.html, its rows, plan.json, pictures."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from layerwise import rows as row_tables
from layerwise.errors import StudyError
from layerwise.outputs import whole_folder, write_json
from layerwise.probing import words
from layerwise.report.probe import render_probe

PICTURES = "pictures"
OURS = ("inversion-*.png", "decoder-*.png", "thumbnails.png")  # what an earlier probe may have left there


@dataclass(frozen=True)
class Examined:
    """What the probes of a net found. In a notebook it shows its answer and a row for each layer."""

    rows: pd.DataFrame = field(repr=False)
    pictures: dict[str, bytes] = field(repr=False)  # PNG files by name
    plan: dict[str, Any] = field(repr=False)  # as plan.json: runs, totals, notes, provenance, probes

    @property
    def layers(self) -> pd.DataFrame:
        """A row for each layer, a column for each of the main quantities."""
        return words.layer_table(self.rows, self.plan["layers"])

    @property
    def answer(self) -> str:
        """What the probes say, in one paragraph."""
        return words.answer(self.rows, self.plan["layers"])

    @property
    def findings(self) -> tuple[str, ...]:
        """The main findings, a sentence or two each."""
        return words.findings(self.rows)

    def report(self, path: str | Path) -> Path:
        """Write the report as one HTML file, and give its path."""
        page = render_probe(self.answer, self.findings, self.rows, self.layers, self.pictures, self.plan)
        with whole_folder(Path(path).parent) as aside:
            (aside / Path(path).name).write_text(page, encoding="utf-8")
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write the report, the rows, the pictures and the plan into a folder; gives the report's path."""
        with whole_folder(Path(folder)) as aside:
            row_tables.write(self.rows, aside)
            write_json(aside / "plan.json", self.plan)
        for pattern in OURS:
            for stale in (Path(folder) / PICTURES).glob(pattern):
                stale.unlink()
        if self.pictures:
            with whole_folder(Path(folder) / PICTURES) as aside:
                for name, content in self.pictures.items():
                    (aside / f"{name}.png").write_bytes(content)
        return self.report(Path(folder) / "report.html")

    def _repr_html_(self) -> str:
        from html import escape

        findings = "".join(f"<li>{escape(finding)}</li>" for finding in self.findings)
        return f"<p>{escape(self.answer)}</p><ol>{findings}</ol>{self.layers.to_html(index=False)}"


def is_examined(folder: Path) -> bool:
    """Has `save` of a probe written this folder, and not that of a study?"""
    try:
        return "probes" in json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def load_examined(folder: Path) -> Examined:
    """What `save` wrote."""
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    try:
        pictures = {name: (folder / PICTURES / f"{name}.png").read_bytes() for name in plan["captions"]}
        return Examined(row_tables.read(folder), pictures, plan)
    except (OSError, ValueError, KeyError) as error:
        wrong = str(error).partition("\n")[0]
        raise StudyError(
            f"{folder} is not whole (rows.parquet, plan.json or a picture: {wrong}); run the probe again"
        ) from error
