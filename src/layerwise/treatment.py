"""The treatment language: a transfer experiment is a string, one letter per layer.

Where a layer's weights come from, and whether they are trained:

    F  the source (copied), frozen            X  fresh initialisation, frozen
    T  the source (copied), tuned             M  fresh with the source layer's mean and deviation, trained
    R  fresh initialisation, trained          W  the source's own initial weights (rewound), trained

    P(0.5,saliency,F)   that share of the layer's output units, the highest ranked on the target's training data, copied
                        and frozen (`T`: copied and tuned); the rest fresh and trained. Also `taylor`, `information`,
                        `random`

A count repeats a letter, `*` fills up to the depth of the net (once per stage), `>` begins the next stage. In a later
stage F, T, P and M refer to the previous stage's result, R and X to new draws, W to the first stage's source.

    >>> str(Treatment.parse("FFFRRRRR"))              # Yosinski's AnB at n = 3; spelled as short as it can be
    'F3R5'
    >>> Treatment.parse("F3R5") == Treatment.parse("FFFR5")
    True
    >>> Treatment.parse("F*R").letters(6)             # a linear probe, of any depth
    (('F', 'F', 'F', 'F', 'F', 'R'),)
    >>> str(lesion("111011"))                         # Grand's lesion of layer 4
    'T3RTT'
    >>> Treatment.parse("F*R > T*").letters(3)        # LP-FT: a linear probe, then fine-tuning
    (('F', 'F', 'R'), ('T', 'T', 'T'))
    >>> Treatment.parse("F3TR4").trained              # "preserve 1": is each layer trained, per stage
    ((False, False, False, True, True, True, True, True),)
    >>> Treatment.parse("R*").needs_source
    False

Letters alone are not the experiment: A3B and B3B are both `F3R5` and differ in their source (see `layerwise.run`).
This file knows nothing of tensors.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby

from layerwise.errors import TreatmentError

LETTERS = "FTRXMWP"
COPIED = frozenset("FTP")
TRAINED = frozenset("TRMWP")
FROM_SOURCE = frozenset("FTMWP")
CRITERIA = ("saliency", "taylor", "information", "random")
MOST_LAYERS = 9999
DIGITS = 12  # after the point, of a share


@dataclass(frozen=True)
class Part:
    """A partly copied layer: `P(share,criterion,letter)`; its letter says what becomes of the copied units."""

    share: float  # of the layer's output units, between 0 and 1
    criterion: str
    letter: str  # F or T

    @classmethod
    def parse(cls, symbol: str) -> "Part":
        """The part that a symbol such as `P(0.5,saliency,F)` spells."""
        fields = symbol[2:-1].split(",")
        if len(fields) != 3:
            raise TreatmentError(f"has '{symbol}'; a part is P(share,criterion,letter), such as P(0.5,saliency,F)")
        share, criterion, letter = fields
        if not re.fullmatch(r"0?\.[0-9]+", share) or round(float(share), DIGITS) in {0, 1}:
            raise TreatmentError(f"has the share '{share}' in '{symbol}'; it lies between 0 and 1 (for 0 write R)")
        if criterion not in CRITERIA:
            raise TreatmentError(f"has the criterion '{criterion}' in '{symbol}'; known: {' '.join(CRITERIA)}")
        if letter not in {"F", "T"}:
            raise TreatmentError(f"has the letter '{letter}' in '{symbol}'; copied units are F (frozen) or T (tuned)")
        return cls(round(float(share), DIGITS), criterion, letter)

    def of(self, units: int) -> int:
        """How many of so many units: the share of them, rounded half up.

        >>> Part(0.29, "random", "F").of(50)  # of 14.5, which binary fractions make a little less
        15
        """
        return int(Fraction(self._share) * units + Fraction(1, 2))

    def __str__(self) -> str:
        return f"P({self._share},{self.criterion},{self.letter})"

    @property
    def _share(self) -> str:
        return f"{self.share:.{DIGITS}f}".rstrip("0")


@dataclass(frozen=True)
class Span:
    """Neighbouring layers with one symbol: `count` of them, or at least so many where it fills."""

    symbol: str
    count: int
    fills: bool = False

    def __str__(self) -> str:
        copies = self.symbol * self.count if self.count < 3 else f"{self.symbol}{self.count}"
        return copies + (f"{self.symbol}*" if self.fills else "")


Stage = tuple[Span, ...]


@dataclass(frozen=True)
class Treatment:
    """What is done with each layer of a net, stage by stage. Make one with `Treatment.parse` or a family below."""

    stages: tuple[Stage, ...]

    @classmethod
    def parse(cls, text: str) -> "Treatment":
        """Read a treatment; raises TreatmentError with the text, what is wrong with it and what to write instead."""
        try:
            stages = tuple(_stage(part, k) for k, part in enumerate(re.sub(r"\s", "", text).split(">"), 1))
            _same_depth(stages)
        except TreatmentError as error:
            raise TreatmentError(f"'{text}' {error}") from None
        return cls(stages)

    def __str__(self) -> str:
        return " > ".join("".join(map(str, stage)) for stage in self.stages)

    @property
    def depth(self) -> int | None:
        """For how many layers it is; null where every stage fills."""
        fixed = [sum(span.count for span in stage) for stage in self.stages if not any(s.fills for s in stage)]
        return fixed[0] if fixed else None

    @property
    def at_least(self) -> int:
        """The fewest layers of a net that it can be for."""
        return max(sum(span.count for span in stage) for stage in self.stages)

    def fits(self, depth: int) -> bool:
        """Can it be for a net of so many layers?"""
        return self.depth in {None, depth} and self.at_least <= depth

    def letters(self, depth: int | None = None) -> tuple[tuple[str, ...], ...]:
        """One symbol per layer for each stage; a treatment with `*` needs the depth of the net."""
        depth = self.depth if depth is None else depth
        if depth is None:
            raise TreatmentError(f"'{self}' fits nets of any depth; say how many layers")
        if not self.fits(depth):
            least = "" if self.depth else "at least "
            raise TreatmentError(f"'{self}' is for {least}{self.depth or self.at_least} layers, not for {depth}")
        return tuple(_fill(stage, depth) for stage in self.stages)

    def resolve(self, depth: int) -> "Treatment":
        """The same treatment for a net of so many layers, without `*`."""
        return Treatment(tuple(_merge(Span(symbol, 1) for symbol in stage) for stage in self.letters(depth)))

    @property
    def expanded(self) -> str:
        """Every letter written out, as keys hold it: `FFFRRRRR`."""
        return " > ".join("".join(stage) for stage in self.letters())

    @property
    def copied(self) -> tuple[tuple[bool, ...], ...]:
        """Per stage and layer: are its weights (all, or some of its units) copied?"""
        return tuple(tuple(symbol[0] in COPIED for symbol in stage) for stage in self.letters())

    @property
    def trained(self) -> tuple[tuple[bool, ...], ...]:
        """Per stage and layer: are its weights (all, or some of its units) trained?"""
        return tuple(tuple(symbol[0] in TRAINED for symbol in stage) for stage in self.letters())

    @property
    def at_random(self) -> "Treatment":
        """The same with the units of its parts drawn at random: a run of it takes as long to train."""
        return Treatment.parse(re.sub("|".join(CRITERIA), "random", str(self)))

    @property
    def needs_source(self) -> bool:
        """Does any layer take something from a source? A treatment of only R and X does not."""
        return any(span.symbol[0] in FROM_SOURCE for span in self.stages[0]) or self.needs_rewinding

    @property
    def needs_rewinding(self) -> bool:
        """Does any layer (`W`) take the weights that the source had before its first update?"""
        return any(span.symbol == "W" for stage in self.stages for span in stage)


def transfer(depth: int, n: int, *, tuned: bool = False) -> Treatment:
    """The first n layers copied, the rest fresh: Yosinski's AnB, `tuned` AnB+; n = 0 is training from scratch."""
    return _of(("T" if tuned else "F") * n + "R" * (depth - n), depth)


