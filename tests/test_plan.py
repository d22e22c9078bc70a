"""Plans: which runs are done together, and that it is the same whatever is left to do and in whatever order."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layerwise.execute import speeds, widths
from layerwise.execute.plan import Plan, Unit, alike, grouped, ordered, plan
from layerwise.execute.widths import Widths, cache_folder
from layerwise.nets import NETS, Architecture
from layerwise.prefix import frozen_depth
from layerwise.run import Recipe, Run, Weights, key
from layerwise.tasks import Parts, Task
from layerwise.treatment import Treatment, transfer

RECIPE = Recipe(steps=10, batch_size=4)
SHAPE = (1, 32, 32)


def nothing(_name: str, _weights: bool) -> bool:
    return False


def task(shots: int = 1, seed: int = 0, data: str = "data") -> Task:
    return Task(data, (0, 1, 2), shots, "bits:20", Parts("random", 5), seed)


SOURCE = Run("lenet5", task(9), transfer(6, 0), None, (RECIPE,))


def target(text: str = "F5R", shots: int = 1, seed: int = 0, **changed: object) -> Run:
    treatment = Treatment.parse(text)
    source, recipes = SOURCE if treatment.needs_source else None, (RECIPE,) * len(treatment.stages)
    return replace(Run("lenet5", task(shots, seed), treatment, source, recipes, seed), **changed)


# What runs must share, by hand.

TOGETHER = {
    "samples": (target(), target(shots=5)),
    "task and seed": (target(), target(seed=1)),
    "source": (target(), target(source=replace(SOURCE, seed=7))),
    "treatment of trained layers": (target("FFTRRR"), target("FFRRRR")),
    "random and copied filters": (target("F3R3"), target("F2XR3")),
    "scratch and source": (SOURCE, target("R6")),
}
APART = {
    "recipe": (target(), target(recipes=(replace(RECIPE, rate=0.1),))),
    "precision": (target(), target(recipes=(replace(RECIPE, precision="float64"),))),
    "net": (target(), target(net="lenet6")),
    "data": (target(), target(task=task(data="other"))),
    "outputs": (target(), target(task=replace(task(), encoding="bits:21"))),
    "encoding": (
        target(task=replace(task(), encoding="bits:3")),
        target(task=replace(task(), encoding="onehot")),
    ),
    "depth": (target("F5R"), target("F4RR")),
    "depth of a later stage": (
        target("FFR4 > F4RR"),
        target("FFR4 > F3R3"),
    ),
    "level": (target(), target(source=target("T6"))),
    "level of weights from outside": (target(), target(source=Weights("0f" * 32))),
}


@pytest.mark.parametrize("runs", TOGETHER.values(), ids=TOGETHER)
def test_runs_that_may_be_trained_together(runs: tuple[Run, Run]) -> None:
    assert alike(runs[0]) == alike(runs[1])


@pytest.mark.parametrize("runs", APART.values(), ids=APART)
def test_runs_that_are_never_trained_together(runs: tuple[Run, Run]) -> None:
    assert alike(runs[0]) != alike(runs[1])
    units = grouped(plan(runs, nothing), lambda _run, _count: 8).units
    assert not [unit for unit in units if set(runs) <= set(unit.runs)]


def test_frozen_depth_by_hand() -> None:
    depths = {"R6": 0, "F5R": 5, "X2R4": 2, "FFTFFR": 2, "F6": 5, "XXFRRR": 3, "TF5": 0}
    assert {text: frozen_depth(target(text), 0) for text in depths} == depths
    assert frozen_depth(target(recipes=(replace(RECIPE, frozen_dropout=True),)), 0) == 0


# Whatever is wanted.

drawn_runs = st.lists(
    st.tuples(
        st.sampled_from(["one", "two"]),  # the net
        st.sampled_from(["R6", "F5R", "F4TR", "F4RR", "X2R4", "T6"]),
        st.sampled_from([RECIPE, replace(RECIPE, rate=0.1)]),
        st.integers(1, 2),  # samples
        st.integers(0, 2),  # seed
        st.integers(0, 99),  # which of the earlier runs is the source
    ),
    min_size=1,
    max_size=12,
)


def built(drawn: list[tuple[str, str, Recipe, int, int, int]]) -> list[Run]:
    """Runs on up to four levels, some of them twice."""
    runs: list[Run] = []
    for net, text, recipe, shots, seed, which in drawn:
        treatment, sources = Treatment.parse(text), [SOURCE, *runs]
        source = sources[which % len(sources)]
        source = source if len(list(source.lineage)) < 4 else SOURCE
        runs.append(Run(net, task(shots, seed), treatment, source if treatment.needs_source else None, (recipe,)))
    return runs


def some_width(run: Run, count: int) -> int:
    """Any rule that looks at the kind of run and their number alone."""
    return 1 + (frozen_depth(run, 0) + 3 * count) % 5


@settings(max_examples=150, deadline=None)
@given(drawn_runs, st.permutations(range(12)), st.sets(st.integers(0, 20)))
def test_units_have_each_missing_run_once_and_are_the_same_whatever_is_stored(
    drawn: list[tuple[str, str, Recipe, int, int, int]], order: list[int], stored: set[int]
) -> None:
    runs = built(drawn)
    full = grouped(plan(runs, nothing), some_width)
    assert sorted(key(run) for unit in full.units for run in unit.todo) == sorted({key(run) for run in full.missing})
    assert {key(run) for run in full.missing} == {key(member) for run in runs for member in run.lineage}
    for unit in full.units:
        assert len({alike(run) for run in unit.runs}) == 1
        assert 1 <= len(unit.runs) <= unit.width

    shuffled = [runs[place] for place in order if place < len(runs)]
    there = {key(run) for place, run in enumerate(full.runs) if place in stored}
    rest = grouped(plan(shuffled, lambda name, _weights: name in there), some_width)
    assert sorted(key(run) for unit in rest.units for run in unit.todo) == sorted(map(key, rest.missing))
    assert {(unit.runs, unit.width) for unit in rest.units} <= {(unit.runs, unit.width) for unit in full.units}

    started = ordered(full, {unit: float(len(unit.runs)) for unit in full.units})
    assert sorted(started.units, key=repr) == sorted(full.units, key=repr)
    done: set[str] = set()
    for unit in started.units:
        assert unit.sources <= done
        done |= unit.missing
    assert sum(started.seconds.values()) == pytest.approx(sum(len(unit.runs) for unit in full.units))


def test_order_asked_for_decides_nothing() -> None:
    """Bug: fleets were cut from the runs as they were asked for, so that the same study in another order differed."""
    runs = [target(shots=shots, seed=seed) for shots in (1, 5) for seed in range(3)]
    one, two = (grouped(plan(asked, nothing), lambda _run, _count: 4) for asked in (runs, [*reversed(runs)]))
    assert {unit.runs for unit in one.units} == {unit.runs for unit in two.units}


def test_units_of_different_treatments_have_equal_tasks_in_equal_places() -> None:
    """So that they share a pool of images, and what frozen layers make of it."""
    sources = [replace(SOURCE, seed=seed) for seed in range(2)]
    runs = [target(text, shots, source=s) for s in sources for text in ("F5R", "F4RR") for shots in (40, 5, 10)]
    units = grouped(plan(runs, nothing), lambda _run, _count: 3).units
    tasks = [[run.task for run in unit.runs] for unit in units if unit.runs[0].source]
    assert len(tasks) == 4
    assert all(found == tasks[0] for found in tasks)
    assert all(len({run.source for run in unit.runs}) == 1 for unit in units if unit.runs[0].source)


def test_sources_come_first_then_the_longest() -> None:
    runs = [target("F5R"), target("F4RR"), replace(target("R6"), seed=3)]
    made = plan(runs, nothing)
    seconds = {unit: {"R6": 9.0, "F5R": 1.0, "F4RR": 2.0}[str(unit.runs[0].treatment)] for unit in made.units}
    first, *rest = ordered(made, seconds).units
    assert first.runs == (SOURCE,)  # although another of its level takes as long
    assert [str(unit.runs[0].treatment) for unit in rest] == ["R6", "F4RR", "F5R"]


def test_a_runs_forecast_is_its_share_of_its_unit() -> None:
    runs = [target(shots=shots) for shots in (1, 2, 3, 4)]
    made = grouped(plan(runs, lambda name, _: name in {key(SOURCE), key(runs[0])}), lambda _run, _count: 4)
    (unit,) = made.units
    assert ordered(made, {unit: 6.0}).seconds == {key(run): 2.0 for run in runs[1:]}


# How wide fleets are.


@pytest.fixture
def remembered(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "fleets.json"


def measuring(
    monkeypatch: pytest.MonkeyPatch,
    step: Callable[[int], float],
    ready: Callable[[int], float] = lambda width: 0.0,
    most: int = 8,
) -> list[int]:
    """Fake measuring: a step of so many members, and what comes before it, take so long; gives what was measured."""
    asked: list[int] = []

    def speed(run: Run, stage: int, shape: tuple[int, int, int], width: int, device: str) -> SimpleNamespace:
        asked.append(width)
        return SimpleNamespace(step=step(width), ready=ready(width))

    monkeypatch.setattr(widths, "speed", speed)
    monkeypatch.setattr(widths, "widest", lambda run, shape, device: most)
    return asked


@pytest.mark.parametrize(
    ("count", "cores", "width"),
    [
        (1, 1, 1),  # nobody to train with
        (2, 1, 2),
        (2, 2, 1),  # each core has its own
        (3, 2, 2),  # 2 and 1: one place is a stand-in's
        (16, 2, 8),
        (17, 2, 6),  # three units of 6, 6 and 5
        (20, 2, 7),
        (20, 64, 1),
    ],
)
def test_widths_are_even_and_leave_no_core_without_work(
    monkeypatch: pytest.MonkeyPatch, remembered: Path, count: int, cores: int, width: int
) -> None:
    measuring(monkeypatch, lambda width: 1.0)
    assert Widths(cores, remembered).of(SOURCE, count, SHAPE) == width


def test_a_fleet_that_is_slower_than_its_members_is_not_formed(
    monkeypatch: pytest.MonkeyPatch, remembered: Path
) -> None:
    for together, width in ((1.1, 1), (0.96, 1), (0.94, 8)):  # of the time alone
        measuring(monkeypatch, lambda width, together=together: 1.0 if width == 1 else together * width)
        assert Widths(1, remembered.with_name(f"{together}.json")).of(SOURCE, 8, SHAPE) == width


def test_a_fleet_for_whose_making_a_study_is_too_short_is_not_formed(
    monkeypatch: pytest.MonkeyPatch, remembered: Path
) -> None:
    """Bug: only steps were compared, and a fleet is traced for seconds before its first."""
    measuring(monkeypatch, lambda width: 1.0, lambda width: 0.5 if width == 1 else 100.0)

    def width(*steps: int) -> int:
        recipes = tuple(replace(RECIPE, steps=some) for some in steps)
        run = replace(SOURCE, treatment=Treatment.parse(" > ".join(["R6", "T6"][: len(steps)])), recipes=recipes)
        return Widths(1, remembered).of(run, 8, SHAPE)

    assert width(14) == 1  # 114 s together; 8 x 14.5 = 116 one after the other, of which it must save a twentieth
    assert width(15) == 8  # 115 and 124
    assert width(15, 13) == 1  # 228 and 232
    assert width(15, 18) == 8  # 233 and 272
    assert width(14) == 1


def test_runs_are_of_one_kind_if_all_their_stages_are_equally_fast() -> None:
    """Bug: only the first stage's recipe was looked at, so that what was measured first held for other batch sizes."""
    run = target("F5R > T6")
    first, second = run.recipes
    for changed in ({"batch_size": 40}, {"optimiser": "adam"}, {"augment": "flip"}):
        assert speeds.kind(replace(run, recipes=(first, replace(second, **changed))), SHAPE) != speeds.kind(run, SHAPE)
    assert speeds.kind(replace(run, recipes=(first, replace(second, rate=0.3))), SHAPE) == speeds.kind(run, SHAPE)


