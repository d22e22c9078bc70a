"""Runs: keys that stay what they are, and say everything that decides a result."""

import copy
import json
import pickle
from dataclasses import asdict, fields, replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise.errors import StudyError
from layerwise.randomness import canonical, seed
from layerwise.run import PRECISIONS, SPEC_VERSION, Recipe, Run, Weights, from_spec, key, spec
from layerwise.tasks import Parts, Task
from layerwise.treatment import Treatment

RECIPE = Recipe(100, 20, 0.05)
TASK = Task("0123456789abcdef", (0, 3, 5), 10, "bits:20", Parts("random", 50), 4)
BASE = Run("lenet5", TASK, Treatment.parse("R6"), None, (RECIPE,), 4)
TARGET = Run("lenet5", replace(TASK, classes=(1, 2)), Treatment.parse("F3R3"), BASE, (RECIPE,), 4)
TWO_STAGES = Run("lenet5", TASK, Treatment.parse("F5R > T6"), TARGET, (RECIPE, replace(RECIPE, rate=0.001)), 1)


OUTSIDE = replace(TARGET, source=Weights("0f" * 32), draw=-1)


def test_golden_keys() -> None:
    """A change of these keys makes every store out there worthless: raise SPEC_VERSION and say so in the changelog."""
    assert [key(run) for run in (BASE, TARGET, TWO_STAGES, OUTSIDE)] == GOLDEN


GOLDEN = ["48089c9f5faace79", "1a463612b461801d", "524ed91ef8a768e2", "f8c40267bda4bb03"]


def test_a_key_is_the_head_of_a_hash_over_canonical_json() -> None:
    """The definition, written out once more with everything that a fast key leaves out."""
    assert [key(run) for run in (BASE, TARGET, TWO_STAGES, OUTSIDE)] == [
        sha256(canonical(plainly(run)).encode()).hexdigest()[:16] for run in (BASE, TARGET, TWO_STAGES, OUTSIDE)
    ]


def plainly(run: Run) -> dict[str, Any]:
    """What `spec` must be."""
    parts = {name: value for name, value in asdict(run.task.parts).items() if name not in ("groups", "share") or value}
    task = {name: value for name, value in asdict(run.task).items() if name != "rest" or value}
    recipes = [asdict(recipe) for recipe in run.recipes]
    return {
        "version": SPEC_VERSION,
        "net": run.net,
        "task": {**task, "parts": parts},
        "treatment": run.treatment.expanded,
        "source": plainly(run.source) if isinstance(run.source, Run)
        else {"weights": run.source.digest} if run.source else None,
        "recipes": [{k: value for k, value in recipe.items() if k != "augment" or value} for recipe in recipes],
        "seed": run.seed,
        "draw": run.draw,
    }  # fmt: skip


few, word, share = st.integers(0, 3), st.text(max_size=4), st.floats(0, 1)
shares = st.lists(share | st.just(1), max_size=2).map(tuple)
recipes = st.fixed_dictionaries({
    "steps": st.integers(0, 10**6), "batch_size": st.integers(1, 100), "rate": st.floats(1e-9, 10) | st.just(1),
    "optimiser": st.just("adam"), "momentum": st.floats(1e-3, 1) | st.just(1), "nesterov": st.booleans(),
    "weight_decay": share | st.just(0), "drops": shares, "layer_rates": shares, "precision": st.just("tf32"),
    "channels_last": st.booleans(), "frozen_dropout": st.booleans(), "evaluate_every": few,
    "stop_at": st.none() | share, "version": few, "augment": st.sampled_from(["", "flip", "flip, crop:4", "jitter:.2"]),
}).map(lambda recipe: recipe if recipe["evaluate_every"] else recipe | {"stop_at": None})  # fmt: skip
words = st.lists(word, max_size=2).map(tuple)
all_parts = st.tuples(word, few, words, few, few, words, share)
tasks = st.tuples(
    word, st.lists(few, max_size=5).map(tuple), st.none() | few, st.sampled_from(["onehot", "bits:7"]), all_parts, few
)
letters = st.lists(st.sampled_from(["F", "T", "R", "M", "W", "P(0.5,random,T)"]), max_size=3).map("".join)
members = st.tuples(word, tasks, letters, recipes, few, st.integers(-1, 3))
digests = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(st.lists(members, min_size=1, max_size=3), st.none() | digests)
def test_every_run_has_its_spec_its_key_and_its_way_back(lineage: list[Any], digest: str | None) -> None:
    source: Run | Weights | None = Weights(digest) if digest else None
    for net, (*task, parts, task_seed), symbols, recipe, number, draw in lineage:
        treatment = Treatment.parse(f"F{symbols}" if source else "XR")
        made = Task(*task, Parts(*parts), task_seed)
        run = source = Run(net, made, treatment, source, (Recipe(**recipe),), number, draw)
    assert spec(run) == plainly(run)
    assert key(run) == sha256(canonical(plainly(run)).encode()).hexdigest()[:16]
    again = from_spec(json.loads(json.dumps(spec(run))))
    assert (again, key(again), hash(again)) == (run, key(run), hash(run))


