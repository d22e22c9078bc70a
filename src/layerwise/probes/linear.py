"""Linear probes: how well the classes can be told apart by a linear function of each layer's features.

Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes", https://arxiv.org/abs/1610.01644.
The probe is a multinomial logistic regression (layerwise.probes.logistic), its penalty chosen by validation accuracy.

The design is nested cross-validation: each fold in turn is the test, and for it the penalty with the highest mean
accuracy on the other folds is taken, each of these predicted by a fit to the remaining ones; the probe is then fitted
to all folds but the test. No choice looks at the fold that is reported. The fit without folds i and j serves both
tests, so J folds need J (J - 1) / 2 fits for the choice and J for the report, of all layers and penalties together.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from layerwise.errors import RepresentationError
from layerwise.probes.about import About
from layerwise.probes.folds import Accuracy, Classes, Parts, accuracy, check_features, classes_of, stratified
from layerwise.probes.logistic import MOST_STEPS, Fit, Solution, fit, numbers_held, numbers_to_prepare, solve

ABOUT = {
    "linear": About(
        tells="The share of examples whose class a linear function of the layer's features gets right: what the layers "
        "behind it could use at once.",
        misleads="Wide layers are favoured when examples are few, a high value does not say that the net uses what the "
        "probe found, and with unbalanced classes the share of the largest is reached without any feature.",
        source="Alain and Bengio 2016, section 3.1, https://arxiv.org/abs/1610.01644",
    ),
}
PENALTIES = tuple(10.0**power for power in range(-5, 2))  # on half of |W|^2, beside the mean loss of an example
FOLDS = 5
BUDGET = 2**28  # bytes for fits in preparation and solution

Layers = Mapping[str, Float[Tensor, "examples _"]]
Progress = Callable[[int, int], None]
Rows = Int64[Tensor, "_"]


@dataclass(frozen=True)
class LinearProbe:
    """What a layer's linear probe got right on examples that it neither learnt from nor was chosen on."""

    accuracy: Accuracy
    penalties: tuple[float, ...]  # chosen, for each test fold


Found = dict[str, LinearProbe | RepresentationError]