def test_steps_are_timed_at_any_rate() -> None:
    """Bug: at a rate that overflows in its first steps the forecast ended, where no milder run was measured before."""
    run = Run("small8", SOURCE.task, transfer(8, 0), None, (replace(RECIPE, rate=3e38),))
    assert all(speeds.speed(run, 0, SHAPE, width).step > 0 for width in (1, 2))


def test_a_width_is_decided_once_on_a_machine(monkeypatch: pytest.MonkeyPatch, remembered: Path) -> None:
    asked = measuring(monkeypatch, lambda width: 1.0)
    assert Widths(1, remembered).of(SOURCE, 8, SHAPE) == 8
    assert sorted(asked) == [1, 8]
    later = measuring(monkeypatch, lambda width: float(width) ** 2)  # by now it would be slower
    assert Widths(1, remembered).of(SOURCE, 8, SHAPE) == 8
    assert Widths(1, remembered).of(replace(SOURCE, seed=5), 8, SHAPE) == 8
    assert later == []
    assert Widths(1, remembered).of(target("F5R"), 8, SHAPE) == 1  # another kind of run
    assert Widths(1, remembered).of(SOURCE, 7, SHAPE) == 1  # another width
    assert not [path for path in remembered.parent.iterdir() if path.suffix not in {".json", ".lock"}]


