"""What Sharma claims, S1 to S5, each as the one contrast that was written before the numbers.

Every contrast is one number for each draw of known and unknown classes with its source net: draws are the clusters. The
paper's own numbers are of a single draw, 0-4 known and 5-9 unknown, in which how new a class is cannot be told from how
hard it is to draw; over draws each class is known in some and unknown in others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from layerwise.claims import Claim, Kind, decide, unmeasured
from layerwise.rows import pick
from layerwise.studies.sentences import MINUS
from layerwise.studies.sharma_retraining import DRAW, OVER, PAPERS, WITHIN, correlation, flagged, mean_gains

PAPER = "Sharma, with Cottrell"
DECODERS = {  # the paper's experiment 3, by digit: error at layer 1 and at layer 2
    "0": (76.24341583, 144.20317078), "1": (37.76148605, 71.99356079), "2": (89.99630737, 175.07817896),
    "3": (87.36468506, 167.58268738), "4": (84.15545654, 157.71461487), "5": (88.88010406, 184.75756836),
    "6": (76.63885498, 170.90098572), "7": (63.3898735, 118.9193573), "8": (98.47270966, 213.88096619),
    "9": (71.3926239, 143.69009399),
}  # fmt: skip
INVERSIONS = {  # its experiment 2: error at layer 1, at layer 2, and at layer 2 of the untrained net
    "0": (8018.10351562, 10714.22363281, 11414.13769531), "1": (5083.41992188, 7549.57910156, 8240.32128906),
    "2": (7755.01660156, 10549.84765625, 10980.546875), "3": (7366.31933594, 10222.41210938, 10769.54296875),
    "4": (6782.44726562, 9637.2109375, 10000.38964844), "5": (6271.58544922, 8856.26660156, 9862.296875),
    "6": (7448.06396484, 10270.82226562, 10581.93261719), "7": (6603.953125, 9235.93261719, 9618.20898438),
    "8": (8119.54541016, 10832.08398438, 11293.93554688), "9": (6839.11328125, 9510.26074219, 10074.81542969),
}  # fmt: skip
DEEP = "inversion of a deep net"  # as an experiment
GIVEN = "one deep net's own weights"  # where the user brought them: all draws have them in common
PIXELS = "pixels"  # in place of a layer's name: the image itself
PICTURE = "picture"  # the quantity of rows that have one: its squared error per pixel
SQUARED, CORRELATION = "squared pixels an image", "rank correlation"


def claims(rows: pd.DataFrame) -> list[Claim]:
    """S1 to S5 held against the rows; those whose experiment was not run are not computed."""
    return [*_spread(rows), *_inversion(rows), *_decoder(rows), *_retraining(rows), _likeness(rows)]


def layers_of(rows: pd.DataFrame, **wanted: object) -> list[str]:
    """The layers that these rows are about, in forward order."""
    found = pick(rows, **wanted)["layer"].dropna()
    return [name for name in dict.fromkeys(found.tolist()) if name != PIXELS]


def grid(rows: pd.DataFrame, by: Sequence[str], **wanted: object) -> pd.DataFrame:
    """The mean value for each draw (down) and each combination of the columns `by` (across)."""
    found = pick(rows, **wanted).dropna(subset=["value"])
    return found.groupby([*DRAW, *by])["value"].mean().unstack(list(by))


def _spread(rows: pd.DataFrame) -> list[Claim]:
    about = {"quantity": "relative_spread", "condition": "trained"}
    order, more = layers_of(rows, **about), None
    sides = [grid(rows, ["layer"], **about, group=group) for group in ("unknown", "known")]
    if order and all(set(order) <= set(side) for side in sides):
        more = sides[0] - sides[1]
    return [
        _claim(
            rows,
            "S1: Unknown classes spread more than known ones",
            "relative spread in activation space, unknown classes minus known, mean over layers",
            None if more is None else more[order].mean(axis=1, skipna=False),
            about,
        ),
        _claim(
            rows,
            "S1 depth: Unknown classes spread more than known ones, and the more the deeper the layer",
            f"(relative spread, unknown classes minus known) at {_last(order)} minus at {_first(order)}",
            None if more is None else more[order[-1]] - more[order[0]],
            about,
        ),
    ]


def _inversion(rows: pd.DataFrame) -> list[Claim]:
    about, paper = {"quantity": "inversion_image_error"}, pd.DataFrame(INVERSIONS).T[[1, 2]]
    paper.columns = pd.Index(["trained", "untrained"])
    shallow, deep = (layers_of(rows, experiment=name, **about)[-1:] for name in ("inversion", DEEP))
    here = {**about, "experiment": "inversion", "layer": shallow}
    known, in_paper = grid(rows, ["group"], **here, condition="trained"), _groups(paper["trained"])
    share = "image error of inversion, of the untrained net less that of the trained one, relative to their mean"
    return [
        _claim(
            rows,
            "S2: Inversion does not tell a trained shallow net from an untrained one",
            f"{share}, at {_last(shallow)}",
            _relative(grid(rows, ["condition"], **here), "untrained", "trained"),
            here,
            published=_points(_relative(paper.mean().to_frame().T, "untrained", "trained").iloc[0]),
            kind="absence",
        ),
        _claim(
            rows,
            "S2 known: Inversion does not tell unknown classes from known ones on a shallow net",
            "image error of inversion, of unknown classes less that of known ones, relative to their mean, at "
            f"{_last(shallow)}",
            _relative(known, "unknown", "known"),
            {**here, "condition": "trained"},
            published=_points(_relative(in_paper.to_frame().T, "unknown", "known").iloc[0]),
            kind="absence",
        ),
        _claim(
            rows,
            "S2 deep: Inversion tells a trained deep net from an untrained one, at its deepest convolution",
            f"{share}, at {_last(deep)}",
            _relative(grid(rows, ["condition"], **about, experiment=DEEP, layer=deep), "untrained", "trained"),
            {**about, "experiment": DEEP, "layer": deep},
            given=GIVEN if pick(rows, experiment=DEEP)["net"].str.contains("@").any() else "",
        ),
    ]


def _relative(errors: pd.DataFrame, one: str, other: str) -> "pd.Series[float]":
    """The difference of two columns as a share of their mean; of nothing where one of them is not there."""
    if not {one, other} <= set(errors):
        return pd.Series(dtype=float)
    return (errors[one] - errors[other]) / errors[[one, other]].mean(axis=1)


def _groups(of_digits: "pd.Series[float]") -> "pd.Series[float]":
    """The paper's mean over known and over unknown digits."""
    return of_digits.groupby(["known" if digit in "01234" else "unknown" for digit in of_digits.index]).mean()


