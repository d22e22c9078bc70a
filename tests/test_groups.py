"""Groups: images that are on one side of train, validation and test, and parts for a user's own few images."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise.data.dataset import COPIES, DataSet, make
from layerwise.errors import DataError, StudyError
from layerwise.grouping import draw_groups, together
from layerwise.run import Recipe, Run, from_spec, key, spec
from layerwise.studies.request import EVERY, Request, available, fit_parts, share_out
from layerwise.tasks import TEST, TRAIN, UNUSED, VALIDATION, Parts, Task, examples, part
from layerwise.treatment import Treatment

# ---- which images belong together


def test_images_are_linked_through_any_of_the_columns() -> None:
    """0 and 1 are anna's, 1 and 2 are copies, so that ben's 2 and 3 are with them; carl is alone."""
    columns = {"person": np.array(["anna", "anna", "ben", "ben", "carl"]), COPIES: np.array([0, 1, 1, 3, 4])}
    assert together(columns, ("person", COPIES), 5).tolist() == [0, 0, 0, 0, 1]
    assert together(columns, ("person",), 5).tolist() == [0, 0, 1, 1, 2]
    assert together(columns, (COPIES,), 5).tolist() == [0, 1, 1, 2, 3]
    with pytest.raises(
        DataError, match=r"^the data have no column 'scene' to group images by; they have: person, same"
    ):
        together(columns, ("scene",), 5)


@pytest.mark.parametrize(
    ("order", "chosen"),
    [
        ([0, 1, 2, 3], [0, 3]),  # group 1 would bring images beyond class 0's goal, 2 is all that class 2 has
        ([3, 2, 1, 0], [3, 0]),
        ([1, 3, 0, 2], [3, 0]),
    ],
)
def test_groups_are_drawn_by_hand(order: list[int], chosen: list[int]) -> None:
    """Goals are 1, 1 and 1 images of classes 0 to 2; groups hold 0; 0, 0, 0; 2, 2; 1."""
    labels = np.array([0, 0, 0, 0, 2, 2, 1, 0, 1])
    groups = np.array([0, 1, 1, 1, 2, 2, 3, 4, 5])
    found = draw_groups(labels, groups, np.array([1, 1, 1]), np.array([*order, 4, 5]))
    assert found.tolist() == chosen


def test_a_group_that_goes_beyond_the_goal_is_better_than_none() -> None:
    labels, groups = np.array([0] * 6 + [1] * 6), np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    assert sorted(draw_groups(labels, groups, np.array([1, 1]), np.arange(4)).tolist()) == [0, 2]


# ---- parts


def sides(parts: Parts, labels: np.ndarray, columns: dict[str, np.ndarray], column: str) -> np.ndarray:
    """The parts; raises where a value of the column is on two sides."""
    found = part(parts, labels, columns)
    for value in np.unique(columns[column]):
        used = {TRAIN, VALIDATION, TEST} & set(found[columns[column] == value].tolist())
        assert len(used) <= 1, (value, used)
    return found


cases = st.integers(0, 10**6).map(lambda seed: np.random.default_rng(seed))


@given(cases, st.sampled_from([0.0, 0.2, 0.5]), st.integers(0, 4), st.integers(0, 4))
def test_no_group_is_on_two_sides_and_every_class_keeps_images_to_train_on(
    draw: np.random.Generator, share: float, test: int, validation: int
) -> None:
    labels = draw.integers(0, 4, 60)
    columns = {
        "person": draw.integers(0, draw.integers(2, 30), 60),
        "split": np.array(["train", "validation", "test"])[draw.choice(3, 60, p=[0.6, 0.2, 0.2])],
    }
    found = sides(Parts("random", test, (), validation, 1, ("person",), share), labels, columns, "person")
    for label in np.unique(labels):
        assert (found[labels == label] == TRAIN).any()
        assert (found[labels == label] == TEST).sum() <= test
    sides(Parts("published", test, (), validation, 1, ("person",), share), labels, columns, "person")
    held = Parts("person", 0, (str(columns["person"][0]),), validation, 1, ("person",), share)
    found = sides(held, labels, columns, "person")
    assert set(np.flatnonzero(found == TEST)) == set(np.flatnonzero(columns["person"] == columns["person"][0]))


@pytest.mark.parametrize(
    ("images", "sizes"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (2, 1, 1)), (5, (3, 1, 1)),
                          (10, (6, 2, 2)), (100, (64, 16, 20))]
)  # fmt: skip
@pytest.mark.parametrize("groups", [(), ("alone",)])
def test_a_share_of_few_images_never_empties_training(
    images: int, sizes: tuple[int, int, int], groups: tuple[str, ...]
) -> None:
    """A fifth to test, a fifth of the rest to validate, one at least, one always to train; groups of one alike."""
    labels = np.repeat([0, 1], [images, 50])
    found = part(Parts("random", EVERY, (), EVERY, 0, groups, 0.2), labels, {"alone": np.arange(len(labels))})
    assert tuple((found[labels == 0] == which).sum() for which in (TRAIN, VALIDATION, TEST)) == sizes
    assert (found != UNUSED).all()


def test_validation_never_takes_the_last_training_image() -> None:
    """Bug: a validation part of as many images as a class had left it none to train on."""
    labels = np.repeat([0, 1], [3, 20])
    found = part(Parts("random", 1, validation=10), labels, {})
    assert [(found[labels == 0] == which).sum() for which in (TRAIN, VALIDATION, TEST)] == [1, 1, 1]
    assert [(found[labels == 1] == which).sum() for which in (TRAIN, VALIDATION, TEST)] == [9, 10, 1]


def test_published_test_images_take_their_group_out_of_training() -> None:
    columns = {
        "person": np.array(["a", "a", "b", "b", "c", "c"]),
        "split": np.array(["train", "test", "train", "train", "validation", "train"]),
    }
    found = part(Parts("published", 0, groups=("person",)), np.zeros(6, int), columns)
    assert found.tolist() == [UNUSED, TEST, TRAIN, TRAIN, VALIDATION, UNUSED]


def test_parts_with_groups_have_keys_of_their_own_and_read_back() -> None:
    def run(**more: Any) -> Run:
        task = Task("0123456789abcdef", (0, 1), 5, parts=Parts("random", 5, **more))
        return Run("lenet5", task, Treatment.parse("R6"), None, (Recipe(5, 5),))

    made = [run(), run(groups=("person",)), run(groups=("person", COPIES)), run(share=0.2)]
    assert len({key(one) for one in made}) == len(made) == len({one.task.stream for one in made})
    assert "groups" not in spec(made[0])["task"]["parts"]
    for one in made:
        assert from_spec(spec(one)) == one


# ---- what a user's data give


def people(**columns: np.ndarray) -> DataSet:
    """Two classes of 40 grey images, 10 persons with 4 of each class."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (80, 1, 4, 4), np.uint8)
    own = {"person": np.tile(np.repeat(np.arange(10), 4), 2)} | columns
    return make("people", images, np.repeat([0, 1], 40), ["cat", "dog"], own)


