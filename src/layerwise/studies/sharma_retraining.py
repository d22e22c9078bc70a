"""What Sharma's proposal was never put to: does a class's error at a layer tell what retraining the layer gains for it?

    gain(class, layer) = accuracy(class, layer tuned, the others frozen) - accuracy(class, all frozen)

on test images, per draw of known and unknown classes, trial and samples per class; both nets of a pair share samples,
head and data order. A predictor is held against the mean gain over trials and samples by Spearman's rank correlation,

    within a layer   over the unknown classes: does it tell for which class to retrain the layer?
    over layers      over unknown classes and layers together, predictor and gain each less its layer's mean: does it
                     tell which layer to retrain for which class? With the means left in, depth alone would do: deeper
                     layers have larger errors, and other gains, for all classes alike

one number for each draw; draws are the clusters. As nothing predicts a gain better than the gain itself, the gain of
one half of the trials is held against that of the other half in the same way: a ceiling for what could be found here.
"""

from collections.abc import Iterator

import pandas as pd
from scipy import stats

from layerwise.measure import Row
from layerwise.rows import pick

CLASS_ACCURACY = "class_accuracy"
NONE, ALL = "none", "all"  # conditions: which layers are retrained; else a layer's name
DRAW = ["target_task", "seed"]
WITHIN, OVER = "rank_correlation_within_layer", "rank_correlation_less_layer_means"
PREDICTORS = {  # quantity, and whether much (1) or little (-1) of it is to mean that retraining pays
    "decoder error": ("decoder_raw_error", 1),
    "decoder error, normalised": ("decoder_normalised_error", 1),
    "decoder error less the untrained net's": ("decoder_minus_untrained", 1),
    "nearest neighbours' errors": ("knn_accuracy", -1),
    "linear probe's errors": ("linear_accuracy", -1),
    "LogME, negative": ("logme", -1),
    "gradient signal-to-noise": ("signal_to_noise", 1),
}
PAPERS = "decoder error"
CEILING = "the gain itself, measured again"


def gains(rows: pd.DataFrame) -> list[Row]:
    """The gain of every class from retraining each layer, and from retraining all, for every pair of nets."""
    found = pick(rows, quantity=CLASS_ACCURACY)
    if found.empty:
        return []
    cell = [*DRAW, "trial", "shots", "class_name"]
    wide = found.pivot(index=cell, columns="condition", values="value")
    keys = found.pivot(index=cell, columns="condition", values="run_key")
    made: list[Row] = []
    for what in wide.columns.drop(NONE) if NONE in wide else ():
        about = {"condition": what, "layer": None if what == ALL else what, "group": "unknown"}
        about |= {"experiment": "retraining", "quantity": "gain"}
        gained = pd.DataFrame({"value": wide[what] - wide[NONE], "run_key": keys[what]}).dropna().reset_index()
        columns = list(map(str, gained.columns))
        made += [{**about, **dict(zip(columns, line, strict=True))} for line in gained.to_numpy().tolist()]
    return made


def correlations(rows: pd.DataFrame) -> list[Row]:
    """Each predictor's rank correlation with the gains, for every draw: within each layer, and over layers."""
    return [
        {**dict(zip(DRAW, draw, strict=True)), "experiment": "retraining", **row}
        for draw, of_draw in rows.groupby(DRAW)
        for row in _of_draw(of_draw)
    ]


def mean_gains(rows: pd.DataFrame) -> "pd.Series[float]":
    """The mean gain over trials and samples per class, by draw, layer and class."""
    gained = pick(rows, quantity="gain")
    return gained[gained["layer"].notna()].groupby([*DRAW, "layer", "class_name"])["value"].mean()


def predicted(rows: pd.DataFrame, quantity: str) -> "pd.Series[float]":
    """A predictor's value for each unknown class, by draw, layer and class."""
    found = pick(rows, quantity=quantity, condition="trained", group="unknown").dropna(subset=["value"])
    return found.groupby([*DRAW, "layer", "class_name"])["value"].mean()


def _of_draw(rows: pd.DataFrame) -> Iterator[Row]:
    gained = mean_gains(rows)
    if gained.empty:
        return
    for name, (quantity, sign) in PREDICTORS.items():
        yield from _rank_correlations(name, sign * predicted(rows, quantity), gained)
    again = pick(rows, quantity="gain")
    first = again["trial"] < sorted(again["trial"].unique())[again["trial"].nunique() // 2]
    yield from _rank_correlations(CEILING, mean_gains(again[first]), mean_gains(again[~first]))


def _rank_correlations(name: str, predictor: "pd.Series[float]", gained: "pd.Series[float]") -> Iterator[Row]:
    """Within each layer and over layers; none where either is the same for all classes."""
    both = pd.DataFrame({"predictor": predictor, "gain": gained}).dropna()
    for layer, part in both.groupby(level="layer"):
        yield {"condition": name, "layer": layer, "quantity": WITHIN, **_spearman(part)}
    levelled = (both - both.groupby(level="layer").transform("mean")).round(12)  # what is equal stays so
    yield {"condition": name, "quantity": OVER, **_spearman(levelled)}


def _spearman(both: pd.DataFrame) -> Row:
    if len(both) < 3 or (both.nunique() < 2).any():
        return {"value": None, "reason": f"{len(both)} classes with a gain and a prediction, or all alike: no ranks"}
    return {"value": float(stats.spearmanr(both["predictor"], both["gain"]).statistic)}


def correlation(rows: pd.DataFrame, predictor: str, quantity: str = WITHIN) -> "pd.Series[float] | None":
    """A predictor's rank correlation with the gains in each draw; within layers it is the mean over them."""
    found = pick(rows, quantity=quantity, condition=predictor).dropna(subset=["value"])
    return None if found.empty else found.groupby(DRAW)["value"].mean()


def flagged(rows: pd.DataFrame) -> "pd.Series[bool]":
    """The paper's rule, by draw, layer and class: does the unknown class's raw error exceed that of the known ones?

    That is: the median of the known classes' errors. So read, the rule gives what the paper says of its own table: at
    layer 2 that 5, 6 and 8 are to be retrained while 7 and 9 are not, and at layer 1 not 6. (The mean would have 9
    retrained, and the greatest error would not have 6.)
    """
    unknown = predicted(rows, "decoder_raw_error")
    known = pick(rows, quantity="decoder_raw_error", condition="trained", group="known")
    if unknown.empty or known.empty:
        return pd.Series(dtype=bool, index=unknown.index[:0])
    usual = known.groupby([*DRAW, "layer"])["value"].median().rename("usual").reset_index()
    both = unknown.rename("error").reset_index().merge(usual, on=[*DRAW, "layer"])
    return both.assign(flagged=both["error"] > both["usual"]).set_index([*DRAW, "layer", "class_name"])["flagged"]
