"""Two reports side by side: answers, layer strips, claims and figures aligned, and what differs said in words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt

from layerwise.report import words
from layerwise.report.figures import Figure
from layerwise.report.page import render
from layerwise.report.strip import Strip
from layerwise.report.study import MARKS

PLACE = ("command", "made", "store")  # of provenance: differs between any two, and says nothing of their results
MOST_LAYERS = 6  # named in one sentence


@dataclass(frozen=True)
class Side:
    """One of two reports. All texts are plain."""

    name: str  # by which the reader knows it: its folder
    kind: str  # study, studies, probe or advice
    title: str
    answer: str
    findings: tuple[str, ...]
    strips: Mapping[str, Strip]  # by what they are of: a study's name, or nothing where there is one
    claims: Mapping[str, Mapping[str, Any]]  # by study and id; as in claims.json, and their units
    figures: tuple[Figure, ...]
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    provenance: Mapping[str, Any]
    advised: str = ""  # the treatment, of an advice


@dataclass(frozen=True)
class Both:
    """A claim that one or both test, with bars on one scale; null where a side lacks it."""

    statement: str
    name: str
    claims: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]
    forests: tuple[Mapping[str, float] | None, Mapping[str, float] | None]

    @property
    def agrees(self) -> bool | None:
        """Is the verdict the same? Null where only one side has it."""
        one, other = self.claims
        return one["verdict"] == other["verdict"] if one and other else None

    @property
    def is_tallied(self) -> bool:
        """Is it no other claim once more, as its paper counted?"""
        return all(claim["tallied"] for claim in self.claims if claim)


def render_comparison(one: Side, other: Side, command: str) -> str:
    """The whole page as text."""
    one, other = _beside(one, other), _beside(other, one)
    claims, pairs = list(both_claims(one, other)), list(paired(one.figures, other.figures))
    flat = [figure for pair in pairs for figure in pair if figure]
    numbers = iter(enumerate(flat))
    said = tuple(differences(one, other))
    return render(
        "compare.html", f"{one.name} beside {other.name}", flat, {},
        answer=answer(one, other, claims), findings=said, notes=(), facts=(), sides=(one, other), against=claims,
        pairs=[tuple(next(numbers) if figure else None for figure in pair) for pair in pairs],
        settings=list(settings(one.provenance, other.provenance)), marks=MARKS,
        strip_names=list(dict.fromkeys([*one.strips, *other.strips])),
        provenance={"command": command, one.name: one.provenance, other.name: other.provenance},
    )  # fmt: skip


def _beside(one: Side, other: Side) -> Side:
    """The side with its strips on the scales of the other's too."""
    lanes = {name: strip.lanes for name, strip in other.strips.items()}
    return replace(one, strips={n: replace(strip, beside=lanes.get(n, ())) for n, strip in one.strips.items()})


def answer(one: Side, other: Side, claims: Sequence[Both]) -> str:
    """Whether the two say the same, in one paragraph."""
    if one.kind != other.kind:
        return (
            f"{one.name} is {_a(one.kind)} and {other.name} {_a(other.kind)}: what each layer is worth stands side by "
            "side; claims and figures are of different kinds."
        )
    if one.advised and other.advised:
        told = f"both advise {one.advised}" if one.advised == other.advised else (
            f"{one.name} advises {one.advised}, {other.name} {other.advised}"
        )  # fmt: skip
        return f"Of two pieces of advice: {told}. How well each is expected to do, and how sure that is, stands below."
    shared = [claim for claim in claims if claim.agrees is not None and claim.is_tallied]
    if not shared:
        return f"{one.name} and {other.name} have no claim in common; their layers and figures stand side by side."
    differing = [claim for claim in shared if not claim.agrees]
    told = "; ".join(
        f"{claim.name} is {claim.claims[0]['verdict']} in {one.name} and {claim.claims[1]['verdict']} in {other.name}"
        for claim in differing
        if claim.claims[0] and claim.claims[1]
    )
    same = len(shared) - len(differing)
    head = f"Of {words.counted(len(shared), 'claim')} that both test, {same} have the same verdict"
    return f"{head}. {len(differing)} differ: {told}." if differing else f"{head}."


def differences(one: Side, other: Side) -> Iterator[str]:
    """What differs besides verdicts: what is to be done with layers, and how the reports were made."""
    for name in one.strips:
        if name in other.strips and (told := _deeds(one, other, name)):
            yield told
    changed = [setting for setting, *_ in settings(one.provenance, other.provenance)]
    if changed:
        yield f"They were made with other {words.listed(changed)}; the table below has both."
    else:
        yield "Data, versions and machine are the same."