def linear_probes(
    layers: Layers,
    labels: Int[Tensor, " examples"],
    *,
    folds: int = FOLDS,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
    groups: Int[Tensor, " examples"] | None = None,
    budget: int = BUDGET,
    progress: Progress | None = None,
    spent: Callable[[int], None] | None = None,
) -> Found:
    """Nested cross-validated accuracy of a linear probe on every layer, with its interval over folds.

    Folds are stratified, drawn from the seed, and the same for all layers; examples of one group (a person, a scene)
    are in one fold. Equal choices go to the larger penalty. A
    layer that cannot be probed, or one of whose fits did not arrive at its minimum, has the error in its place.
    `budget` is the memory in bytes that fits under way may take; `progress` is told the fits done and wanted, and
    `spent` the operations of each lot of fits (matrix products, two for a multiplication and an addition).
    Raises RepresentationError where labels, folds or penalties would do for no layer.
    """
    classes = classes_of(labels, fewest=1)
    tests = stratified(classes, folds, seed, fewest=3, groups=groups)
    probing = _Probing(layers, classes, tests, _falling(penalties), budget, progress, spent)
    probing.wanted = len(probing.layers()) * (len(tests) * (len(tests) - 1) // 2 + len(tests))
    chosen = _choices(probing)
    orders = [_Order(layer, (test,), (own[test],)) for layer, own in chosen.items() for test in range(folds)]
    hits = {layer: torch.zeros(len(labels), dtype=torch.float64, device=labels.device) for layer in chosen}
    for order, solution in probing.solutions(orders):
        (test,) = order.left_out
        hits[order.layer][tests[test]] = probing.hits(order.layer, solution, test)[0]
    trained = len(labels) - len(labels) // folds
    return probing.found(
        {
            layer: LinearProbe(accuracy(hits[layer], classes, tests, trained), tuple(chosen[layer]))
            for layer in probing.layers()
        }
    )


def linear_probes_in_parts(
    layers: Layers,
    labels: Int[Tensor, " examples"],
    parts: Parts,
    *,
    penalties: Sequence[float] = PENALTIES,
    budget: int = BUDGET,
    progress: Progress | None = None,
) -> Found:
    """Accuracy on the test part of linear probes fitted to the training part and chosen on the validation part.

    The interval is over test examples, given this one probe. Otherwise as `linear_probes`.
    """
    classes = classes_of(labels, fewest=1)
    if absent := set(range(len(classes.labels))) - set(classes.of[parts.train].tolist()):
        raise RepresentationError(
            f"class {classes.labels[min(absent)]} has no example in the training part; give it some"
        )
    blocks = [parts.train, parts.validation, parts.test]
    probing = _Probing(layers, classes, blocks, _falling(penalties), budget, progress)
    probing.wanted = len(probing.layers())
    orders = [_Order(layer, (1, 2), probing.penalties) for layer in probing.layers()]
    probes = {}
    for order, solution in probing.solutions(orders):
        best = int(probing.hits(order.layer, solution, 1).mean(1).argmax())
        hits = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
        hits[parts.test] = probing.hits(order.layer, solution, 2)[best]
        tested = accuracy(hits, classes, [parts.test], len(parts.train))
        probes[order.layer] = LinearProbe(tested, (probing.penalties[best],))
    return probing.found(probes)


def _falling(penalties: Sequence[float]) -> tuple[float, ...]:
    """The penalties from the largest, which the first of equal choices then is."""
    if not penalties or not all(0 < penalty < math.inf for penalty in penalties):
        raise RepresentationError(f"penalties are {[*penalties]}; give one or more, all above 0")
    return tuple(sorted(set(penalties), reverse=True))


def _choices(probing: "_Probing") -> dict[str, list[float]]:
    """For each layer and test fold the penalty that did best on the other folds."""
    folds, penalties = len(probing.blocks), probing.penalties
    shares = {layer: torch.zeros(folds, folds, len(penalties)) for layer in probing.layers()}
    orders = [_Order(layer, pair, penalties) for layer in shares for pair in combinations(range(folds), 2)]
    for order, solution in probing.solutions(orders):
        test, other = order.left_out
        shares[order.layer][test, other] = probing.hits(order.layer, solution, other).mean(1)
        shares[order.layer][other, test] = probing.hits(order.layer, solution, test).mean(1)
    return {layer: [penalties[int(own.sum(0).argmax())] for own in shares[layer]] for layer in probing.layers()}


@dataclass(frozen=True)
class _Order:
    """A fit that is wanted: of a layer, to all blocks of rows but these."""

    layer: str
    left_out: tuple[int, ...]
    penalties: tuple[float, ...]


@dataclass
class _Probing:
    """All layers, examples in blocks of rows, and why a layer could not be probed."""

    given: Layers
    classes: Classes
    blocks: Sequence[Rows]
    penalties: tuple[float, ...]
    budget: int
    progress: Progress | None
    spent: Callable[[int], None] | None = None
    wanted: int = 0
    done: int = 0
    errors: dict[str, RepresentationError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for layer, features in self.given.items():
            try:
                check_features(features, len(self.classes.of))
            except RepresentationError as error:
                self.errors[layer] = error

    def layers(self) -> list[str]:
        """Those in which nothing has gone wrong so far."""
        return [layer for layer in self.given if layer not in self.errors]

    def solutions(self, orders: Sequence[_Order]) -> Iterator[tuple[_Order, Solution]]:
        """Solve so many orders at a time as the budget allows; layers with a fit that did not arrive are left out."""
        for fleet in self._fleets(orders):
            solved = solve([self._fit(*one) for one in fleet], len(self.classes.labels))
            for (order, _), solution in zip(fleet, solved, strict=True):
                if bool(solution.arrived.all()):
                    yield order, solution
                else:
                    self._refuse(order, solution)
            self.done += len(fleet)
            if self.spent:
                self.spent(sum(one.operations for one in solved))
            if self.progress:
                self.progress(self.done, self.wanted)

    def _fit(self, order: _Order, rows: Rows) -> Fit:
        return fit(self.given[order.layer][rows], self.classes.of[rows], order.penalties)

    def _fleets(self, orders: Sequence[_Order]) -> Iterator[list[tuple[_Order, Rows]]]:
        """Orders with their training rows, as many together as the budget allows."""
        fleet: list[tuple[_Order, Rows]] = []
        held = prepared = 0  # bytes of the largest fit in the fleet
        for order in orders:
            rows = torch.cat([block for number, block in enumerate(self.blocks) if number not in order.left_out])
            shape = (len(rows), self.given[order.layer].shape[1])
            one = 8 * numbers_held(*shape, len(self.classes.labels), len(order.penalties))
            preparing = 8 * numbers_to_prepare(*shape)
            if one + preparing > self.budget:
                self.errors[order.layer] = RepresentationError(
                    f"a linear probe of {shape[1]} units takes {(one + preparing) / 1e6:.3g} MB, and the budget is "
                    f"{self.budget / 1e6:.3g} MB; pool the layer's places, or raise the budget"
                )
                continue
            held, prepared = max(held, one), max(prepared, preparing)
            if (len(fleet) + 1) * held + prepared > self.budget:
                yield fleet
                fleet, held, prepared = [], one, preparing
            fleet.append((order, rows))
        if fleet:
            yield fleet

    def _refuse(self, order: _Order, solution: Solution) -> None:
        short = [
            penalty for penalty, there in zip(order.penalties, solution.arrived.tolist(), strict=True) if not there
        ]
        self.errors[order.layer] = RepresentationError(
            f"the linear probe did not arrive at its minimum in {MOST_STEPS} steps with penalty {max(short):g}; "
            "take larger penalties"
        )

    def hits(self, layer: str, solution: Solution, block: int) -> Float64[Tensor, "penalties rows"]:
        """1 where a row of the block is predicted right, else 0."""
        rows = self.blocks[block]
        return (solution.predict(self.given[layer][rows]) == self.classes.of[rows]).double()

    def found(self, probes: Mapping[str, LinearProbe]) -> Found:
        """The probe of every layer, or why there is none, in the order of the layers."""
        return {layer: self.errors.get(layer) or probes[layer] for layer in self.given}
