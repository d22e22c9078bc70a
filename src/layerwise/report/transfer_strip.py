"""The layer strip of a study, from its rows: what copying a layer with all below it does to test accuracy.

Where layers were not copied from below, it is of what one layer does alone: copied too, or retrained.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from layerwise.report.strip import FRAGILE, GENERAL, SPECIFIC, UNKNOWN, Deed, Known, Lane, Strip, tiles
from layerwise.report.summary import GIVEN, LEVEL, NET, changes, ends, over_clusters
from layerwise.report.words import counted
from layerwise.rows import pick
from layerwise.studies.grand_nets import LINE, over_categories
from layerwise.studies.yosinski_nets import CAUSES, losses

COPIED_THEN_FRESH = r"{letter}*\d*\*?R*\d*\*?"  # F3R5, F*R, R8, FFRR: other treatments keep layers in other ways
PAIR = ["target_task", "source_task", "seed", "trial"]  # with what was done, one net of several from one source
LOST = "decoder_normalised_error"
LETTERS = {"F": "frozen", "T": "tuned"}
RULE = (
    "Freeze: copied from another task with all layers below it and frozen, it gains test accuracy against a net that "
    "starts afresh (95 % interval above 0). Tune: it does so copied and tuned. Fresh: frozen it loses, and tuned it is "
    "not known to gain; or it always was fresh. Else unknown."
)
OF_LESIONS = (
    "Tune: copied and tuned, as all others are, it gains test accuracy against being fresh (95 % interval above 0). "
    "Fresh: it loses. Else unknown."
)
OF_RETRAINING = (
    "Tune: it gains test accuracy if it alone is retrained, all others copied and frozen (95 % interval above 0). "
    "Freeze: it loses. Fresh: it always was. Else unknown."
)
INTERVAL = "Whiskers: 95 % intervals."


def strip(rows: pd.DataFrame) -> Strip | None:
    """The strip of nets with the lowest n layers copied, at the fewest and the most samples per class.

    Else of layers that were retrained each alone, or of lesions. Null without layer rows, and where n alone does not
    say what was done.
    """
    sizes = rows[rows["run_key"].isna() & rows["layer"].notna() & (rows["quantity"] == "parameters")]
    if sizes.empty:
        return None
    net = sizes["net"].iloc[0]
    sizes = sizes.drop_duplicates("layer")
    if pd.notna(net):
        rows = rows[rows["net"] == net]
    names = [str(name) for name in sizes["layer"]]
    parameters = [int(size) for size in sizes["value"]]
    copied = {letter: _copied(rows, letter) for letter in LETTERS}
    if copied["F"].empty:
        return _of_retraining(rows, names, parameters) or _of_lesions(rows, names, parameters)
    few = int(copied["F"]["shots"].min())
    lanes = [*_general(copied, len(names)), *_causes(rows, len(names))]
    deeds = [_deed(copied, few, n, len(names)) for n in range(1, len(names) + 1)]
    at = f" Said of {counted(few, 'sample')} per class." if copied["F"]["shots"].nunique() > 1 else ""
    given = f" They are {GIVEN}." if copied["F"]["clusters"].max() == 1 else ""
    return Strip(tiles(names, deeds, parameters), tuple(lanes), RULE + at, INTERVAL + given)


def _copied(rows: pd.DataFrame, letter: str) -> pd.DataFrame:
    """Test accuracy with the lowest n layers copied, minus that of a fresh net: shots, n, mean, low, high, clusters."""
    other = rows[~(rows["source_task"] == rows["target_task"]).fillna(False)]
    plain = other[other["treatment"].str.fullmatch(COPIED_THEN_FRESH.format(letter=letter)).fillna(False)]
    return over_clusters(changes(_plain_grid(ends(plain))), ["shots", "n"])


def _plain_grid(rows: pd.DataFrame) -> pd.DataFrame:
    """The first experiment with one run for each cluster, trial, number of samples and n.

    In others n alone does not say what was done: layers are copied from several sources, or by several rules.
    """
    for _, part in rows.groupby("experiment", sort=False, dropna=False):
        if not part.duplicated([*NET, "shots", "n"]).any():
            return part
    return rows.head(0)


def _general(copied: Mapping[str, pd.DataFrame], depth: int) -> list[Lane]:
    """Frozen at the fewest and the most samples per class; tuned at the fewest."""
    frozen, tuned = copied["F"], copied["T"]
    every = sorted({int(frozen["shots"].min()), int(frozen["shots"].max())})
    return [
        Lane(
            GENERAL,
            f"copied with all below it and {how}{_at(shots) * (len(every) > 1)}, against a fresh net",
            _cells(table[table["shots"] == shots], depth, "fresh"),
        )
        for table, how, wanted in ((frozen, "frozen", every), (tuned, "tuned", every[:1]))
        for shots in wanted
        if (table["shots"] == shots).any()
    ]


def _at(shots: int) -> str:
    return f", {counted(shots, 'sample')} per class"


def _causes(rows: pd.DataFrame, depth: int) -> list[Lane]:
    """What freezing loses on the layer's own task, and what besides on another, where nets of both kinds were made."""
    if not {"base", "BnB", "AnB"} <= set(rows["condition"].dropna()):
        return []
    found = losses(rows).assign(given="")
    told = {
        FRAGILE: "lost by freezing it with all below it, though the task stays its own (base − BnB)",
        SPECIFIC: "lost besides because the task is another (BnB − AnB)",
    }
    return [
        Lane(title, tells, _cells(found[found["cause"] == cause], depth, "fresh"), more_is_worse=True)
        for (title, tells), cause in zip(told.items(), CAUSES, strict=True)
        if (found["cause"] == cause).any()
    ]


