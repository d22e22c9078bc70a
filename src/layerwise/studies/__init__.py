"""The studies there are. Each is a module with

design(request)          what exactly is run: the request fitted to the data and the net, with notes on what was fitted
runs(design)             the runs wanted
table(design, results)   the rows
remarks(design, rows)    what the rows show that a reader must know first
claims(rows)             what the paper says, held against the rows
words(rows, claims)      the answer in one paragraph, and the main findings
"""

from importlib import import_module
from types import ModuleType

from layerwise.errors import StudyError, unknown

STUDIES = {
    "gutstein": "Keep the bottom n levels of LeNet-5, retrain the rest on few samples (Gutstein, Fuentes, Freudenthal)",
}


def study_module(name: str) -> ModuleType:
    """The study of this name, imported; raises StudyError with the nearest one where there is none."""
    if name not in STUDIES:
        raise StudyError(unknown("study", name, STUDIES))
    return import_module(f"layerwise.studies.{name}")
