"""What the probes' rows say, in words: each sentence from rows alone, and none where they do not tell."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from scipy import stats

from layerwise.rows import pick

HEADLINES = {  # quantity: column of the layer table
    "linear_accuracy": "linear",
    "knn_accuracy": "kNN",
    "logme": "LogME",
    "h_score_shrunk": "H-score",
    "purity": "purity",
    "relative_spread": "spread",
    "inversion_relative_error": "inversion",
    "decoder_normalised_error": "decoder",
    "accuracy_lost_fresh": "lost if fresh",
}
READ = {"linear_accuracy": "a linear probe", "knn_accuracy": "its nearest neighbours"}
PERCENT = {"linear_accuracy", "knn_accuracy", "purity", "accuracy_lost_fresh"}
ALIKE = 0.9  # CKA from which layers are called alike


def layer_table(rows: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """A row for each layer, a column for each headline quantity that was asked for; a dash is unknown."""
    table = pd.DataFrame({"layer": list(order)})
    for quantity, title in HEADLINES.items():
        here = _of_target(rows, quantity)
        if here.empty:
            continue
        values = here.groupby("layer")["value"].mean()
        table[title] = [_number(values.get(layer), quantity) for layer in order]
    return table


def answer(rows: pd.DataFrame, order: Sequence[str]) -> str:
    """Which layer's features serve the classes in question best, and how sure that is."""
    for quantity, how in READ.items():
        here = _of_target(rows, quantity).dropna(subset=["value"])
        if len(here):
            return _best(here, how, order)
    looked = f"{len(order)} layers were looked at"
    refused = rows.loc[rows["quantity"].isin(READ) & rows["value"].isna(), "reason"].dropna()
    if len(refused):
        return f"{looked}, and none could be read: {refused.iloc[0]}. Leave classes of few images out with --classes."
    return f"{looked}; the table has what was asked for."


def findings(rows: pd.DataFrame) -> tuple[str, ...]:
    """The main findings, a sentence or two each."""
    return tuple(found for tell in TELL for found in tell(rows))


def _best(here: pd.DataFrame, how: str, order: Sequence[str]) -> str:
    """In forward order the layer with the highest value, the last one, and those whose intervals reach the best."""
    found = here.sort_values("layer", key=lambda names: names.map(order.index)).to_dict("records")
    best, last = max(found, key=lambda row: row["value"]), found[-1]
    of = f" of the {best['group']} classes" if best["group"] != "all" else ""
    text = f"By {how}, the layer that tells images{of} apart best is {best['layer']}: {_range(best)}."
    if best is last:
        return f"{text} That is the last one."
    others = [row["layer"] for row in found if row is not best and row["high"] >= best["low"]]
    reach = f"Intervals overlap with {_listed(others)}." if others else "No other layer's interval reaches it."
    return f"{text} The last layer, {last['layer']}, gives {_range(last)}. {reach}"


def _lost(rows: pd.DataFrame) -> Iterator[str]:
    here = _of_target(rows, "accuracy_lost_fresh").set_index("layer")["value"]
    if len(here) > 1:
        yield (
            f"Reset to fresh weights without training, {here.idxmax()} costs most ({100 * here.max():.1f} points of "
            f"accuracy) and {here.idxmin()} least ({100 * here.min():.1f})."
        )


def _alike(rows: pd.DataFrame) -> Iterator[str]:
    here = pick(rows[rows["value"].notna()], quantity="cka")
    own = here[(here["other_net"] == here["net"]) & (here["layer"] != here["other_layer"])]
    if len(own):
        most = own.sort_values("value").iloc[-1]
        share = (own["value"] >= ALIKE).mean()
        yield (
            f"Of the pairs of layers {100 * share:.0f} % have a CKA of {ALIKE} or more; "
            f"most alike are {most['layer']} and {most['other_layer']} ({most['value']:.2f})."
        )
    fresh = here[(here["other_net"] != here["net"]) & (here["layer"] == here["other_layer"])]
    if len(fresh):
        ends = fresh.sort_values("value", ascending=False).iloc[[0, -1]]
        told = ", ".join(f"{layer} {value:.2f}" for layer, value in zip(ends["layer"], ends["value"], strict=True))
        yield f"Compared with the {_other(fresh)}, the layer most and the layer least like it: {told}."


