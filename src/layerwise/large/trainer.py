"""The loop of the reference trainer, `layerwise.train`, in one of the processes that share every batch."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, pairwise, tee

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from layerwise.augmented import Augmenter
from layerwise.curve import EVALUATION_BATCH, Point, finite, looked_at, newest_accuracy
from layerwise.data.dataset import DataSet
from layerwise.feed import batches, layout
from layerwise.large.stream import Stream, stream
from layerwise.large.together import Share, check_agreement, see_whole_batches, total
from layerwise.layers import Layer, fit, layers, set_modes
from layerwise.nets import build
from layerwise.optimiser import build_optimiser, set_rates
from layerwise.parts import choose, keep_frozen
from layerwise.randomness import seed
from layerwise.run import Recipe, Run
from layerwise.start import State, begin
from layerwise.train import Trained
from layerwise.units import Chosen

SAID_EVERY = 1.0  # seconds between two lines of progress
ROWS = torch.contiguous_format  # as weights are kept, however the device had them

Say = Callable[[str], None]


def train_share(fabric: Fabric, run: Run, data: DataSet, source: Trained | None, say: Say) -> Trained:
    """Train the run together with the other processes; each of them gets the whole result."""
    food = stream(run, data, fabric.device)
    found = layers(_net(run, food), _example(food))
    fit(run.treatment, run.net, found)
    previous = source.weights if source else None
    rewound = source.initial if source else None
    initial: State = {}
    curve: list[Point] = []
    ends = [0]
    chosen: list[Mapping[str, Chosen]] = []
    for stage in range(len(run.recipes)):
        chosen.append(choose(run, stage, found, food.feed, previous))
        state = begin(run, stage, found, food.shape, previous, rewound, chosen[-1])
        initial = initial or state
        net = _net(run, food)
        net.load_state_dict(state)
        torch.manual_seed(seed("torch", run.seed, run.task.stream, run.draw, stage, fabric.global_rank))
        curve += _train_stage(fabric, run, stage, net, found, food, ends[-1], say, chosen[-1])
        ends.append(curve[-1].step)
        check_agreement(net.state_dict())
        previous = {name: tensor.cpu().clone(memory_format=ROWS) for name, tensor in net.state_dict().items()}
    assert previous is not None
    return Trained(initial, previous, tuple(curve), tuple(b - a for a, b in pairwise(ends)), tuple(chosen))


def _train_stage(
    fabric: Fabric, run: Run, stage: int, net: nn.Module, found: Sequence[Layer], food: Stream, before: int, say: Say,
    chosen: Mapping[str, Chosen],
) -> list[Point]:  # fmt: skip
    recipe, trained = run.recipes[stage], run.treatment.trained[stage]
    share = Share(fabric.global_rank, fabric.world_size, recipe.batch_size)
    net.to(memory_format=layout(channels_last=recipe.channels_last))  # type: ignore[call-overload]
    see_whole_batches(net, found, run, stage, share)
    optimiser = build_optimiser(dict(net.named_parameters()), found, trained, recipe)
    # Where nothing is trained nothing is averaged, and the net is not wrapped.
    shared, stepper = fabric.setup(net, optimiser) if optimiser else (net.to(fabric.device), None)
    keep_frozen(net, chosen, optimiser)
    curve: list[Point] = []
    if recipe.evaluates_after(0):
        curve += finite(run, _evaluate(fabric, net, food, recipe, before, 0))
    set_modes(net, found, trained, frozen_dropout=recipe.frozen_dropout)
    examples = len(food.parts["train"].rows)
    order, again = tee(islice(batches(run, stage, examples), recipe.steps))
    augmenter = Augmenter([run], stage, [examples])
    said = time.monotonic()
    shares = zip(food.batches("train", map(share.of, order)), again, strict=True)
    for step, ((images, classes), batch) in enumerate(shares):
        if augmenter.is_on:
            images = augmenter.vary(images, share.of(augmenter.take(batch[None])[0]))
        # The loss is a mean over the whole batch; this is the share's part of it, and the parts are to be summed.
        loss = food.feed.loss(_outputs(fabric, shared, images, recipe), classes) * (share.size / share.batch)
        value = total(loss.detach()).item()
        finite(run, [Point(before + step, "train", "loss", value)])
        if optimiser and stepper:
            set_rates(optimiser, recipe.rate_at(step))
            stepper.zero_grad()
            fabric.backward(loss * share.processes)  # gradients are averaged, not summed
            stepper.step()
        if time.monotonic() - said > SAID_EVERY:
            said = time.monotonic()
            say(f"step {before + step + 1} of {run.steps}, loss {value:.4g}")
        if recipe.evaluates_after(step + 1):
            curve += finite(run, _evaluate(fabric, net, food, recipe, before, step + 1))
            set_modes(net, found, trained, frozen_dropout=recipe.frozen_dropout)
            if recipe.stop_at is not None and newest_accuracy(curve) >= recipe.stop_at:
                break
    return curve


@torch.no_grad()
def _evaluate(fabric: Fabric, net: nn.Module, food: Stream, recipe: Recipe, before: int, step: int) -> list[Point]:
    """Accuracy and mean loss on the parts that the reference looks at; processes take turns at its chunks."""
    net.eval()
    curve = []
    for split in looked_at(food.parts, recipe, step):
        part = food.parts[split]
        sums = torch.zeros(2, dtype=torch.float64, device=fabric.device)  # right, loss
        chunks = torch.split(torch.arange(len(part.rows)), EVALUATION_BATCH)[fabric.global_rank :: fabric.world_size]
        for images, classes in food.batches(split, chunks):
            outputs = _outputs(fabric, net, images, recipe)
            right = (food.feed.predict(outputs) == classes).sum()
            sums += torch.stack([right, food.feed.loss(outputs, classes) * len(classes)])
        accuracy, loss = (total(sums) / len(part.rows)).tolist()
        curve.append(Point(before + step, split, "accuracy", accuracy))
        curve.append(Point(before + step, split, "loss", loss))
    return curve


def _outputs(fabric: Fabric, net: nn.Module, images: Tensor, recipe: Recipe) -> Tensor:
    """What the net makes of the images in the recipe's precision and layout, in the type of the images."""
    with fabric.autocast():
        outputs: Tensor = net(images.contiguous(memory_format=layout(channels_last=recipe.channels_last)))
    return outputs.to(images.dtype)


def _net(run: Run, food: Stream) -> nn.Module:
    return build(run.net, food.shape, run.task.outputs, seed=0).to(food.mean.dtype)


def _example(food: Stream) -> Tensor:
    """One image of the training part."""
    return next(food.batches("train", [torch.tensor([0])]))[0].cpu()