def test_two_studies_at_once_keep_to_what_the_first_found(monkeypatch: pytest.MonkeyPatch, remembered: Path) -> None:
    """Bug: the last to write forgot what others had measured since it began, and later measured it otherwise."""
    one, two = Widths(1, remembered), Widths(1, remembered)
    measuring(monkeypatch, lambda width: 1.0)
    assert one.of(SOURCE, 8, SHAPE) == 8
    measuring(monkeypatch, lambda width: float(width) ** 2)
    assert two.of(SOURCE, 8, SHAPE) == 8
    assert two.of(target("F5R"), 8, SHAPE) == 1
    again = measuring(monkeypatch, lambda width: 1.0)
    assert [Widths(1, remembered).of(run, 8, SHAPE) for run in (SOURCE, target("F5R"))] == [8, 1]
    assert again == []


def test_a_store_that_moves_keeps_its_fleets(monkeypatch: pytest.MonkeyPatch, remembered: Path, tmp_path: Path) -> None:
    """Another machine, another cache, another speed: a study that is resumed there forms the fleets that it had."""
    beside = tmp_path / "store" / "fleets.json"
    measuring(monkeypatch, lambda width: 1.0)
    assert Widths(1, remembered, beside).of(SOURCE, 8, SHAPE) == 8
    measuring(monkeypatch, lambda width: float(width) ** 2)
    elsewhere = remembered.with_name("elsewhere.json")
    assert Widths(1, elsewhere, beside).of(SOURCE, 8, SHAPE) == 8
    assert Widths(1, elsewhere).of(SOURCE, 8, SHAPE) == 1
    assert Widths(1, elsewhere, beside).of(SOURCE, 8, SHAPE) == 8  # the store's word counts
    other = tmp_path / "other" / "fleets.json"
    assert Widths(1, remembered, other).of(SOURCE, 8, SHAPE) == 8  # as on this machine before
    assert Widths(1, elsewhere, other).of(SOURCE, 8, SHAPE) == 8


