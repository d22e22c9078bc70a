"""Fleet: many runs of equal shapes and recipe trained as one batched computation, whatever their treatments.

Every parameter becomes a stack with a leading axis of members; one forward pass, mapped over that axis, is the forward
pass of all. Losses are summed before the backward pass, so that each member's gradient is its own. Members keep their
own initial weights, data order, dropout masks and batch-norm modes: in float64 the result is that of
`layerwise.train.train` to 1e-10. A member that diverges changes nothing in the others.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from layerwise.batched import BatchNorm, Dropout, adapt, refuse_modes
from layerwise.captured import capture
from layerwise.curve import EVALUATION_BATCH, Point, evaluate, finite, looked_at, newest_accuracy, points
from layerwise.dropout import draw_mask, dropout_draws
from layerwise.errors import Diverged
from layerwise.feed import Batches, Feed
from layerwise.layers import Layer
from layerwise.operations import members_together
from layerwise.optimiser import build_optimiser, set_rates
from layerwise.parts import choose, trained_rows
from layerwise.prefix import Prefix, frozen_depth, split
from layerwise.run import Recipe, Run
from layerwise.start import State, begin
from layerwise.train import Trained, arithmetic, laid_out
from layerwise.units import Chosen, along

UNSEEN = 64  # steps after which losses are looked at: each look waits for all that is under way


@dataclass
class _Member:
    """One run on its way through the stages."""

    run: Run
    feed: Feed
    source: Trained | None
    previous: State
    initial: State = field(default_factory=dict)
    curve: list[Point] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    chosen: list[Mapping[str, Chosen]] = field(default_factory=list)  # of P layers, per stage
    lost: Diverged | None = None

    def result(self) -> Trained | Diverged:
        return self.lost or Trained(
            self.initial, self.previous, tuple(self.curve), tuple(self.steps), tuple(self.chosen)
        )


def train_fleet(
    runs: Sequence[Run], feeds: Sequence[Feed], sources: Sequence[Trained | None], prefix: Prefix | None = None
) -> list[Trained | Diverged]:
    """Train runs of one net, one shape and equal recipes together; gives each one's result, or why it has none.

    `prefix` remembers what frozen layers give from one call to the next. Raises LayersError where a treatment or the
    recipe does not fit the net.
    """
    alike = {(r.net, r.recipes, r.task.outputs, f.is_bits, f.shape) for r, f in zip(runs, feeds, strict=True)}
    if len(alike) != 1:
        raise ValueError("the runs of a fleet have one net, one shape and equal recipes")
    members = [
        _Member(run, feed, source, source.weights if source else {})
        for run, feed, source in zip(runs, feeds, sources, strict=True)
    ]
    net, found = laid_out(runs, feeds[0])
    for stage in range(len(runs[0].recipes)):
        if any(member.lost is None for member in members):
            with arithmetic(runs[0].recipes[stage], feeds[0]):
                _Stage(members, stage, net, found, prefix or Prefix()).train()
    return [member.result() for member in members]


def rehearse(
    runs: Sequence[Run], stage: int, feeds: Sequence[Feed], sources: Sequence[Trained]
) -> Callable[[], object]:
    """A step of a fleet's stage, ready to be taken again and again, to see how long it takes."""
    members = [
        _Member(run, feed, source, source.weights) for run, feed, source in zip(runs, feeds, sources, strict=True)
    ]
    with arithmetic(runs[0].recipes[stage], feeds[0]):
        made = _Stage(members, stage, *laid_out(runs, feeds[0]), Prefix())

    def step() -> None:
        with arithmetic(runs[0].recipes[stage], feeds[0]):
            made.step(0)

    return step


