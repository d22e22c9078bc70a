"""The reference trainer against a loop written out by hand, and the contract of frozen layers."""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layerwise.data.dataset import DataSet
from layerwise.dropout import seed_dropout
from layerwise.errors import Diverged, LayersError
from layerwise.feed import Feed, Part, batches, feed
from layerwise.layers import Layer, layers
from layerwise.nets import NETS, Architecture, build
from layerwise.run import Recipe, Run, key
from layerwise.start import State
from layerwise.tasks import Parts, Task
from layerwise.train import Trained, train
from layerwise.treatment import Treatment

SHAPE = (2, 4, 4)
MODULES = ((0, 1, 2), (3, 4, 5, 6), (7, 8), (9,))  # the layers of `normed`, written down
STEPS, BATCH = 12, 4
HARD = Recipe(STEPS, BATCH, rate=0.1, momentum=0.9, weight_decay=0.1, precision="float64")  # moves all it may


def normed(channels: int, size: int, outputs: int) -> nn.Module:
    """Four layers, two of them with batch norm."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(6, 5), nn.ReLU(),
        nn.Linear(5, outputs),
    )  # fmt: skip


def dropped(channels: int, size: int, outputs: int) -> nn.Module:
    """Four layers, with batch norm of both kinds and dropout of both."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.5),
        nn.Conv2d(4, 6, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(5, outputs),
    )  # fmt: skip


class SelfAttention(nn.Module):
    """With dropout as a module inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.drop, self.norm = nn.Linear(4, 12), nn.Dropout(0.5), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.norm(self.drop(torch.softmax(q @ k.transpose(1, 2), -1)) @ v)


class Attentive(nn.Module):
    """Positions at the root, PyTorch's attention with its own dropout, and one that holds a dropout."""

    def __init__(self, channels: int, size: int, outputs: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(8, 4))
        self.embed, self.attend = nn.Linear(4, 4), nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
        self.own, self.head = SelfAttention(), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1, 2)) + self.positions  # examples, 8 rows of both channels, 4
        x = x + self.attend(x, x, x, need_weights=False)[0]
        return self.head((x + self.own(x)).mean(1))


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, make in {"normed": normed, "dropped": dropped, "attentive": Attentive}.items():
        monkeypatch.setitem(NETS, name, Architecture(make, (0.0,), (1.0,)))


def food(dtype: torch.dtype = torch.float64, *, is_bits: bool = False) -> Feed:
    """Three classes: 10 examples to train on, 7 to test."""
    draw = torch.Generator().manual_seed(4)
    classes = torch.arange(17) % 3
    images = torch.randn(17, *SHAPE, generator=draw, dtype=torch.float64) + classes[:, None, None, None]
    codes = torch.eye(3) * 2 - 1 if is_bits else torch.eye(3)
    rows, pool = torch.arange(17), images.to(dtype)
    parts = {"train": Part(pool, rows[:10], classes[:10]), "test": Part(pool, rows[10:], classes[10:])}
    return Feed(parts, codes.to(dtype), is_bits, "made up")


def run_of(letters: str, *recipes: Recipe, net: str = "normed", seed: int = 0, draw: int = 1) -> Run:
    """A run with these letters and, where they need one, a source."""
    treatment, task = Treatment.parse(letters), Task("data", (0, 1, 2))
    scratch = Treatment.parse(f"R{len(treatment.letters()[0])}")
    source = Run(net, task, scratch, None, (HARD,), seed) if treatment.needs_source else None
    return Run(net, task, treatment, source, recipes or (HARD,) * len(treatment.stages), seed, draw)


def trained(run: Run, eats: Feed | None = None) -> Trained:
    """The run and its source, trained."""
    eats = eats or food()
    return train(run, eats, train(run.source, eats) if run.source else None)


def same(a: State, b: State) -> bool:
    """Equal, bit for bit?"""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def of_layer(layer: Layer, state: State) -> State:
    return {name: state[name] for name in layer.parameters + layer.buffers}


def found(net: str = "normed") -> tuple[Layer, ...]:
    return layers(build(net, SHAPE, 3, 0), torch.zeros(1, *SHAPE))


# ---------------------------------------------------------------- against a loop by hand


