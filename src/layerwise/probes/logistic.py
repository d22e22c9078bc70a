"""Many multinomial logistic regressions at once: on features of several widths, each with several penalties.

A fit minimises, over weights W (classes x units) and intercepts b that are not penalised,

    mean over examples of -log softmax(W x + b)[class]  +  penalty / 2 |W|^2

on features standardised over the same examples. (scikit-learn's C is 1 / (examples x penalty), and twice that with two
classes, for which it has one row of weights.)

The Hessian is nowhere more than (1/2 (I - 11'/classes)) x (X'X / examples) + penalty (Boehning 1992, "Multinomial
logistic regression algorithm", theorem 1, https://doi.org/10.1007/BF00048682). Rotations leave |W| as it is, so each
fit is moved to the principal axes of its X, where I/2 in place of the first factor makes the bound diagonal: variance
/ 2 + penalty along each axis. It is the first guess of the Hessian in L-BFGS (Nocedal and Wright 2006, algorithm
7.4), whose first step is then one of majorise-minimise. All members, a fit with one penalty each, take their steps
together as one tensor; a member that has arrived leaves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from layerwise.probes.folds import constant_units

GAP = 1e-5  # nats of mean loss that a fit may be above its minimum
MOST_STEPS = 2_000
REMEMBERED = 10  # steps from which L-BFGS guesses the curvature
SUFFICIENT = 1e-4  # Armijo's share of the promised decrease (Nocedal and Wright, section 3.1)
ROUNDING = {torch.float32: 1e-8, torch.float64: 1e-14}  # of a loss: less than this is no increase
LEAST_GAP = 1e-6  # nats that float32 can tell
STALLED = 2.0**-20  # a step as short as this has met rounding
NO_VARIANCE = 1e-12  # of the largest variance: what rounding leaves along an axis that has none
LOGITS_AT_ONCE = 2**16  # numbers: what stays in a core's cache


@dataclass(frozen=True)
class View:
    """From where a fit sees features: standardised over its examples, along their principal axes, after a first 1."""

    mean: Float64[Tensor, " units"]
    scale: Float64[Tensor, " units"]  # 1 / deviation; 0 for a unit that is constant
    axes: Float64[Tensor, "units axes"]
    variances: Float64[Tensor, " axes"]

    def of(self, features: Float[Tensor, "examples units"]) -> Float64[Tensor, "examples inputs"]:
        """The examples as the fit sees them: inputs = 1 + axes."""
        seen = ((features.double() - self.mean) * self.scale) @ self.axes
        return torch.cat([seen.new_ones(len(seen), 1), seen], 1)


@dataclass(frozen=True)
class Fit:
    """What one layer and one set of examples ask for: a regression with each of these penalties."""

    view: View
    inputs: Float64[Tensor, "examples inputs"]
    classes: Int64[Tensor, " examples"]
    penalties: tuple[float, ...]


@dataclass(frozen=True)
class Solution:
    """The weights of a fit, intercepts first, for each of its penalties, and whether they arrived at the minimum."""

    view: View
    weights: Float64[Tensor, "penalties classes inputs"]
    arrived: Bool[Tensor, " penalties"]
    operations: int  # multiplications and additions of the matrix products that it took, preparation included

    def predict(self, features: Float[Tensor, "examples units"]) -> Int64[Tensor, "penalties examples"]:
        """The likeliest class of each example."""
        return (self.weights @ self.view.of(features).T).argmax(1)

    def coefficients(self) -> tuple[Float64[Tensor, "penalties classes units"], Float64[Tensor, "penalties classes"]]:
        """Weights and intercepts for features that are standardised over the fit's examples."""
        return self.weights[:, :, 1:] @ self.view.axes.T, self.weights[:, :, 0]


def fit(
    features: Float[Tensor, "examples units"], classes: Int64[Tensor, " examples"], penalties: Sequence[float]
) -> Fit:
    """What is to be fitted to all these examples; classes count from 0."""
    view = principal(features)
    return Fit(view, view.of(features), classes, tuple(penalties))


def principal(features: Float[Tensor, "examples units"]) -> View:
    """The view from the principal axes of these examples, without those that have no variance: their weights are 0."""
    values, constant = features.double(), constant_units(features)
    mean = values.mean(0)
    deviation = (values - mean).square().mean(0).sqrt()
    scale = torch.where(constant, 0.0, 1 / deviation.masked_fill(constant, 1))
    standard = (values - mean) * scale
    examples, units = standard.shape
    if units <= examples:
        variances, axes = torch.linalg.eigh(standard.T @ standard / examples)
    else:  # the same axes from the smaller matrix
        variances, left = torch.linalg.eigh(standard @ standard.T / examples)
        axes = standard.T @ (left / (examples * variances.clamp_min(1e-300)).sqrt())
    kept = variances > NO_VARIANCE * variances[-1].clamp_min(1e-300)
    return View(mean, scale, axes[:, kept].contiguous(), variances[kept])


