"""The studies there are. Each is a module with

TITLE, EXPERIMENTS                 what it is called; the experiments that it consists of, by name, a sentence each
DATA, RESIZE, GREY                 the images that it takes where none are asked for, and how it wants any images;
                                   ANY_DATA = False where it takes no others
TAKES_DEEP                         True where it looks at a net with weights of the user's own too (`--deep`)
MEASURES                           the functions that its measurements name
design(request)                    what exactly is run: the request fitted to the data, with notes on it
runs(design)                       the runs wanted
measurements(design)               what is measured on their nets, beyond learning curves (see `layerwise.measure`)
table(design, results, measured)   the rows: results of runs and rows of measurements, both by key
remarks(design, rows)              what the rows show that a reader must know first
claims(rows)                       what the paper says, held against the rows
words(rows, claims)                the answer in one paragraph, and the main findings

Its figures are those of the module of its name in `layerwise.report`.
"""

from importlib import import_module
from types import ModuleType

from layerwise.errors import StudyError, unknown

STUDIES = {
    "gutstein": "Keep the bottom n levels of LeNet-5, retrain the rest on few samples (Gutstein, Fuentes, Freudenthal)",
    "yosinski": "How transferable are the features of each layer of an AlexNet (Yosinski, Clune, Bengio, Lipson)",
    "grand": "Copy a net for one category to another, whole or in part; watch layers drift (Grand, Kahn, Reimers)",
    "sharma": "Which layers must be retrained for which unknown class, told from activations alone (Sharma, Cottrell)",
    "hierarchy": "Is what is learnt from hard tasks specific? An odd bar among many (Ahissar and Hochstein, for nets)",
}


def study_module(name: str) -> ModuleType:
    """The study of this name, imported; raises StudyError with the nearest one where there is none."""
    if name not in STUDIES:
        raise StudyError(unknown("study", name, STUDIES))
    return import_module(f"layerwise.studies.{name}")