def by_hand(run: Run, begin: State, letters: str, eats: Feed) -> State:
    """Train `normed` with the optimisers' formulas written out; which layer is what is written down in MODULES."""
    net, recipe = normed(2, 4, 3).double(), run.recipes[-1]
    net.load_state_dict(begin)
    rates = recipe.layer_rates or (1.0,) * 4
    moments: dict[int, tuple[Tensor, Tensor]] = {}
    order = islice(batches(run, len(run.recipes) - 1, 10), recipe.steps)
    for t, batch in enumerate(order, 1):
        for modules, letter in zip(MODULES, letters, strict=True):
            for k in modules:
                net[k].train(letter not in "FX")
        part = eats.parts["train"]
        outputs = net(part.images(batch))
        target = part.classes[batch]
        loss = (
            ((outputs - eats.codes[target]) ** 2).mean() if eats.is_bits else F.nll_loss(outputs.log_softmax(1), target)
        )
        net.zero_grad()
        loss.backward()
        drops = sum(t - 1 >= share * recipe.steps for share in recipe.drops)
        for modules, letter, rate in zip(MODULES, letters, rates, strict=True):
            for p in [p for k in modules for p in net[k].parameters() if letter not in "FX"]:
                assert p.grad is not None
                g = p.grad + recipe.weight_decay * p.detach()
                m, v = moments.get(id(p), (torch.zeros_like(g), torch.zeros_like(g)))
                if recipe.optimiser == "adam":
                    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
                    step = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
                else:
                    m = recipe.momentum * m + g
                    step = g + recipe.momentum * m if recipe.nesterov else m
                moments[id(p)] = m, v
                p.data -= recipe.rate * 0.1**drops * rate * step
    return dict(net.state_dict())


RECIPES = {
    "plain": {"momentum": 0.0},
    "momentum": {},
    "nesterov": {"nesterov": True},
    "decay": {"weight_decay": 0.05},
    "drops": {"drops": (0.5, 0.75)},
    "rates": {"layer_rates": (0.1, 0.0, 1.0, 3.0), "weight_decay": 0.05},
    "adam": {"optimiser": "adam", "rate": 0.01, "weight_decay": 0.05, "drops": (0.5,)},
}


