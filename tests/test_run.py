"""Runs: keys that stay what they are, and say everything that decides a result."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from layerwise.errors import StudyError
from layerwise.randomness import canonical, seed
from layerwise.run import Recipe, Run, from_spec, key, spec
from layerwise.tasks import Parts, Task
from layerwise.treatment import Treatment

RECIPE = Recipe(100, 20, 0.05)
TASK = Task("0123456789abcdef", (0, 3, 5), 10, "bits:20", Parts("random", 50), 4)
BASE = Run("lenet5", TASK, Treatment.parse("R6"), None, (RECIPE,), 4)
TARGET = Run("lenet5", replace(TASK, classes=(1, 2)), Treatment.parse("F3R3"), BASE, (RECIPE,), 4)
TWO_STAGES = Run("lenet5", TASK, Treatment.parse("F5R > T6"), TARGET, (RECIPE, replace(RECIPE, rate=0.001)), 1)


def test_golden_keys() -> None:
    """A change of these keys makes every store out there worthless: raise SPEC_VERSION and say so in the changelog."""
    assert [key(run) for run in (BASE, TARGET, TWO_STAGES)] == GOLDEN


GOLDEN = ["00d4c6fe00fc7780", "86c379fac3d506de", "1c1c793bc7e40eb1"]


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
        elif type(old) in changes:
            others.append(replace(value, **{field.name: changes[type(old)](old)}))
        elif old is None:
            others.append(replace(value, **{field.name: 1}))
        elif isinstance(old, tuple):
            others.append(replace(value, **{field.name: (*old, "7" if field.name == "held_out" else 7)}))
    return others


def test_everything_that_decides_a_result_is_in_the_key() -> None:
    tasks = _changed(TASK)
    recipes = [replace(RECIPE, **{name: value}) for name, value in
               {"steps": 101, "batch_size": 21, "rate": 0.06, "optimiser": "adam", "momentum": 0.8, "nesterov": True,
                "weight_decay": 0.1, "drops": (0.5,), "layer_rates": (1.0, 2.0), "precision": "float64",
                "frozen_dropout": True, "evaluate_every": 5, "stop_at": 0.9, "version": 2}.items()]  # fmt: skip
    assert {f.name for f in fields(Recipe)} == {
        "steps", "batch_size", "rate", "optimiser", "momentum", "nesterov", "weight_decay", "drops", "layer_rates",
        "precision", "frozen_dropout", "evaluate_every", "stop_at", "version",
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
    whole, point = replace(RECIPE, layer_rates=(1,), stop_at=1), replace(RECIPE, layer_rates=(1.0,), stop_at=1.0)
    assert key(replace(BASE, recipes=(whole,))) == key(replace(BASE, recipes=(point,)))
    assert key(replace(BASE, recipes=(replace(RECIPE, rate=1),))) == key(
        replace(BASE, recipes=(replace(RECIPE, rate=1.0),))
    )


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
        ({"optimiser": "sdg"}, "unknown optimiser or precision 'sdg', 'float32'"),
        ({"precision": "float8"}, "unknown optimiser or precision 'sgd', 'float8'"),
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