def numbers_to_prepare(examples: int, units: int) -> int:
    """How many float64 numbers it takes to make a fit of this shape, beyond what it then holds."""
    return 3 * examples * units + 3 * min(examples, units) ** 2


def numbers_held(examples: int, units: int, classes: int, penalties: int) -> int:
    """How many float64 numbers a fit of this shape holds while it is solved."""
    inputs = min(examples, units) + 1
    return examples * inputs + inputs * units + penalties * classes * inputs * (2 * REMEMBERED + 12)


def operations_to_prepare(examples: int, units: int) -> int:
    """Those of making a fit: the smaller matrix of products, the axes from it, and the examples along them."""
    return (4 if units <= examples else 6) * examples * units * min(examples, units)


def solve(fits: Sequence[Fit], classes: int, gap: float = GAP, most_steps: int = MOST_STEPS) -> list[Solution]:
    """The minimum of every fit, for every penalty, to within `gap` nats of mean loss.

    The part of the loss in W is strongly convex, so it lies at most |gradient|^2 / (2 penalty) above its minimum, which
    is what each member is stopped by; the gradient in the intercepts, which have no penalty, is held as small. Most
    steps are taken in float32, which is twice as fast; whether a member has arrived is decided in float64.
    """
    like = fits[0].inputs
    members, widest = sum(len(one.penalties) for one in fits), max(one.inputs.shape[1] for one in fits)
    weights = like.new_zeros(members, classes, widest)
    spent = [operations_to_prepare(len(one.inputs), len(one.view.mean)) for one in fits]
    _descend(_start(fits, weights, max(gap, LEAST_GAP), torch.float32, spent), fits, weights, most_steps)
    arrived = _descend(_start(fits, weights, gap, torch.float64, spent), fits, weights, most_steps)
    each = [len(one.penalties) for one in fits]
    parts = zip(fits, torch.split(weights, each), torch.split(arrived, each), spent, strict=True)
    return [Solution(one.view, own[:, :, : one.inputs.shape[1]], there, took) for one, own, there, took in parts]


def _descend(
    fleet: "_Fleet", fits: Sequence[Fit], weights: Float64[Tensor, "members classes inputs"], most_steps: int
) -> Bool[Tensor, " members"]:
    """Put into `weights` where each member ends; tells which of them have arrived."""
    arrived = torch.zeros(len(weights), dtype=torch.bool, device=weights.device)
    for _ in range(most_steps):
        there = fleet.gradient.flatten(1).norm(dim=1) <= fleet.near_enough
        arrived[fleet.member[there]] = True
        ended = there | (fleet.length < STALLED)
        if ended.any():
            weights[fleet.member[ended]] = fleet.weights[ended]
            fleet.keep(~ended)
        if not len(fleet.member):
            break
        fleet.advance(fits)
    weights[fleet.member] = fleet.weights
    return arrived