@pytest.mark.parametrize("letters", ["RRRR", "TTTT", "FFRR", "FFFR", "TFRF", "XRMW", "RRFF", "FFFF"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("is_bits", [False, True])
def test_training_is_the_loop_by_hand(letters: str, recipe: str, is_bits: bool) -> None:
    run = run_of(letters, replace(Recipe(STEPS, BATCH, rate=0.1, precision="float64"), **RECIPES[recipe]))
    eats = food(is_bits=is_bits)
    ours = trained(run, eats)
    reference = by_hand(run, ours.initial, letters, eats)
    for name, tensor in reference.items():
        torch.testing.assert_close(ours.weights[name], tensor, rtol=0, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    assert same(ours.weights, ours.initial) == (letters == "FFFF")


def test_accuracy_and_loss_are_those_of_the_net_in_eval_mode() -> None:
    ours, eats = trained(run_of("RRRR")), food()
    net = normed(2, 4, 3).double().eval()
    net.load_state_dict(ours.weights)
    expected = []
    for split in ("train", "test"):
        part = eats.parts[split]
        outputs = net(part.pool[part.rows])
        right = sum(int(row.argmax()) == int(c) for row, c in zip(outputs, part.classes, strict=True))
        expected += [(12, split, "accuracy", right / len(part.classes))]
        expected += [(12, split, "loss", F.cross_entropy(outputs, part.classes).item())]
    assert [(p.step, p.split, p.quantity) for p in ours.curve] == [e[:3] for e in expected]
    assert [p.value for p in ours.curve] == pytest.approx([e[3] for e in expected], abs=1e-12)


def test_the_predicted_class_is_that_of_the_nearest_code() -> None:
    eats = Feed({}, torch.tensor([[1.0, 1, -1], [-1, 1, 1]]), True, "")
    outputs = torch.tensor([[0.2, 9, 0.1], [-0.3, -9, 0.0]])
    distances = (outputs[:, None] - eats.codes).square().sum(2)
    assert eats.predict(outputs).tolist() == distances.argmin(1).tolist() == [0, 1]


# ---------------------------------------------------------------- the contract of frozen layers

PATTERNS = [letters for f in "FX" for letters in (f"{f}RRR", f"R{f}RR", f"RR{f}R", f"RRR{f}", f"{f}R{f}T", f"T{f}{f}R")]


@pytest.mark.parametrize("letters", PATTERNS)
@pytest.mark.parametrize("net", ["normed", "dropped", "attentive"])
@pytest.mark.parametrize("frozen_dropout", [False, True])
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_frozen_layers_are_byte_equal_and_trained_ones_move(
    letters: str, net: str, frozen_dropout: bool, optimiser: str
) -> None:
    """requires_grad=False alone lets batch-norm means drift; zeroed gradients alone let weight decay move weights."""
    run = run_of(letters, replace(HARD, frozen_dropout=frozen_dropout, optimiser=optimiser, rate=0.01), net=net)
    ours = trained(run)
    for layer, letter in zip(found(net), letters, strict=True):
        before, after = of_layer(layer, ours.initial), of_layer(layer, ours.weights)
        if letter in "FX":
            assert same(before, after), f"{letters}: layer {layer.number} moved"
        else:
            moved = [name for name in before if not torch.equal(before[name], after[name])]
            assert set(moved) == set(before), f"{letters}: layer {layer.number} did not move"


def test_frozen_layers_stay_frozen_in_every_stage() -> None:
    run = run_of("FFRR > FTFT > XFFR", net="dropped")
    source = train(run.source, food()) if run.source else None
    whole = train(run, food(), source)
    assert source is not None
    layer = found("dropped")[1]
    assert not same(of_layer(layer, whole.weights), of_layer(layer, source.weights))  # tuned in stage 2
    two = train(run_of("FFRR > FTFT", net="dropped"), food(), source)
    for number in (2, 3):  # F in stage 3
        layer = found("dropped")[number - 1]
        assert same(of_layer(layer, whole.weights), of_layer(layer, two.weights))


def test_no_gradient_is_computed_for_frozen_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freezing brings speed only if the backward pass ends where nothing before is trained."""
    built: list[nn.Module] = []
    monkeypatch.setitem(
        NETS, "kept", Architecture(lambda *sizes: built.append(normed(*sizes)) or built[-1], (0.0,), (1.0,))
    )
    train(run_of("XXRX", net="kept"), food())
    grads = {name for net in built for name, p in net.named_parameters() if p.grad is not None}
    assert grads == {"7.weight", "7.bias"}


@pytest.mark.parametrize("letters", ["F4", "X4"])
def test_all_frozen_trains_nothing_and_is_still_evaluated(letters: str) -> None:
    ours = trained(run_of(letters, replace(HARD, evaluate_every=6)))
    assert same(ours.initial, ours.weights)
    assert ours.steps == (STEPS,)
    assert [(p.step, p.split) for p in ours.curve if p.quantity == "loss"] == [
        (0, "test"), (6, "test"), (12, "train"), (12, "test"),
    ]  # fmt: skip
    assert len({p.value for p in ours.curve if (p.split, p.quantity) == ("test", "loss")}) == 1


# ---------------------------------------------------------------- dropout


class Spy(nn.Module):
    """Passes its input on and remembers it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.seen.append(x.detach().clone())
        return x


def masks(monkeypatch: pytest.MonkeyPatch, letters: str, recipe: Recipe = HARD, **more: int) -> list[Tensor]:
    """What dropout made of ones in front of the fourth layer (its own is the third), in each training step."""
    spy = Spy()

    class Ones(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0 + 1

    def spied(channels: int, size: int, outputs: int) -> nn.Module:
        spy.seen.clear()  # of nets that were built before
        net = dropped(channels, size, outputs)
        net[11] = Ones()
        net.insert(13, spy)
        return net

    monkeypatch.setitem(NETS, "spied", Architecture(spied, (0.0,), (1.0,)))
    run = run_of(letters, recipe, net="spied", **more)
    source = train(run.source, food()) if run.source else None
    train(run, food(), source)
    return spy.seen


def test_masks_do_not_depend_on_what_else_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = masks(monkeypatch, "RRRR")
    assert len(reference) == STEPS
    assert {*torch.cat(reference).unique().tolist()} == {0.0, 2.0}
    assert len({tuple(m.flatten().tolist()) for m in reference}) > STEPS / 2
    for letters in ("FFRR", "XTRF", "TFTX"):
        assert all(map(torch.equal, masks(monkeypatch, letters), reference))
    assert not all(map(torch.equal, masks(monkeypatch, "RRRR", seed=1), reference))


def test_frozen_dropout_is_off_unless_the_recipe_keeps_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.cat(masks(monkeypatch, "RRFR")).unique().tolist() == [1.0]
    kept = masks(monkeypatch, "RRFR", replace(HARD, frozen_dropout=True))
    assert all(map(torch.equal, kept, masks(monkeypatch, "RRRR")))


@pytest.mark.parametrize("make", [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d])
@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_dropout_keeps_its_share_and_its_mean(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[float], nn.Module], rate: float
) -> None:
    dims = {nn.Dropout1d: 1, nn.Dropout3d: 3}.get(make, 2)
    net = nn.Sequential(nn.Linear(1, 1), make(rate))
    seed_dropout(net, (Layer("0", 1, (), (), ("0", "1")),), run_of("R4"), 0)
    out = net[1](torch.ones(100, 50, *[2] * dims)).flatten(2)
    scaled = torch.tensor(1 / (1 - rate) if rate < 1 else 0.0)
    assert ((out == 0) | (out == scaled)).all()
    assert (out == 0).double().mean().item() == pytest.approx(rate, abs=0.03)
    whole = (out == out[:, :, :1]).all().item()  # is every channel dropped as a whole?
    assert whole == (make is not nn.Dropout or rate in {0.0, 1.0})
    assert torch.equal(net.eval()[1](torch.ones(2, 2)), torch.ones(2, 2))


def test_each_dropout_of_each_run_and_stage_has_masks_of_its_own() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.Dropout(), nn.Dropout(), nn.Linear(1, 1), nn.Dropout())
    where = (Layer("0", 1, (), (), ("0", "1", "2")), Layer("3", 2, (), (), ("3", "4")))
    drawn = []
    for run, stage in ((run_of("R4"), 0), (run_of("R4", seed=1), 0), (run_of("R4", draw=2), 0), (run_of("R4 > T4"), 1)):
        seed_dropout(net, where, run, stage)
        drawn += [tuple(net[k](torch.ones(64)).tolist()) for k in (1, 2, 4)]
    assert len(set(drawn)) == 12


# ---------------------------------------------------------------- the same bits


@pytest.mark.parametrize("net", ["normed", "dropped", "attentive"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_two_runs_give_the_same_bits_and_leave_the_global_stream_alone(net: str, precision: str) -> None:
    """Also where the net itself draws from that stream, as attention's dropout does."""
    run = run_of("FTRR > T4", *(replace(HARD, precision=precision),) * 2, net=net)
    eats = food(getattr(torch, precision))
    torch.manual_seed(1)
    one = trained(run, eats)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    two = trained(run, eats)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one.weights, two.weights)
    assert one.curve == two.curve
    assert one.weights["0.weight" if net != "attentive" else "embed.weight"].dtype == getattr(torch, precision)


def test_lenet5_repeats_itself_on_images(blobs: DataSet) -> None:
    task = Task(blobs.digest, (1, 4, 6), shots=5, encoding="bits:20", parts=Parts(test=10))
    run = Run("lenet5", task, Treatment.parse("R6"), None, (Recipe(100, 5, rate=0.05),))
    eats = feed(task, blobs, "lenet5")
    one, two = train(run, eats), train(run, eats)
    assert same(one.weights, two.weights)
    assert one.curve == two.curve
    accuracy = {p.split: p.value for p in one.curve if p.quantity == "accuracy"}
    assert accuracy["train"] > 0.9


def test_the_source_is_not_changed() -> None:
    run = run_of("T4")
    assert run.source is not None
    source = train(run.source, food())
    before = {name: tensor.clone() for name, tensor in source.weights.items()}
    train(run, food(), source)
    assert same(source.weights, before)


# ---------------------------------------------------------------- stages and points


def test_a_later_stage_is_a_run_of_its_own_from_the_previous_result() -> None:
    """LP-FT by our trainer is a linear probe and then, from its weights, the loop by hand."""
    second = replace(HARD, steps=7, rate=0.02, drops=(0.5,), nesterov=True)
    run = run_of("F3R > T4", HARD, second)
    assert run.source is not None
    source = train(run.source, food())
    probe = train(run_of("F3R"), food(), source)
    whole = train(run, food(), source)
    assert same(whole.initial, probe.initial)
    tuned = by_hand(run, probe.weights, "TTTT", food())
    for name, tensor in tuned.items():
        torch.testing.assert_close(whole.weights[name], tensor, rtol=0, atol=1e-12)
    assert whole.steps == (12, 7)
    assert [(p.step, p.split) for p in whole.curve if p.quantity == "loss"] == [
        (12, "train"), (12, "test"), (19, "train"), (19, "test"),
    ]  # fmt: skip
    assert [p for p in whole.curve if p.step == 12] == list(probe.curve)


def test_points_are_where_the_recipe_says() -> None:
    ours = trained(run_of("R4", replace(HARD, evaluate_every=5)))
    assert [(p.step, p.split) for p in ours.curve if p.quantity == "accuracy"] == [
        (0, "test"), (5, "test"), (10, "test"), (12, "train"), (12, "test"),
    ]  # fmt: skip


def test_evaluating_on_the_way_does_not_change_the_result() -> None:
    often = trained(run_of("FRTR", replace(HARD, evaluate_every=1), net="dropped"))
    never = trained(run_of("FRTR", HARD, net="dropped"))
    assert same(often.weights, never.weights)


def test_no_steps_is_the_beginning_evaluated() -> None:
    ours = trained(run_of("FTRR", replace(HARD, steps=0)))
    assert same(ours.initial, ours.weights)
    assert [(p.step, p.split) for p in ours.curve if p.quantity == "accuracy"] == [(0, "train"), (0, "test")]
    assert ours.steps == (0,)


def test_a_stage_stops_at_its_training_accuracy() -> None:
    recipe = replace(HARD, steps=200, evaluate_every=10, rate=0.05, weight_decay=0.0)
    long = trained(run_of("R4", replace(recipe, stop_at=2.0)))  # never reached, so that all points are there
    accuracy = {p.step: p.value for p in long.curve if (p.split, p.quantity) == ("train", "accuracy")}
    first = next(step for step, value in accuracy.items() if step and value >= 0.9)
    assert first < 200
    short = trained(run_of("R4 > T4", replace(recipe, stop_at=0.9), replace(HARD, steps=3)))
    assert short.steps == (first, 3)
    assert [p for p in short.curve if p.step <= first] == [p for p in long.curve if p.step <= first]


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("every", [0, 3])
def test_a_loss_that_is_no_number_is_a_diverged_run(every: int) -> None:
    run = run_of("R4", replace(HARD, rate=1e200, evaluate_every=every))
    with pytest.raises(Diverged, match=rf"^run {key(run)} \(R4, seed 0\) loss (nan|inf) at step \d+$"):
        trained(run)


def test_divergence_in_the_very_last_update_is_found_too() -> None:
    """The loss before it was fine; what would be stored is not."""
    run = run_of("R4", replace(HARD, steps=1, rate=1e200))
    with pytest.raises(Diverged, match=rf"^run {key(run)} \(R4, seed 0\) loss (nan|inf) at step 1$"):
        trained(run)


def test_a_treatment_for_another_net_is_refused() -> None:
    message = "treatment 'R6' is for 6 layers; net 'normed' has 4: 0 3 7 9"
    with pytest.raises(LayersError, match=f"^{re.escape(message)}$"):
        trained(run_of("R6"))


@pytest.mark.parametrize("count", [3, 5])
def test_layer_rates_for_another_net_are_refused(count: int) -> None:
    message = f"the recipe has layer_rates for {count} layers; the net has 4: 0 3 7 9"
    with pytest.raises(LayersError, match=f"^{re.escape(message)}$"):
        trained(run_of("R4", replace(HARD, layer_rates=(1.0,) * count)))


# ---------------------------------------------------------------- the order of examples


def orders(run: Run, examples: int, passes: int, stage: int = 0) -> Tensor:
    """What so many passes show, a pass a row."""
    size = run.recipes[stage].batch_size
    shown = list(islice(batches(run, stage, examples), -(-passes * examples // size)))
    assert {len(batch) for batch in shown} == {size}
    return torch.cat(shown)[: passes * examples].reshape(passes, examples)


@pytest.mark.parametrize("examples", [1, 3, 4, 10, 17])
def test_each_pass_shows_every_example_once(examples: int) -> None:
    for row in orders(run_of("R4"), examples, 6):
        assert sorted(row.tolist()) == list(range(examples))


def test_the_order_is_the_same_for_all_treatments_and_another_for_each_seed_draw_and_stage() -> None:
    reference = orders(run_of("R4"), 10, 3)
    assert len({tuple(row.tolist()) for row in reference}) == 3
    for letters in ("F3R", "T4", "X2R2", "MWRF"):
        assert torch.equal(orders(run_of(letters), 10, 3), reference)
    for other in (
        orders(run_of("R4", seed=1), 10, 3),
        orders(run_of("R4", draw=2), 10, 3),
        orders(run_of("R4 > T4"), 10, 3, stage=1),
    ):
        assert not (other == reference).all(1).any()


def test_orders_of_different_seeds_are_independent() -> None:
    """One shared order for all members of a comparison makes seeds correlated and error bars too small."""
    ranks = torch.stack([orders(run_of("R4", seed=s), 200, 1)[0].double() for s in range(12)])
    between = torch.corrcoef(ranks)[~torch.eye(12, dtype=torch.bool)]
    assert between.abs().max() < 5 / 200**0.5