def _deeds(one: Side, other: Side, name: str) -> str:
    first, second = one.strips[name].tiles, other.strips[name].tiles
    if [tile.name for tile in first] != [tile.name for tile in second]:
        return _sentence(name, f"the nets are not alike: {words.counted(len(first), 'layer')} and {len(second)}.")
    other_deed = {tile.name: tile.deed for tile in second}
    told = [
        f"{tile.name} ({tile.deed.text}, {other_deed[tile.name].text})"
        for tile in first
        if tile.deed.letters != other_deed[tile.name].letters
    ]
    if not told:
        return _sentence(name, "the same is to be done with every layer, as far as it is known.")
    more = f" and {len(told) - MOST_LAYERS} more" if len(told) > MOST_LAYERS else ""
    return _sentence(name, f"other things are to be done with {words.listed(told[:MOST_LAYERS])}{more}.")


def _sentence(study: str, text: str) -> str:
    return f"Of {study}: {text}" if study else text[0].upper() + text[1:]


def settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name and both values of what differs in how two reports were made."""
    first, second = dict(_flat(one)), dict(_flat(other))
    for name in dict.fromkeys([*first, *second]):
        values = first.get(name, "none"), second.get(name, "none")
        if values[0] != values[1] and name.partition(" ")[0] not in PLACE:
            yield name, *values


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf with its path in words."""
    for name, part in value.items():
        path = f"{before} {name}".strip().replace("_", " ")
        if isinstance(part, Mapping):
            yield from _flat(part, path)
        else:
            yield path, ", ".join(map(str, part)) if isinstance(part, list | tuple) else str(part)


def both_claims(one: Side, other: Side) -> Iterator[Both]:
    """The claims of both, those of the first in their order, with their bars on one scale."""
    names = list(dict.fromkeys([*one.claims, *other.claims]))
    pairs = [(one.claims.get(name), other.claims.get(name)) for name in names]
    forests = iter(words.forests([claim for pair in pairs for claim in pair if claim]))
    for name, pair in zip(names, pairs, strict=True):
        drawn = [next(forests) if claim else None for claim in pair]
        statement = next(claim["statement"] for claim in pair if claim)
        yield Both(statement, name, pair, (drawn[0], drawn[1]))


def paired(one: Sequence[Figure], other: Sequence[Figure]) -> Iterator[tuple[Figure | None, Figure | None]]:
    """Figures of one title side by side on one scale; then those that only one has."""
    rest = {figure.title: figure for figure in other}
    alone = []
    for figure in one:
        if figure.title in rest:
            yield _on_one_scale(figure, rest.pop(figure.title))
        else:
            alone.append(figure)
    yield from ((figure, None) for figure in alone)
    yield from ((None, figure) for figure in rest.values())


def _on_one_scale(one: Figure, other: Figure) -> tuple[Figure, Figure]:
    """With one range of upright axes that do not begin at zero, so that heights can be compared by eye."""
    ups = [_up(figure.chart) for figure in (one, other)]
    ends = [value for up in ups if up for value in up.values]
    if not ends:
        return one, other
    margin = 0.05 * (max(ends) - min(ends))
    domain = [min(ends) - margin, max(ends) + margin]
    left, right = (_scaled(figure, up, domain) if up else figure for figure, up in zip((one, other), ups, strict=True))
    return left, right


@dataclass(frozen=True)
class _Up:
    """The upright axis that all layers of a picture share: which layers are drawn on it, and what they draw."""

    layers: tuple[int, ...]
    values: tuple[float, ...]


def _up(chart: Any) -> _Up | None:
    """The upright axis in numbers; none where it begins at zero or is not shown, or the picture has several parts."""
    with alt.data_transformers.enable("default", max_rows=None):
        spec: dict[str, Any] = chart.to_dict()
    layers = list(spec.get("layer", [spec] if "encoding" in spec else []))
    ups = {k: up for k, layer in enumerate(layers) if "type" in (up := layer.get("encoding", {}).get("y", {}))}
    if any(up["type"] != "quantitative" or up.get("axis", "") is None for up in ups.values()):
        return None
    if all((up.get("scale") or {}).get("zero") is not False for up in ups.values()):
        return None
    values: list[float] = []
    for layer in layers:
        rows = spec.get("datasets", {}).get(layer.get("data", spec.get("data", {})).get("name"), [])
        for axis in (layer.get("encoding", {}).get(end, {}) for end in ("y", "y2")):
            drawn = [axis["datum"]] if "datum" in axis else [row.get(axis.get("field")) for row in rows]
            values += [float(value) for value in drawn if value is not None]
    return _Up(tuple(ups), tuple(values))


def _scaled(figure: Figure, up: _Up, domain: list[float]) -> Figure:
    """The figure with its upright axis from and to these values."""
    chart: Any = figure.chart
    chart = chart.copy(deep=True)
    layers = list(chart.layer) if isinstance(chart, alt.LayerChart) else [chart]
    for k in up.layers:
        layers[k].encoding.y = layers[k].encoding.y.scale(domain=domain, zero=False, nice=False)
    return replace(figure, chart=chart)


def _a(kind: str) -> str:
    return {"studies": "several studies", "advice": "an advice"}.get(kind, f"a {kind}")