def test_a_study_that_is_resumed_with_other_cores_forms_the_fleets_that_it_had(
    monkeypatch: pytest.MonkeyPatch, remembered: Path, tmp_path: Path
) -> None:
    """Bug: widths followed the cores of the moment, so that a cluster with a node less trained other fleets."""
    beside = tmp_path / "store" / "fleets.json"
    asked = measuring(monkeypatch, lambda width: 1.0)
    first, alone = Widths(2, remembered, beside), target("F5R")
    assert [first.of(SOURCE, count, SHAPE) for count in (12, 16, 2)] == [6, 8, 1]
    measured = len(asked)
    for cores in (1, 3, 64):
        later = Widths(cores, remembered, beside)
        assert [later.of(SOURCE, count, SHAPE) for count in (12, 16, 2)] == [6, 8, 1]
        assert later.of(replace(SOURCE, seed=5), 12, SHAPE) == 6
    assert len(asked) == measured
    assert Widths(3, remembered, beside).of(alone, 12, SHAPE) == 4  # another kind: nothing was chosen for it
    assert Widths(3, remembered).of(SOURCE, 12, SHAPE) == 4  # another store


def test_a_plan_that_is_not_carried_out_decides_nothing(
    monkeypatch: pytest.MonkeyPatch, remembered: Path, tmp_path: Path
) -> None:
    """`--dry-run` where a cluster is logged in to does not cut its fleets for two cores."""
    beside = tmp_path / "store" / "fleets.json"
    measuring(monkeypatch, lambda width: 1.0)
    assert Widths(2, remembered, beside, begins=False).of(SOURCE, 12, SHAPE) == 6
    assert not beside.exists()
    assert Widths(4, remembered, beside).of(SOURCE, 12, SHAPE) == 3
    assert Widths(2, remembered, beside, begins=False).of(SOURCE, 12, SHAPE) == 3


