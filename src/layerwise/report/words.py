"""Numbers as the page prints them."""

from collections.abc import Mapping, Sequence
from typing import Any

from layerwise.claims import FALSE_DISCOVERIES, plural
from layerwise.studies.sentences import MINUS, points

SPACE = "\N{NO-BREAK SPACE}"  # at which no line is broken


def number(value: float) -> str:
    """At most four significant digits, thousands apart; whole numbers whole.

    >>> number(48120.0), number(0.123456), number(-3.0)
    ('48,120', '0.1235', '−3')
    """
    text = f"{int(value):,}" if float(value).is_integer() else f"{value:,.4g}"
    return text.replace("-", MINUS)


def seconds(value: float | None) -> str:
    """A duration in the unit that fits: "0.4 s", "93 s", "34 min", "5.2 h"."""
    if value is None:
        return "unknown"
    if value < 120:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def flops(value: float | None) -> str:
    """Floating-point operations with their SI prefix: "1.2 TFLOP"."""
    if value is None:
        return "unknown"
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g} {prefix}FLOP"
    return f"{value:.0f} FLOP"


def percent(value: float) -> str:
    """A fraction in per cent, with one decimal."""
    return f"{100 * value:.1f}{SPACE}%".replace("-", MINUS)


def unbroken(text: str) -> str:
    """The text with each per cent sign held to its number, so that no line begins with one."""
    return text.replace(" %", f"{SPACE}%")


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun: "1 pair", "3 pairs"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """
    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""


def in_points(claim: Mapping[str, Any]) -> bool:
    """Whether a claim's numbers are fractions, printed in points."""
    return bool(claim.get("unit", "points") == "points")


def estimate(claim: Mapping[str, Any]) -> str:
    """A claim's estimate with its unit."""
    value = claim["estimate"]
    if value is None:
        return "not measured"
    return f"{points(value)} points" if in_points(claim) else f"{number(value)} {claim['unit']}"


def bounds(claim: Mapping[str, Any]) -> str:
    """A claim's interval with its level, and what it is conditional on."""
    if not claim["interval"]:
        return "exact: no interval" if claim["level"] is None and claim["verdict"] != "undecided" else "no interval"
    low, high = (points(end) if in_points(claim) else number(end) for end in claim["interval"])
    text = f"{low} to {high}" if claim["level"] is None else f"{100 * claim['level']:g} %: {low} to {high}"
    return f"{text}, {claim['given']}" if claim["given"] else text


def basis(claim: Mapping[str, Any]) -> str:
    """What a claim's numbers are from: "40 pairs, 5 class splits", or "unpaired, 5 class splits"."""
    pairs = counted(claim["pairs"], "pair") if claim["pairs"] else "unpaired"
    return f"{pairs}, {counted(claim['clusters'], claim['cluster'], plural(claim['cluster']))}"


def correction(claim: Mapping[str, Any]) -> str:
    """Whether a verdict outlasts the correction for all claims of the report; nothing of one that decides nothing.

    Of one that is not in the tally it says that.
    """
    if not claim["tallied"]:
        return "as the paper counted: not in the tally"
    if claim["adjusted"] is None or claim["verdict"] == "undecided":
        return ""
    stands = "outlasts" if claim["adjusted"] <= FALSE_DISCOVERIES else "does not outlast"
    return f"{stands} the correction: p{SPACE}{chance(claim['p'])}, corrected{SPACE}{chance(claim['adjusted'])}"


def chance(p: float) -> str:
    """A probability in two digits.

    >>> chance(0.0304), chance(0.5), chance(0.00004)
    ('0.030', '0.50', '<\\xa00.001')
    """
    return f"<{SPACE}0.001" if p < 0.001 else f"{p:#.2g}"


def forests(claims: Sequence[Mapping[str, Any]]) -> list[dict[str, float] | None]:
    """Where each claim's estimate and interval stand on one scale, in per cent; null for those not in points."""
    drawn = [claim if in_points(claim) and claim["estimate"] is not None else None for claim in claims]
    ends = [0.0] + [end for claim in drawn if claim for end in (claim["estimate"], *(claim["interval"] or ()))]
    low, span = min(ends), (max(ends) - min(ends)) or 1.0
    return [_forest(claim, low, span) if claim else None for claim in drawn]


def _forest(claim: Mapping[str, Any], low: float, span: float) -> dict[str, float]:
    """Positions from 4 to 96, so that no mark is cut at the edge."""
    first, last = claim["interval"] or (claim["estimate"], claim["estimate"])
    places = {"zero": 0.0, "estimate": claim["estimate"], "low": first, "high": last}
    return {name: 4 + 92 * (value - low) / span for name, value in places.items()}
