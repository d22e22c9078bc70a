"""Every study with one command: which options they share, and the scoreboard of their claims."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from layerwise.errors import LayerwiseError, StudyError
from layerwise.outputs import Scoreboard, Study
from layerwise.progress import Quiet, duration
from layerwise.studies import STUDIES, study_module

ALONE = ("net", "experiments", "trials", "shots", "steps", "source_steps", "known", "split")  # are options of one study
WITH_DATA = ("resize", "grey", "classes", "hold_out", "groups", "drop_duplicates")  # need --data where all are run


def every(
    study: Callable[..., Study | Scoreboard], asked: dict[str, Any], listener: Quiet, *, dry_run: bool, command: str
) -> Scoreboard:
    """Every study with these options; one that fails is told, and harms no other.

    `study(name, **options)` runs one, and `command` asked for all. With `data` each that can takes these images, in the
    size that it needs; in that of `resize` where any will do.
    """
    given = {k: v for k, v in asked.items() if k not in {"name", "out"} and v is not False}
    _check_for_all(given)
    out = Path(asked["out"]) if "out" in asked else None
    made: list[Study] = []
    lost: dict[str, Exception] = {}
    for name in STUDIES:
        listener.say(f"Study {name}")
        try:
            fitting = _fitting(study_module(name), given, listener)
            found = study(name, **fitting, out=out and out / name)
        except KeyboardInterrupt as interruption:
            told = str(interruption) or "nothing is lost; the same command does the rest"
            raise KeyboardInterrupt(f"in study {name}: {told}") from None
        except Exception as error:
            lost[name] = error
            listener.say(f"Study {name} failed: {_told(error)}")
        else:
            assert isinstance(found, Study)
            made.append(found)
    if not made:
        raise next(iter(lost.values()))
    reasons = [f"study {name} failed ({_told(error)}); run it by itself to see why" for name, error in lost.items()]
    board = Scoreboard.of(made, reasons, command)
    totals = board.plan["totals"]
    counts = f"{totals['runs']} runs wanted, {totals['stored']} stored, {totals['missing']} missing"
    time = f"forecast {duration(totals['forecast_seconds'])}" if totals["missing"] else "nothing to train"
    listener.say(f"All {len(made)} studies: {counts}; {time}")
    if out and not dry_run:
        board.save(out)
    return board


def _fitting(module: ModuleType, given: dict[str, Any], listener: Quiet) -> dict[str, Any]:
    """The options as one of several studies takes them: images in its own size, or its own where no others will do."""
    if not getattr(module, "ANY_DATA", True) and "data" in given:
        listener.say(f"Note: this study has only its own images, {module.DATA}")
        return {k: v for k, v in given.items() if k not in {"data", *WITH_DATA}}
    return {**given, "resize": module.RESIZE or given.get("resize")}


def _check_for_all(given: dict[str, Any]) -> None:
    """Raise StudyError for options that do not mean the same to every study."""
    for option in (*ALONE, *WITH_DATA):
        if option not in given:
            continue
        value = given[option]
        told = "" if value is True else " " + ",".join(map(str, value if isinstance(value, list | tuple) else [value]))
        shown = f"--{option.replace('_', '-')}{told}"
        if option in ALONE:
            raise StudyError(f"{shown} is for one study; run that one by itself, such as: layerwise study gutstein")
        if "data" not in given:
            raise StudyError(f"{shown} needs --data here: without it each study has images of its own")


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, LayerwiseError) else f"{type(error).__name__}: {error}".partition("\n")[0]