@dataclass
class _Fleet:
    """Members under way; the first axis of every tensor is the member's, the last is padded to the widest fit's."""

    arithmetic: torch.dtype  # of the losses; everything else is in float64
    spent: list[int]  # operations of each fit
    member: Int64[Tensor, " members"]
    owner: Int64[Tensor, " members"]  # the number of its fit; in rising order
    near_enough: Float64[Tensor, " members"]  # the norm of the gradient at which it has arrived
    penalty: Float64[Tensor, "members 1 inputs"]
    curvature: Float64[Tensor, "members 1 inputs"]  # the bound
    weights: Float64[Tensor, "members classes inputs"]
    value: Float64[Tensor, " members"]
    gradient: Float64[Tensor, "members classes inputs"]
    direction: Float64[Tensor, "members classes inputs"]
    length: Float64[Tensor, " members"]  # of the step to try, in directions
    easing: Float64[Tensor, " members"]  # how much flatter than the bound the loss was on the last step
    pairs: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)  # steps, changes of gradient, 1 / product

    def keep(self, kept: Bool[Tensor, " members"]) -> None:
        """Leave out the others."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[kept])
        self.pairs = [(moved[kept], change[kept], inverse[kept]) for moved, change, inverse in self.pairs]

    def advance(self, fits: Sequence[Fit]) -> None:
        """Try a step; members whose loss falls enough take it, the others will try half of it."""
        trial = self.weights + self.length[:, None, None] * self.direction
        value, gradient = _losses(fits, self.owner, trial, self.penalty, self.arithmetic, self.spent)
        promised = self.length * _inner(self.gradient, self.direction)
        rounding = ROUNDING[self.arithmetic]
        fell = value <= self.value + SUFFICIENT * promised + rounding * (1 + self.value.abs())
        taken = fell[:, None, None]
        self._remember(torch.where(taken, trial - self.weights, 0.0), torch.where(taken, gradient - self.gradient, 0.0))
        self.weights = torch.where(taken, trial, self.weights)
        self.gradient = torch.where(taken, gradient, self.gradient)
        self.value = torch.where(fell, value, self.value)
        self.length = torch.where(fell, 1.0, self.length / 2)
        self.direction = torch.where(taken, self._quasi_newton(), self.direction)

    def _remember(self, moved: Tensor, change: Tensor) -> None:
        """Note a step; members that took none note zeros, which count for nothing."""
        product = _inner(moved, change)
        inverse = torch.where(product > 0, 1 / product, 0.0)
        eased = product / _inner(change, change / self.curvature)
        self.easing = torch.where(product > 0, eased, self.easing)
        self.pairs = [*self.pairs, (moved, change, inverse)][-REMEMBERED:]

    def _quasi_newton(self) -> Tensor:
        """Against the gradient, through the inverse Hessian that the remembered steps suggest: the two loops of 7.4."""
        found, shares = -self.gradient, []
        for moved, change, inverse in reversed(self.pairs):
            shares.append(inverse * _inner(moved, found))
            found = found - shares[-1][:, None, None] * change
        found = found / self.curvature * self.easing[:, None, None]
        for (moved, change, inverse), share in zip(self.pairs, reversed(shares), strict=True):
            found = found + (share - inverse * _inner(change, found))[:, None, None] * moved
        return found


def _start(
    fits: Sequence[Fit],
    weights: Float64[Tensor, "members classes inputs"],
    gap: float,
    arithmetic: torch.dtype,
    spent: list[int],
) -> _Fleet:
    """All members at these weights, about to take a step of majorise-minimise."""
    owner = torch.tensor([number for number, one in enumerate(fits) for _ in one.penalties], device=weights.device)
    strength = weights.new_tensor([penalty for one in fits for penalty in one.penalties])
    penalty = strength[:, None, None].repeat(1, 1, weights.shape[2])
    penalty[:, :, 0] = 0
    bound = weights.new_ones(len(fits), 1, weights.shape[2])
    bound[:, :, 0] = 0.5
    for row, one in zip(bound, fits, strict=True):
        row[:, 1 : one.inputs.shape[1]] = one.view.variances / 2
    curvature = bound[owner] + penalty
    value, gradient = _losses(fits, owner, weights, penalty, arithmetic, spent)
    return _Fleet(
        arithmetic,
        spent,
        member=torch.arange(len(owner), device=weights.device),
        owner=owner,
        near_enough=(2 * strength * gap).sqrt(),
        penalty=penalty,
        curvature=curvature,
        weights=weights.clone(),
        value=value,
        gradient=gradient,
        direction=-gradient / curvature,
        length=torch.ones_like(value),
        easing=torch.ones_like(value),
    )


def _losses(
    fits: Sequence[Fit],
    owner: Int64[Tensor, " members"],
    weights: Float64[Tensor, "members classes inputs"],
    penalty: Float64[Tensor, "members 1 inputs"],
    arithmetic: torch.dtype,
    spent: list[int],
) -> tuple[Float64[Tensor, " members"], Float64[Tensor, "members classes inputs"]]:
    """The penalised mean loss of every member, and its gradient; what that took is added to `spent`."""
    values = (penalty * weights.square()).sum((1, 2)) / 2
    gradients = penalty * weights
    begin = 0
    for number, members in enumerate(torch.bincount(owner, minlength=len(fits)).tolist()):
        if members:
            one = fits[number]
            own, width = slice(begin, begin + members), one.inputs.shape[1]
            value, gradient = _loss(one, weights[own, :, :width].to(arithmetic))
            values[own] += value
            gradients[own, :, :width] += gradient - gradient.mean(1, keepdim=True)  # a mean of 0, but for rounding
            begin += members
            spent[number] += 4 * members * weights.shape[1] * one.inputs.numel()
    return values, gradients


def _loss(
    one: Fit, weights: Float[Tensor, "members classes inputs"]
) -> tuple[Float64[Tensor, " members"], Float64[Tensor, "members classes inputs"]]:
    """The mean loss and its gradient for each of these weights: two matrix products for all of them together."""
    members, classes, inputs = weights.shape
    flat, examples = weights.flatten(0, 1), len(one.inputs)
    value, gradient = one.inputs.new_zeros(members), one.inputs.new_zeros(members * classes, inputs)
    rows = max(1, LOGITS_AT_ONCE // len(flat))
    for seen, numbers in zip(torch.split(one.inputs, rows), torch.split(one.classes, rows), strict=True):
        own, seen = numbers.expand(members, 1, -1), seen.to(weights.dtype)
        logs = torch.log_softmax((flat @ seen.T).view(members, classes, -1), 1)
        value -= logs.gather(1, own).sum((1, 2))
        residuals = logs.exp_().scatter_add_(1, own, logs.new_full(own.shape, -1.0))
        gradient += residuals.flatten(0, 1) @ seen
    return value / examples, gradient.view(weights.shape) / examples


def _inner(one: Tensor, other: Tensor) -> Float64[Tensor, " members"]:
    return (one * other).sum((1, 2))