class _Stage:
    """One stage of all members at once: their stacked weights, and the rest of the net that they train."""

    def __init__(
        self, members: Sequence[_Member], stage: int, net: nn.Module, found: Sequence[Layer], prefix: Prefix
    ) -> None:
        self.members, self.stage, self.net, self.found = members, stage, net, found
        self.recipe: Recipe = members[0].run.recipes[stage]
        self.states = self._begins()
        depth, first, self.rest = split(net, found, min(frozen_depth(member.run, stage) for member in members))
        self.feeds = [self._beyond(k, found[:depth], first, prefix) for k in range(len(members))]
        self.body = adapt(copy.deepcopy(self.rest)).to(self.codes.device)
        refuse_modes(self.body, self.feeds[0].parts["train"].images(torch.zeros(2, dtype=torch.long)))
        names = dict(self.rest.state_dict(keep_vars=True))
        self.stack = {name: torch.stack([state[name] for state in self.states]) for name in names}
        self.weights = {name: self.stack.pop(name) for name, _ in self.rest.named_parameters()}
        on = [member.run.treatment.trained[stage] for member in members]
        self.trained = torch.tensor(on, device=self.codes.device)  # (members, layers)
        self.rows = trained_rows([(m.chosen or [{}])[-1] for m in members], {**self.weights, **self.stack})
        self.layer_of = self._layers()
        self.learnt = [name for name in self.weights if self.trained[:, self.layer_of[name]].any()]
        self.norms = [(name, module) for name, module in self.body.named_modules() if isinstance(module, BatchNorm)]
        self.active = torch.tensor([member.lost is None for member in members], device=self.codes.device)
        self._set_modes()
        self.before = [sum(member.steps) for member in members]  # steps of earlier stages, as they were taken
        self.optimiser = build_optimiser(self.weights, found, self.trained.any(0).tolist(), self.recipe, fused=True)
        self.batches = Batches([member.run for member in members], stage, self.feeds)
        self.draws = [dropout_draws(net, found, member.run, stage) for member in members]
        self.dropouts = [(name, module) for name, module in self.body.named_modules() if isinstance(module, Dropout)]
        self.shapes: list[tuple[int, ...]] = []  # of their masks
        self.captured: Callable[..., Sequence[Tensor]] | None = None  # a step
        self.looking: Callable[..., Sequence[Tensor]] | None = None  # a chunk of an evaluation
        self.losses: list[Tensor] = []  # of the newest steps, not yet looked at

    @property
    def codes(self) -> Float[Tensor, "classes outputs"]:
        """The targets of some member: all are on one device, of one type."""
        return self.feeds[0].codes

    def _layers(self) -> dict[str, int]:
        """The position of the layer that each weight, and each module of the body, belongs to."""
        found = {name: k for k, layer in enumerate(self.found) for name in layer.parameters + layer.buffers}
        for k, layer in enumerate(self.found):
            for name in layer.modules:
                found.update({n: k for n, _ in self.body.named_modules() if n == name or n.startswith(f"{name}.")})
        return found

    def _begins(self) -> list[State]:
        """What each member begins with. One that was lost keeps its place, as places differ in the last bit."""
        states = [self._begin(member) if member.lost is None else None for member in self.members]
        some = next(state for state in states if state is not None)
        return [state or some for state in states]

    def _begin(self, member: _Member) -> State:
        rewound = member.source.initial if member.source else None
        previous = member.previous or None
        chosen = choose(member.run, self.stage, self.found, member.feed, previous)
        state = begin(member.run, self.stage, self.found, member.feed.shape, previous, rewound, chosen)
        member.chosen.append(chosen)
        state = {name: tensor.to(member.feed.codes.device) for name, tensor in state.items()}
        member.initial = member.initial or state
        return state

    def _beyond(self, index: int, frozen: Sequence[Layer], first: nn.Module, prefix: Prefix) -> Feed:
        """What a member's rest is fed with; members with equal frozen layers and one pool share it."""
        feed = self.members[index].feed
        return prefix.beyond(self.net, self.states[index], frozen, first, feed, self.recipe.precision)

    def train(self) -> None:
        """Take the stage's steps; leaves its results in the members."""
        if self.recipe.evaluates_after(0):
            self._evaluate(0)
        for step in range(self.recipe.steps):
            self.step(step)
            if self.recipe.evaluates_after(step + 1):
                self._evaluate(step + 1)
            if self.is_over:
                break
        for index, member in enumerate(self.members):
            member.previous = {**self.states[index], **self._slice(index)}
            if len(member.steps) == self.stage:
                member.steps.append(self.recipe.steps)

    def step(self, step: int) -> None:
        """One update of all that is trained."""
        images, aims = self.batches.next()
        if self.dropouts:
            self._draw_masks(images)
        given = *self.weights.values(), *self.stack.values(), images, aims
        if self.captured is None:
            self.captured = capture(self._both_ways, *given)
        losses, *found = self.captured(*given)
        if self.optimiser:
            self._update(self.optimiser, found, step)
        self.stack.update(zip(self.left, found[len(self.learnt) :], strict=True))
        self.losses.append(losses)
        if len(self.losses) == UNSEEN:
            self._drop_diverged(step)

    def _both_ways(self, *given: Tensor) -> list[Tensor | None]:
        """Each member's loss, the gradients of the weights that are learnt, and the buffers that the pass leaves."""
        *state, images, aims = given
        named = dict(zip((*self.weights, *self.stack), state, strict=True))
        outputs, left = vmap(self._outputs)(named, images)  # outputs: (members, batch, outputs)
        if self.feeds[0].is_bits:
            losses = (outputs - aims).square().mean((1, 2))
        else:
            # With the few classes in the last axis, a CPU would do softmax several times slower.
            losses = F.cross_entropy(outputs.transpose(1, 2), aims, reduction="none").mean(1)
        learnt = [named[name] for name in self.learnt]
        found = torch.autograd.grad(losses.sum(), learnt, allow_unused=True) if learnt else ()
        # A fused optimiser takes weight and gradient number by number as they lie in memory.
        gradients = [None if gradient is None else gradient.contiguous() for gradient in found]
        self.left = tuple(left)
        return [losses.detach(), *gradients, *left.values()]

    def _outputs(self, named: State, images: Tensor) -> tuple[Tensor, State]:
        with members_together(), sdpa_kernel(SDPBackend.MATH):  # attention's fast paths cannot be mapped
            outputs = functional_call(self.body, named, (images,))
        return outputs, {f"{name}.{buffer}": new for name, norm in self.norms for buffer, new in norm.left.items()}

    def _update(self, optimiser: torch.optim.Optimizer, gradients: Sequence[Tensor | None], step: int) -> None:
        """One step of the optimiser on all stacks; what is frozen for a member is put back as it was."""
        kept = {name: self.weights[name].detach().clone() for name in self.partly}
        set_rates(optimiser, self.recipe.rate_at(step))
        for name, gradient in zip(self.learnt, gradients, strict=False):
            self.weights[name].grad = gradient
        optimiser.step()
        with torch.no_grad():
            for name, before in kept.items():
                self.weights[name].copy_(torch.where(along(self._on(name), before), self.weights[name], before))

    def _on(self, name: str) -> Tensor:
        """For which members, or which rows of which, the weight or module of this name is trained now."""
        on = self.trained[:, self.layer_of[name]] & self.active
        rows = self.rows.get(name, self.rows.get(f"{name}.running_mean"))
        return on if rows is None else on[:, None] & rows

    def _set_modes(self) -> None:
        """Have each member's norms in its own mode, and note which weights are trained for some members only."""
        self.is_over = not self.active.any()
        self.partly = [name for name in self.learnt if not self._on(name).all()]
        for name, _ in self.norms:
            self.stack[f"{name}.mode"] = self._on(name)

    def _draw_masks(self, images: Float[Tensor, "members batch ..."]) -> None:
        if not self.shapes:
            with torch.no_grad():  # once, to learn the masks' shapes
                vmap(self._outputs)({**self.weights, **self.stack}, images)
            self.shapes = [module.shape for _, module in self.dropouts]
        for (name, module), shape in zip(self.dropouts, self.shapes, strict=True):
            on = self._on(name) | self.recipe.frozen_dropout
            drawn = [member[name] if is_on else None for member, is_on in zip(self.draws, on.tolist(), strict=True)]
            masks = [draw_mask(module.original, draw, shape, images.dtype) for draw in drawn]
            self.stack[f"{name}.mask"] = torch.stack(masks).to(images.device)

    def _drop_diverged(self, step: int) -> None:
        """Look at the losses of the steps up to this one: a member that had one which is no number is lost."""
        first = step + 1 - len(self.losses)
        found = torch.stack(self.losses) if self.losses else self.codes.new_zeros(0, len(self.members))
        self.losses = []
        for index in (~found.isfinite().all(0) & self.active).nonzero().flatten().tolist():
            late = int(found[:, index].isfinite().int().argmin())
            self._check(index, [Point(self.before[index] + first + late, "train", "loss", found[late, index].item())])

    def _check(self, index: int, points: list[Point]) -> list[Point]:
        """These points; a member whose points are no numbers is lost."""
        try:
            return finite(self.members[index].run, points)
        except Diverged as error:
            self.members[index].lost = error
            self._end(index)
            return []

    def _end(self, index: int) -> None:
        """Let a member's weights be as they are from now on."""
        self.active[index] = False
        self._set_modes()

    def _evaluate(self, step: int) -> None:
        """A point of the learning curve of each member that is still at work."""
        self._drop_diverged(step - 1)
        seen = [looked_at(feed.parts, self.recipe, step) for feed in self.feeds]
        known = dict.fromkeys(chain.from_iterable(seen))
        together = {split: self._look(split) for split in known} if self.can_look_together else {}
        for index in self.active.nonzero().flatten().tolist():
            member, feed, at = self.members[index], self.feeds[index], self.before[index] + step
            if together:
                outputs = {split: self._own(together[split], index, split) for split in seen[index]}
                found = [point for split in outputs for point in points(feed, at, split, [outputs[split]])]
            else:
                self.rest.load_state_dict(self._slice(index))
                found = evaluate(self.rest, feed, at, seen[index])
            member.curve += self._check(index, found)
            stop = self.recipe.stop_at
            if stop is not None and step and self.active[index] and newest_accuracy(member.curve) >= stop:
                self._end(index)
                member.steps.append(step)

    @property
    def can_look_together(self) -> bool:
        """Can all members look at their images together: have all norms an eval mode?

        A norm that keeps no statistics takes those of its chunk, and the last chunk is filled up here.
        """
        return all(norm.tracks for _, norm in self.norms)

    @torch.no_grad()
    def _look(self, split: str) -> list[Float[Tensor, "members chunk outputs"]]:
        """Every member's outputs for all images of this part, everything in eval mode, chunk after chunk.

        A part that ends before the longest does begins anew, so that no member's arithmetic depends on the others'
        parts; who has no such part looks at another in the meantime.
        """
        parts = [feed.parts.get(split, feed.parts["train"]) for feed in self.feeds]
        sizes = [len(part.classes) for part in parts]
        modes = {f"{name}.mode": torch.zeros_like(self.active) for name, _ in self.norms}
        masks = {f"{name}.mask": torch.ones_like(self.active, dtype=self.codes.dtype) for name, _ in self.dropouts}
        state = {name: tensor for name, tensor in self.stack.items() if name not in modes | masks}
        named = {**self.weights, **state, **modes, **masks}  # in one order, whatever steps have left

        def look(*given: Tensor) -> list[Tensor]:
            return [vmap(self._outputs)(dict(zip(named, given[:-1], strict=True)), given[-1])[0]]

        found = []
        for first in range(0, max(sizes), EVALUATION_BATCH):
            at = torch.arange(first, first + EVALUATION_BATCH, device=parts[0].rows.device)
            given = *named.values(), torch.stack([p.images(at % size) for p, size in zip(parts, sizes, strict=True)])
            self.looking = self.looking or capture(look, *given)
            found.append(self.looking(*given)[0])
        return found

    def _own(self, seen: Sequence[Tensor], index: int, split: str) -> Float[Tensor, "images outputs"]:
        """One member's outputs for the images that it has, of what all looked at together."""
        return torch.cat([outputs[index] for outputs in seen])[: len(self.feeds[index].parts[split].classes)]

    def _slice(self, index: int) -> State:
        """One member's state of the rest of the net."""
        named = {**self.weights, **self.stack}
        return {name: named[name][index].detach().clone() for name in self.rest.state_dict()}