def _decoder(rows: pd.DataFrame) -> list[Claim]:
    about = {"quantity": "decoder_raw_error", "condition": "trained"}
    order, paper = layers_of(rows, **about), pd.DataFrame(DECODERS, index=[1, 2]).T
    of_layers = grid(rows, ["layer"], **about)
    last = grid(rows, ["group"], **about, layer=order[-1:])
    both = {"known", "unknown"} <= set(last)
    deeper, beyond = float((paper[2] - paper[1]).mean()), _groups(paper[2])
    return [
        _claim(
            rows,
            "S3: The decoder's error grows with depth",
            f"raw error, mean over classes, at {_last(order)} minus at {_first(order)}",
            of_layers[order[-1]] - of_layers[order[0]] if order else None,
            about,
            SQUARED,
            f"{deeper:+.1f} (layer 2 minus 1)",
        ),
        _claim(
            rows,
            "S3 unknown: At the last convolution unknown classes exceed known ones",
            f"raw error at {_last(order)}, mean over unknown classes minus mean over known ones",
            last["unknown"] - last["known"] if both else None,
            {**about, "layer": order[-1:]},
            SQUARED,
            f"{beyond['unknown'] - beyond['known']:+.1f} (5, 6, 8 exceed them, 7 and 9 do not)",
        ),
    ]