@pytest.mark.parametrize("content", [b"", b'{"8 ', b"[1]", b'{"8 x": true}', b"7"])
def test_a_damaged_memory_of_what_was_chosen_is_written_anew(
    monkeypatch: pytest.MonkeyPatch, remembered: Path, tmp_path: Path, content: bytes
) -> None:
    beside = tmp_path / "fleets.json"
    measuring(monkeypatch, lambda width: 1.0)
    assert Widths(2, remembered, beside).of(SOURCE, 12, SHAPE) == 6
    whole = beside.read_bytes()
    beside.write_bytes(content)
    assert Widths(2, remembered, beside).of(SOURCE, 12, SHAPE) == 6
    assert beside.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'{"8 ', b"[1]", b"null", b'{"8 x": "yes"}', b"7"])
def test_a_damaged_memory_is_measured_anew(monkeypatch: pytest.MonkeyPatch, remembered: Path, content: bytes) -> None:
    asked = measuring(monkeypatch, lambda width: 1.0)
    Widths(1, remembered).of(SOURCE, 8, SHAPE)
    whole = remembered.read_bytes()
    remembered.write_bytes(content)
    assert Widths(1, remembered).of(SOURCE, 8, SHAPE) == 8
    assert len(asked) == 4
    assert remembered.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    asked = measuring(monkeypatch, lambda width: 1.0)
    found = Widths(1, tmp_path / "file" / "fleets.json")
    assert [found.of(SOURCE, 8, SHAPE) for _ in range(2)] == [8, 8]
    assert len(asked) == 2


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "layerwise"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "layerwise"


def test_runs_that_stop_on_their_own_are_no_fleet(remembered: Path) -> None:
    run = replace(SOURCE, recipes=(replace(RECIPE, stop_at=0.9, evaluate_every=1),))
    assert Widths(1, remembered).of(run, 8, SHAPE) == 1
    assert not remembered.exists()


def test_the_widest_fleet_is_what_the_cache_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speeds, "_bytes", lambda kind: {"lenet5": 2**22, "lenet5relu": 2**30, "tiny": 1}[kind.run.net])
    assert [speeds.widest(replace(SOURCE, net=net), SHAPE) for net in ("lenet5", "lenet5relu", "tiny")] == [8, 1, 128]


class Moody(nn.Module):
    """Its forward pass depends on the values that pass: it cannot be mapped over members."""

    def __init__(self, channels: int, size: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(channels * size * size, 8), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        return self.second(x if x.sum() > 0 else -x)


def test_a_net_that_cannot_be_mapped_is_trained_by_itself(monkeypatch: pytest.MonkeyPatch, remembered: Path) -> None:
    monkeypatch.setitem(NETS, "moody", Architecture(Moody, (0.5,), (0.5,)))
    monkeypatch.setattr(speeds, "ENOUGH_SECONDS", 0.0)
    run = Run("moody", task(), Treatment.parse("RR"), None, (RECIPE,))
    assert Widths(1, remembered).of(run, 4, SHAPE) == 1
    assert torch.get_num_threads() == 1


def test_a_plan_of_nothing() -> None:
    made = grouped(plan([], nothing), some_width)
    assert made == Plan((), (), frozenset())
    assert ordered(made, {}).units == ()
    assert Unit((), frozenset()).todo == ()