def selffer(depth: int, n: int, *, tuned: bool = False) -> Treatment:
    """Yosinski's BnB: the letters of `transfer`; the source is a net trained on the same task."""
    return transfer(depth, n, tuned=tuned)


def random_filters(depth: int, n: int) -> Treatment:
    """The first n layers fresh and never trained (Jarrett et al. 2009, as in Yosinski's figure)."""
    return _of("X" * n + "R" * (depth - n), depth)


def preserve(depth: int, n: int, k: int) -> Treatment:
    """The first n layers frozen, the next k copied and tuned, the rest fresh: Yosinski's "preserve k"."""
    return _of("F" * n + "T" * k + "R" * (depth - n - k), depth)


def lesion(bits: str) -> Treatment:
    """Grand et al.'s masks, a bit per layer: 1 = copied, 0 = fresh, everything trained."""
    if not re.fullmatch("[01]+", bits):
        raise TreatmentError(f"lesion '{bits}' is not made of 0 and 1, such as '111011'")
    return _of(bits.translate({ord("0"): "R", ord("1"): "T"}), len(bits))


def surgical(depth: int, layer: int, *, head: str = "R") -> Treatment:
    """One layer tuned, the others frozen (Lee et al. 2022); the head is fresh unless `head="F"`."""
    if not 1 <= layer <= depth:
        raise TreatmentError(f"there is no layer {layer} in a net of {depth} layers")
    letters = ["F"] * (depth - 1) + [head]
    letters[layer - 1] = "T"
    return _of("".join(letters), depth)