def _retraining(rows: pd.DataFrame) -> list[Claim]:
    made, gained = [], pick(rows, quantity="gain")
    pairs = int(gained.drop_duplicates("run_key").groupby(DRAW).size().max()) if len(gained) else 1
    for name, says, quantity, which in (
        ("S4", "A class's decoder error at a layer tells what retraining the layer gains for it", WITHIN,
         "over the unknown classes, mean over layers"),
        ("S4 layers", "Decoder errors tell which layer to retrain for which class, beyond its depth", OVER,
         "over unknown classes and layers together, each less its layer's mean"),
    ):  # fmt: skip
        contrast = correlation(rows, PAPERS, quantity)
        told = f"rank correlation of the raw decoder error with the gain in test accuracy, {which}"
        made.append(_claim(rows, f"{name}: {says}", told, contrast, {"quantity": "gain"}, CORRELATION, pairs=pairs))
    rule = _claim(
        rows,
        "S4 rule: Retraining pays for the classes whose error exceeds that of the known ones",
        "gain in test accuracy from retraining a layer: of unknown classes whose raw error there exceeds the median of "
        "the known ones, minus that of the others, mean over layers",
        rule_contrast(rows),
        {"quantity": "gain"},
        pairs=pairs,
    )
    return [*made, rule]


def rule_contrast(rows: pd.DataFrame) -> "pd.Series[float] | None":
    """Mean gain of the classes that the paper's rule would retrain a layer for, minus that of the others.

    A layer counts in the draws in which the rule parts its classes.
    """
    gained = mean_gains(rows)
    if gained.empty:
        return None
    both = gained.rename("gain").to_frame().join(flagged(rows).rename("flagged"), how="inner")
    if both.empty:
        return None
    sides = both.groupby([*DRAW, "layer", "flagged"])["gain"].mean().unstack("flagged").reindex(columns=[True, False])
    return (sides[True] - sides[False]).groupby(DRAW).mean()


def _likeness(rows: pd.DataFrame) -> Claim:
    """S5: the known class that an unknown one looks like is that of most of its nearest known images in pixels."""
    about = {"quantity": "nearest_known", "condition": "trained"}
    order = layers_of(rows, **about)
    found = pick(rows, **about)
    nearest = found[found["layer"].isin([PIXELS, *order[-1:]])]
    wide = nearest.pivot_table(index=[*DRAW, "class_name"], columns="layer", values="other_class", aggfunc="first")
    contrast = None
    if order and {PIXELS, order[-1]} <= set(wide):
        known = pick(rows, quantity="relative_spread", group="known").groupby(DRAW)["class_name"].nunique()
        contrast = (wide[PIXELS] == wide[order[-1]]).astype(float).groupby(DRAW).mean() - 1 / known
    return _claim(
        rows,
        "S5: An unknown class lies nearest the known class that it looks like",
        f"share of unknown classes whose nearest known class at {_last(order)} is that in pixels, minus chance",
        contrast,
        about,
        published="8 lies nearest 0",
    )


def _claim(
    rows: pd.DataFrame,
    stated: str,
    quantity: str,
    contrast: "pd.Series[float] | None",
    used: Mapping[str, object],
    unit: str = "points",
    published: str = "",
    *,
    kind: Kind = "direction",
    pairs: int = 1,
    given: str = "",
) -> Claim:
    name, _, says = stated.partition(": ")
    stated_claim = replace(unmeasured(name, PAPER, says, quantity, unit, "draw"), published=published)
    if contrast is None or contrast.dropna().empty:
        return decide(stated_claim, kind, None, pairs)
    drawn = contrast.dropna().astype(float).rename("value").to_frame().assign(trial=0).set_index("trial", append=True)
    claim = decide(stated_claim, kind, drawn["value"], pairs)
    if given:
        given = f"{claim.given} and {given}" if claim.given else f"given {given}"
        claim = replace(claim, given=given, rule=f"{claim.rule}; this interval is {given}")
    here = pick(rows, **used).set_index(DRAW)
    keys = here.loc[here.index.isin(contrast.dropna().index), ["run_key", "source_key"]].to_numpy().ravel()
    return replace(claim, rows=tuple(sorted({key for key in keys if isinstance(key, str)})))


def _first(order: Sequence[str]) -> str:
    return order[0] if order else "the first layer"


def _last(order: Sequence[str]) -> str:
    return order[-1] if order else "the last convolution"


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.1f} points".replace("-", MINUS)