def _of_lesions(rows: pd.DataFrame, names: Sequence[str], parameters: Sequence[int]) -> Strip | None:
    """The strip of nets that are copied whole but for one layer; null without such nets."""
    table = _lesioned(rows, len(names))
    if table.empty:
        return None
    cells = _cells(table, len(names), UNKNOWN)
    tells = "gained by copying it too, where all others are copied and everything is tuned"
    drawn = tiles(names, [_of_gain(cell) for cell in cells], parameters)
    return Strip(drawn, (Lane(GENERAL, tells, cells),), OF_LESIONS, f"{INTERVAL[:-1]} over categories.")


def _lesioned(rows: pd.DataFrame, depth: int) -> pd.DataFrame:
    """Test accuracy of nets that are copied whole, minus that with layer n fresh: n, mean, low, high, clusters.

    Over categories as the claims count them: pairs that have one in common are not independent.
    """
    masks = rows["condition"].str.extract(rf"^lesion ([01]{{{depth}}})$")[0]
    found = ends(rows.assign(mask=masks)[masks.notna()])
    whole = found.loc[found["mask"] == "1" * depth, [*PAIR, "value"]]
    both = found[found["mask"].str.count("0") == 1].merge(whole, on=PAIR, suffixes=("", "_whole"))
    gains = both.assign(value=both["value_whole"] - both["value"], n=both["mask"].str.find("0") + 1)
    gains = gains.assign(repeat=gains["seed"].astype(str) + "-" + gains["trial"].astype(str))
    made: list[dict[str, Any]] = []
    for n, part in gains.groupby("n"):
        mean = over_categories(part.set_index(LINE)["value"].astype(float), LEVEL)
        low, high = mean.bounds or (None, None)
        made.append({"n": n, "mean": mean.estimate, "low": low, "high": high, "clusters": mean.clusters})
    return pd.DataFrame(made)


def _of_retraining(rows: pd.DataFrame, names: Sequence[str], parameters: Sequence[int]) -> Strip | None:
    """The strip of nets that are copied and frozen but for one layer; null without a gain or a decoder."""
    gained = _by_layer(pick(rows, quantity="gain"), names)
    lost = _by_layer(pick(rows, quantity=LOST, condition="trained", group="unknown"), names)
    if gained.empty and lost.empty:
        return None
    lanes = (
        Lane(
            GENERAL,
            "gained by retraining it alone for unknown classes, all others frozen: the less, the more general",
            _cells(gained, len(names), "fresh"),
            more_is_worse=True,
        ),
        Lane(
            "Lost",
            "what decoders that learnt the known classes cannot draw from it, of what differs in an unknown one",
            _cells(lost, len(names), UNKNOWN),
            "percent",
            more_is_worse=True,
        ),
    )
    deeds = [Deed("R") if cell == "fresh" else _of_gain(cell, "F") for cell in lanes[0].cells]
    interval = f"{INTERVAL[:-1]} over draws of classes."
    if pd.concat([gained, lost])["clusters"].max() == 1:
        interval = f"{INTERVAL} They are {GIVEN}."
    return Strip(tiles(names, deeds, parameters), lanes, OF_RETRAINING, interval)


def _by_layer(values: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Means over draws of what is measured of single layers: n, mean, low, high, clusters."""
    numbers = {name: number for number, name in enumerate(names, 1)}
    return over_clusters(values.assign(n=values["layer"].map(numbers)).dropna(subset=["n"]), ["n"], "draw")


def _of_gain(cell: Known | str, otherwise: str = "R") -> Deed:
    """What OF_LESIONS and OF_RETRAINING say; `otherwise` is for a layer that loses."""
    if isinstance(cell, str) or cell.low is None or cell.high is None:
        return Deed("?")
    return Deed("T" if cell.low > 0 else otherwise if cell.high < 0 else "?")


def _cells(table: pd.DataFrame, depth: int, last: str) -> tuple[Known | str, ...]:
    """A layer each; what was not tried is unknown, and the last one, where it was never copied, has its own word."""
    by_n = {int(row["n"]): _known(row) for row in table.to_dict("records")}
    return tuple(by_n.get(n, last if n == depth else UNKNOWN) for n in range(1, depth + 1))


def _known(row: Mapping[Any, Any]) -> Known:
    low, high = (None if pd.isna(row[name]) else float(row[name]) for name in ("low", "high"))
    return Known(float(row["mean"]), low, high, given=GIVEN if row["clusters"] == 1 else "")


def _deed(copied: Mapping[str, pd.DataFrame], shots: int, n: int, depth: int) -> Deed:
    """What RULE says."""
    here = {letter: _cells(table[table["shots"] == shots], depth, "fresh")[n - 1] for letter, table in copied.items()}
    frozen, tuned = here["F"], here["T"]
    if isinstance(frozen, Known) and frozen.low is not None and frozen.low > 0:
        return Deed("F")
    if isinstance(tuned, Known) and tuned.low is not None and tuned.low > 0:
        return Deed("T")
    if frozen == "fresh" or (isinstance(frozen, Known) and frozen.high is not None and frozen.high < 0):
        return Deed("R")
    return Deed("?")