def _of(letters: str, depth: int) -> Treatment:
    """The treatment of these letters; fewer or more than the depth means that a family was asked for too much."""
    if len(letters) != depth or depth < 1:
        raise TreatmentError(f"'{letters}' is for {len(letters)} layers, not for {depth}")
    return Treatment.parse(letters)


def _stage(text: str, number: int) -> Stage:
    """One stage; errors say what is wrong, and leave the whole text to `parse`."""
    if not text:
        raise TreatmentError(
            "is empty; write one letter per layer, such as 'F3R5'" if number == 1 else f"has nothing in stage {number}"
        )
    spans: list[Span] = []
    at = 0
    while at < len(text):
        layer = "a layer after the '*'" if any(s.fills for s in spans) else f"layer {sum(s.count for s in spans) + 1}"
        symbol, suffix = _item(text[at:], layer)
        spans.append(_span(symbol, suffix))
        at += len(symbol) + len(suffix)
        if sum(span.fills for span in spans) > 1:
            raise TreatmentError("has two '*' in one stage; only one can fill")
    canonical = (Span(_canonical(span.symbol), span.count, span.fills) for span in spans)
    return _merge(canonical)


def _item(text: str, layer: str) -> tuple[str, str]:
    """The next symbol of the text, as written, and the count or `*` behind it."""
    found = re.match(r"(P\([^()]*\)|[FTRXMW])([0-9*]*)", text)
    if found:
        return found[1], found[2]
    if text[0] in "0123456789*":
        raise TreatmentError(
            f"has '{text[0]}' without a letter before it; write the letter first, such as 'F3' or 'F*'"
        )
    if text[0] == "P":
        raise TreatmentError(f"has 'P' for {layer}; a part is P(share,criterion,letter), such as P(0.5,saliency,F)")
    if text[0].upper() in LETTERS:
        raise TreatmentError(f"has '{text[0]}' for {layer}; the letters are capitals: write '{text[0].upper()}'")
    raise TreatmentError(f"has '{text[0]}' for {layer}; the letters are {' '.join(LETTERS)} (see layerwise.treatment)")


def _span(symbol: str, suffix: str) -> Span:
    if suffix in {"", "*"}:
        return Span(symbol, 0 if suffix else 1, fills=bool(suffix))
    if "*" in suffix:
        raise TreatmentError(f"has '{symbol}{suffix}'; a letter takes a count or a '*', not both")
    if not 1 <= int(suffix[:9]) <= MOST_LAYERS or len(suffix) > 9:
        raise TreatmentError(f"has the count {suffix} behind '{symbol}'; a count is a number from 1 to {MOST_LAYERS}")
    return Span(symbol, int(suffix))


def _canonical(symbol: str) -> str:
    return str(Part.parse(symbol)) if symbol[0] == "P" else symbol


def _merge(spans: Iterable[Span]) -> Stage:
    """Join neighbours of one symbol, so that equal treatments are equal values."""
    joined = []
    for symbol, group in groupby(spans, key=lambda span: span.symbol):
        members = list(group)
        joined.append(Span(symbol, sum(s.count for s in members), any(s.fills for s in members)))
    return tuple(joined)


def _fill(stage: Stage, depth: int) -> tuple[str, ...]:
    spare = depth - sum(span.count for span in stage)
    return tuple(symbol for s in stage for symbol in [s.symbol] * (s.count + spare * s.fills))


def _same_depth(stages: Sequence[Stage]) -> None:
    """Stages without `*` are for equally many layers; one with `*` needs no more than those."""
    counts = [(sum(s.count for s in stage), any(s.fills for s in stage)) for stage in stages]
    fixed = {count: k for k, (count, fills) in reversed(list(enumerate(counts, 1))) if not fills}
    if len(fixed) > 1:
        (a, i), (b, j) = sorted(fixed.items(), key=lambda item: item[1])[:2]
        raise TreatmentError(f"has stages for different nets: stage {i} is for {a} layers, stage {j} for {b}")
    for k, (count, fills) in enumerate(counts, 1):
        if fixed and fills and count > min(fixed):
            raise TreatmentError(
                f"has stages for different nets: stage {k} is for at least {count} layers, others for {min(fixed)}"
            )