def test_a_study_keeps_groups_apart_only_where_it_is_asked_to() -> None:
    assert fit_parts(Request(people()), 8, 10)[0] == Parts("random", 8)
    parts, notes = fit_parts(Request(people(), groups="person"), 8, 10)
    assert parts == Parts("random", 8, groups=("person",))
    assert notes == ["groups: every person is on one side; 2 are tested on, 8 are trained on"]
    data = people()
    found = examples(Task(data.digest, (0, 1), parts=parts), data.labels, data.columns, data.class_names)
    assert [len(one) for one in (found.train, found.validation, found.test)] == [64, 0, 16]


def test_copies_stay_together_in_parts_that_are_drawn() -> None:
    same = np.arange(80)
    same[40:60] = same[:20]
    for groups, names in ((None, (COPIES,)), ("person", ("person", COPIES))):
        data = people(**{COPIES: same})
        parts, _ = fit_parts(Request(data, groups=groups), 8, 10)
        assert parts.groups == names
        sides(parts, data.labels, data.columns, COPIES)


def test_published_parts_say_what_groups_leave_out() -> None:
    split = np.where(np.arange(80) % 4 == 0, "test", "train")
    split[split == "test"] = np.where(people().columns["person"][split == "test"] < 3, "test", "train")
    _, notes = fit_parts(Request(people(split=split), groups="person"), 50, 10)
    assert notes == [
        "test images: at most 50 a class of the data's own test part",
        "groups: every person is on one side; 3 are tested on, 7 are trained on",
        "groups: 18 training images are left out, whose person is among the test or validation images",
    ]