def test_what_a_run_remembers_of_itself_is_no_part_of_it() -> None:
    made = replace(TWO_STAGES)
    fields_alone = dict(vars(made))
    key(made)
    assert key(replace(made, seed=2)) != key(made)
    for again in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):
        assert vars(again) == fields_alone
        assert (again, key(again), hash(again)) == (made, key(made), hash(made))


def test_a_key_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: hashing a run walked its whole lineage each time that its key was looked up."""
    made, again = replace(TWO_STAGES), replace(TWO_STAGES)
    runs = {made: key(made)}
    assert runs[again] == key(again)
    monkeypatch.delattr("layerwise.run.canonical")
    assert (key(made), runs[made], runs[again]) == (key(again),) * 3


def test_weights_from_outside_are_a_source() -> None:
    assert OUTSIDE.draw == 1
    assert OUTSIDE.source_run is None
    assert list(OUTSIDE.lineage) == [OUTSIDE]
    above = replace(TARGET, source=OUTSIDE, draw=-1)
    assert above.draw == 2
    assert list(above.lineage) == [above, OUTSIDE]
    assert spec(OUTSIDE)["source"] == {"weights": "0f" * 32}
    assert key(replace(OUTSIDE, source=Weights("0e" * 32))) != key(OUTSIDE)


@pytest.mark.parametrize("digest", ["", "0f", "0F" * 32, "0f" * 32 + "\n", "../" * 20 + "abcd", "g" * 64])
def test_weights_are_named_by_a_whole_digest(digest: str) -> None:
    with pytest.raises(StudyError) as caught:
        Weights(digest)
    assert str(caught.value) == (
        f"weights '{digest}' are not named by 64 hex digits (0-9, a-f): the SHA-256 of a safetensors file, as "
        "`sha256sum FILE` prints it"
    )


@pytest.mark.parametrize("where", [("task",), ("task", "parts"), ("recipes", 0)])
def test_a_field_of_a_newer_layerwise_is_said(where: tuple[str | int, ...]) -> None:
    """Bug: `runs ls` and `watch` ended in a traceback over one such run."""
    newer = json.loads(canonical(spec(TARGET)))
    place = newer
    for step in where:
        place = place[step]
    place["mixup"] = 0.2
    with pytest.raises(StudyError, match="a run with 'mixup' cannot be read by this layerwise; upgrade layerwise"):
        from_spec(newer)


def test_a_run_of_a_newer_layerwise_is_said_and_one_of_an_older_is_read() -> None:
    newer = {**spec(TARGET), "version": SPEC_VERSION + 1, "more": 1}
    with pytest.raises(StudyError) as caught:
        from_spec(newer)
    assert str(caught.value) == (
        "a run of version 3 cannot be read by this layerwise, which knows up to 2; upgrade layerwise"
    )
    older = json.loads(json.dumps({**spec(TARGET), "version": 1}))
    for recipe in (*older["recipes"], *older["source"]["recipes"]):
        del recipe["channels_last"]
    assert from_spec(older) == TARGET


def test_seeds_are_golden_too() -> None:
    assert seed("order", 3) == 2379446458247548441


@pytest.mark.parametrize("run", [BASE, TARGET, TWO_STAGES])
def test_a_spec_gives_its_run_back(run: Run) -> None:
    assert from_spec(json.loads(json.dumps(spec(run)))) == run


def _changed(value: Any) -> list[Any]:
    """Every value that differs from this one in one field, nested ones included."""
    others: list[Any] = []
    changes = {int: lambda v: v + 1, float: lambda v: v + 0.5, bool: lambda v: not v, str: lambda v: v + "x"}
    for field in fields(value):
        old = getattr(value, field.name)
        if isinstance(old, Task | Parts):
            others += [replace(value, **{field.name: other}) for other in _changed(old)]
        elif field.name == "encoding":
            others.append(replace(value, encoding="bits:21"))
        elif type(old) in changes:
            others.append(replace(value, **{field.name: changes[type(old)](old)}))
        elif old is None:
            others.append(replace(value, **{field.name: 1}))
        elif isinstance(old, tuple):
            others.append(replace(value, **{field.name: (*old, "7" if field.name in ("held_out", "groups") else 7)}))
    return others


def test_everything_that_decides_a_result_is_in_the_key() -> None:
    tasks = _changed(TASK)
    recipes = [replace(RECIPE, **{name: value}) for name, value in
               {"steps": 101, "batch_size": 21, "rate": 0.06, "optimiser": "adam", "momentum": 0.8, "nesterov": True,
                "weight_decay": 0.1, "drops": (0.5,), "layer_rates": (1.0, 2.0), "precision": "float64",
                "frozen_dropout": True, "evaluate_every": 5, "version": 2,
                "channels_last": True, "augment": "flip"}.items()]  # fmt: skip
    recipes.append(replace(RECIPE, evaluate_every=5, stop_at=0.9))
    assert {f.name for f in fields(Recipe)} == {
        "steps", "batch_size", "rate", "optimiser", "momentum", "nesterov", "weight_decay", "drops", "layer_rates",
        "precision", "frozen_dropout", "evaluate_every", "stop_at", "version", "channels_last", "augment",
    }  # fmt: skip
    runs = [
        BASE,
        *(replace(BASE, task=task) for task in tasks),
        *(replace(BASE, recipes=(recipe,)) for recipe in recipes),
        replace(BASE, net="other"),
        replace(BASE, seed=5),
        replace(BASE, draw=1),
        replace(BASE, treatment=Treatment.parse("XR5")),
        TARGET,
        replace(TARGET, source=replace(BASE, seed=5)),
    ]
    assert len({key(run) for run in runs}) == len(runs)
    assert len(tasks) >= 10


def test_equal_numbers_have_equal_keys() -> None:
    whole, point = (
        replace(RECIPE, layer_rates=(1,), stop_at=1, evaluate_every=1),
        replace(RECIPE, layer_rates=(1.0,), stop_at=1.0, evaluate_every=1),
    )
    assert key(replace(BASE, recipes=(whole,))) == key(replace(BASE, recipes=(point,)))
    assert key(replace(BASE, recipes=(replace(RECIPE, rate=1),))) == key(
        replace(BASE, recipes=(replace(RECIPE, rate=1.0),))
    )


def test_equal_recipes_have_equal_texts() -> None:
    """Bug: equal recipes of 1 and True steps had one key or two, by which of them was asked for first."""
    one, other = replace(RECIPE, steps=1), replace(RECIPE, steps=True)
    assert one == other
    assert key(replace(BASE, recipes=(one,))) == key(replace(BASE, recipes=(other,)))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_in_float32_unless_all_is_in_float64(precision: str) -> None:
    assert replace(RECIPE, precision=precision).dtype_name == ("float64" if precision == "float64" else "float32")


def test_equal_treatments_have_equal_keys() -> None:
    spelled = replace(TARGET, treatment=Treatment.parse("FFFR3"))
    assert key(spelled) == key(TARGET)
    assert spec(TARGET)["treatment"] == "FFFRRR"


def test_the_draw_is_the_nesting_depth_unless_said() -> None:
    assert (BASE.draw, TARGET.draw, TWO_STAGES.draw) == (0, 1, 2)
    assert replace(BASE, draw=1).draw == 1


def test_a_source_where_none_is_taken_and_none_where_one_is() -> None:
    with pytest.raises(StudyError, match="treatment 'R6' takes nothing from a source, and was given one"):
        Run("lenet5", TASK, Treatment.parse("R6"), BASE, (RECIPE,))
    with pytest.raises(StudyError, match="treatment 'F5R' needs a source"):
        Run("lenet5", TASK, Treatment.parse("F5R"), None, (RECIPE,))


def test_a_recipe_for_each_stage() -> None:
    with pytest.raises(StudyError, match="'F5R > T6' has 2 stages, 1 recipes"):
        Run("lenet5", TASK, Treatment.parse("F5R > T6"), BASE, (RECIPE,))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimiser": "sdg"}, "unknown optimiser 'sdg'"),
        ({"precision": "float8"}, "unknown precision 'float8'; did you mean 'float64'"),
        ({"stop_at": 0.9, "evaluate_every": 0}, "stop_at 0.9 is looked at where the net is; pass evaluate_every > 0"),
        ({"steps": -1}, "a recipe needs steps >= 0"),
        ({"batch_size": 0}, "a recipe needs steps >= 0, batch_size >= 1"),
        ({"nesterov": True, "momentum": 0}, "nesterov needs a momentum above 0, not 0.0"),
    ],
)
def test_recipes_that_cannot_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        replace(RECIPE, **wrong)


def test_stages_share_their_precision() -> None:
    recipes = (RECIPE, replace(RECIPE, precision="float64"))
    with pytest.raises(StudyError, match="the stages of a run share one precision, not float32 and float64"):
        Run("lenet5", TASK, Treatment.parse("R6 > T6"), None, recipes)


def test_rates_drop_at_their_shares() -> None:
    recipe = Recipe(10, 1, 1.0, drops=(0.5, 0.8))
    assert [recipe.rate_at(k) for k in (0, 4, 5, 7, 8, 9)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_names_and_streams_of_tasks() -> None:
    """Runs on 1 and 5 samples are paired; a task's name is that of its classes, whatever the samples."""
    assert TASK.stream == replace(TASK, shots=1).stream != replace(TASK, seed=9).stream
    assert TASK.name == replace(TASK, shots=1, seed=9).name != replace(TASK, classes=(0, 3)).name


def test_nan_has_no_place_in_a_key() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(float("nan"))