def _scores_agree(rows: pd.DataFrame) -> Iterator[str]:
    linear = _of_target(rows, "linear_accuracy").set_index("layer")["value"].dropna()
    told = []
    for score, spelt in {"logme": "LogME", "h_score_shrunk": "H-score", "gbc": "GBC", "parc": "PARC"}.items():
        values = _of_target(rows, score).set_index("layer")["value"].dropna()
        both = linear.index.intersection(values.index)
        if len(both) >= 4 and values[both].nunique() > 1 and linear[both].nunique() > 1:
            told.append(f"{spelt} {stats.spearmanr(linear[both], values[both]).statistic:+.2f}")
    if told:
        yield f"Rank correlation over layers with the linear probe's accuracy: {', '.join(told)}."


def _spread(rows: pd.DataFrame) -> Iterator[str]:
    here = rows[(rows["quantity"] == "relative_spread") & rows["value"].notna() & rows["class_name"].notna()]
    means = here.groupby(["layer", "group"], sort=False)["value"].mean().unstack()
    if {"known", "unknown"} <= set(means.columns) and len(means):
        more = (means["unknown"] > means["known"]).sum()
        yield f"Relative to all images, unknown classes spread more than known ones in {more} of {len(means)} layers."


def _decoder(rows: pd.DataFrame) -> Iterator[str]:
    here = pick(rows, quantity="decoder_advice").dropna(subset=["value", "condition"])  # the condition is the verdict
    own = pick(here, treatment="F*")
    told, untrained = _to_retrain(own), _to_retrain(pick(here, treatment="X*"))
    if len(own):
        cases = _listed([f"{layer} for {name}" for layer, name in sorted(told)]) or "none"
        keep, undecided = ((own["condition"] == verdict).sum() for verdict in ("keep", "undecided"))
        yield (
            f"The decoder would have these retrained, of {len(own)} cases of a layer and an unknown class: {cases}. "
            f"{keep} it would keep, and {undecided} are undecided. "
            f"It would have {len(told & untrained)} of the same retrained in the untrained net."
        )


def _to_retrain(advice: pd.DataFrame) -> set[tuple[str, str]]:
    """The layers that are to be retrained, each with the class for which."""
    found = pick(advice, condition="retrain")
    return set(zip(found["layer"], found["class_name"], strict=True))


TELL: tuple[Callable[[pd.DataFrame], Iterator[str]], ...] = (_scores_agree, _alike, _spread, _decoder, _lost)


def _of_target(rows: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Rows of the whole of each layer, of the classes in question: the unknown ones where there are such."""
    here = rows[(rows["quantity"] == quantity) & (rows["treatment"].fillna("F*") == "F*") & rows["value"].notna()]
    if "estimated" in set(here["part"].dropna()):  # of batch norm's statistics: else those of other weights are kept
        here = here[here["part"] == "estimated"]
    whole = here[here["class_name"].isna()] if here["class_name"].isna().any() else here
    groups = whole["group"].dropna().unique()
    return whole[whole["group"] == ("unknown" if "unknown" in groups else "all")] if len(groups) else whole


def _number(value: float | None, quantity: str) -> str:
    if value is None or pd.isna(value):
        return "–"
    return f"{100 * value:.1f} %" if quantity in PERCENT else f"{value:.3g}"


def _range(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["low"]):
        return f"{100 * row['value']:.1f} %"
    return f"{100 * row['value']:.1f} % (95 %: {100 * row['low']:.1f} to {100 * row['high']:.1f})"


def _other(rows: pd.DataFrame) -> str:
    name = str(rows["other_net"].iloc[0])
    return "untrained net" if name == "X*" else f"net {name}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:5])} and {len(names) - 5} more"