def test_groups_that_leave_nothing_to_train_on_or_to_test() -> None:
    split = np.where(np.arange(80) % 4 == 0, "test", "train")
    with pytest.raises(DataError) as told:
        fit_parts(Request(people(split=split), groups="person"), 50, 10)
    assert str(told.value) == (
        "every person of class 'cat' is among the images that the data's own parts test or validate on; "
        "leave out --groups, or rename the column split"
    )
    request = Request(people(person=np.repeat(["anna", "ben", "carl"], [40, 20, 20])), groups="person")
    with pytest.raises(DataError) as told:
        available(request, fit_parts(request, 8, 10)[0])
    assert str(told.value) == (
        "class 'cat' (40 in all) has no image to test on with every person on one side, as have 1 of 2 classes; add "
        "some, or choose others with --classes"
    )


def test_a_users_own_test_part_takes_its_copies_out_of_training() -> None:
    split, same = np.tile(np.repeat(["train", "test"], [30, 10]), 2), np.arange(80)
    same[[30, 31, 1]] = [0, 3, 0]  # images 0, 1 and 30 are one, and 3 and 31
    data = people(split=split, **{COPIES: same})
    parts, notes = share_out(Request(data))
    assert parts.groups == (COPIES,)
    found = sides(parts, data.labels, data.columns, COPIES)
    assert np.flatnonzero(found == UNUSED).tolist() == [0, 1, 3]
    assert notes == [
        "test images: all of the data's own test part",
        "groups: 3 training images are left out, which are copies of the test or validation images",
    ]
    assert fit_parts(Request(data), 5, 5)[0] == Parts("published", 5)  # of a study, as it was published


@pytest.mark.parametrize("share", [0.0, 1.0, 20.0, float("nan")])
def test_a_share_to_test_on_that_is_none(share: float) -> None:
    """Bug: advise took 20 for all but one image of each class."""
    with pytest.raises(StudyError, match=f"--share {share:g} is not between 0 and 1"):
        share_out(Request(people()), share)


@pytest.mark.parametrize(
    ("columns", "by", "sizes"),
    [
        ({}, "random", (52, 12, 16)),
        ({"split": np.tile(np.repeat(["train", "test"], [30, 10]), 2)}, "published", (48, 12, 20)),
        ({"split": np.tile(np.repeat(["train", "validation", "test"], [25, 5, 10]), 2)}, "published", (50, 10, 20)),
        ({"split": np.tile(np.repeat(["train", "val", "x"], [30, 10, 0]), 2)}, "split", (48, 12, 20)),
    ],
)
def test_all_images_of_a_user_are_shared_out(
    columns: dict[str, np.ndarray], by: str, sizes: tuple[int, int, int]
) -> None:
    if "val" in columns.get("split", ()):
        columns = {"split": np.where(columns["split"] == "val", "validation", columns["split"])}
    data = people(**columns)
    parts, _ = share_out(Request(data), seed=3)
    found = part(parts, data.labels, data.columns)
    assert parts.by == by
    assert tuple((found == which).sum() for which in (TRAIN, VALIDATION, TEST)) == sizes
    grouped, _ = share_out(Request(data, groups="person"), seed=3)
    found = sides(grouped, data.labels, data.columns, "person")
    assert {TRAIN, VALIDATION, TEST} <= set(found.tolist()) or by != "random"
