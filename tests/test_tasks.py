"""Tasks: parts that never overlap, samples that nest, codes that differ, class splits and class lists."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise.errors import DataError, StudyError
from layerwise.tasks import (
    TEST,
    TRAIN,
    UNUSED,
    VALIDATION,
    Parts,
    Task,
    choose_classes,
    codes,
    examples,
    part,
    split_classes,
)

LABELS = np.repeat(np.arange(4), 20)
NAMES = ["ant", "bee", "cat", "dog"]
COLUMNS = {
    "split": np.tile(np.array(["train"] * 14 + ["test"] * 6), 4),
    "writer": np.tile(np.arange(20), 4),
}


HELD_OUT = [Parts("writer", test, ("15", "16", "17"), validation) for test in (0, 1, 9) for validation in (0, 3)]
WAYS = [Parts("random", 5), Parts("random", 5, validation=3, seed=1), Parts("published", 4, validation=2), *HELD_OUT]


@given(
    st.sampled_from(WAYS),
    st.integers(1, 6),
    st.integers(0, 5),
)
def test_train_validation_and_test_never_overlap(parts: Parts, shots: int, seed: int) -> None:
    for classes in ((0, 1), (2, 3), (0, 1, 2, 3)):
        found = examples(Task("d", classes, shots, parts=parts, seed=seed), LABELS, COLUMNS, NAMES)
        everything = np.concatenate([found.train, found.validation, found.test])
        assert len(set(everything.tolist())) == len(everything)
        assert set(LABELS[everything].tolist()) == set(classes)
        assert len(found.train) == shots * len(classes)


@given(st.integers(0, 20), st.sampled_from(["random", "published", "writer"]))
def test_no_task_trains_on_what_another_tests(seed: int, by: str) -> None:
    parts = Parts(by, 5, ("18", "19"), validation=2)
    every = [Task("d", (0, 1, 2, 3), None, parts=parts, seed=s) for s in (seed, seed + 1)]
    one, other = (examples(task, LABELS, COLUMNS, NAMES) for task in every)
    assert not set(one.train.tolist()) & set(other.test.tolist())
    assert one.test.tolist() == other.test.tolist()


@given(st.integers(0, 50))
def test_samples_nest(seed: int) -> None:
    task = Task("d", (0, 2), 1, seed=seed, parts=Parts("random", 5))
    few = examples(task, LABELS, {}, NAMES).train
    more = examples(replace(task, shots=5), LABELS, {}, NAMES).train
    assert set(few.tolist()) < set(more.tolist())


def test_samples_differ_between_seeds() -> None:
    drawn = {
        tuple(examples(Task("d", (0,), 3, parts=Parts("random", 5), seed=s), LABELS, {}, NAMES).train.tolist())
        for s in range(8)
    }
    assert len(drawn) > 1


def test_published_and_held_out_parts_by_hand() -> None:
    published = part(Parts("published", 4), LABELS, COLUMNS)
    assert [(published[LABELS == 0] == which).sum() for which in (TRAIN, VALIDATION, TEST, UNUSED)] == [14, 0, 4, 2]
    assert set(np.flatnonzero(published == TEST)) <= set(np.flatnonzero(COLUMNS["split"] == "test"))
    held = part(Parts("writer", 0, ("3", "19")), LABELS, COLUMNS)
    assert np.array_equal(held == TEST, np.isin(COLUMNS["writer"], [3, 19]))
    random = part(Parts("random", 5, validation=2), LABELS, {})
    assert [(random[LABELS == 3] == which).sum() for which in (TRAIN, VALIDATION, TEST, UNUSED)] == [13, 2, 5, 0]


def test_too_few_samples_are_named() -> None:
    with pytest.raises(DataError) as caught:
        examples(Task("d", (0, 1), 40, parts=Parts("random", 5)), LABELS, {}, NAMES)
    assert str(caught.value) == (
        "class 'ant' has 15 training images, 40 were asked for; "
        "ask for at most 15, which every class has, or leave the class out with --classes"
    )


def test_samples_that_every_class_has_are_named_at_once() -> None:
    """Bug: asked for what the first class has, one was told of the next that has fewer."""
    labels = np.repeat([0, 1, 2], [30, 8, 20])
    with pytest.raises(DataError, match="class 'ant' has 25 training images, 40 were asked for; ask for at most 3, "):
        examples(Task("d", (0, 1, 2), 40, parts=Parts("random", 5)), labels, {}, NAMES)


def test_a_class_of_which_all_is_kept_back_to_test_on_is_named() -> None:
    """Bug: it was told that 0 images were asked for, and to ask for at most 0."""
    of_a_part = np.where(LABELS == 0, "ann", "ben")
    with pytest.raises(DataError) as caught:
        examples(Task("d", (0, 1), parts=Parts("person", 0, ("ann",))), LABELS, {"person": of_a_part}, NAMES)
    assert str(caught.value) == (
        "class 'ant' has no training image; add some, keep fewer back to test on, or leave it out with --classes"
    )


@pytest.mark.parametrize("encoding", ["bit:20", "bits:0", "bits:", "one-hot"])
def test_an_encoding_that_is_none(encoding: str) -> None:
    """Bug: it was one-hot under another key."""
    with pytest.raises(StudyError, match=f"unknown encoding '{encoding}'; write onehot, or bits:20"):
        Task("d", (0, 1), encoding=encoding)


def test_parts_by_what_is_not_there() -> None:
    with pytest.raises(DataError, match=r"no column 'scene' to part them by; they have \['split', 'writer'\]"):
        part(Parts("scene", 5, ("1",)), LABELS, COLUMNS)
    with pytest.raises(DataError, match=r"no image has writer in \['99'\], so there is nothing to test on"):
        part(Parts("writer", 5, ("99",)), LABELS, COLUMNS)


@given(st.integers(2, 20), st.integers(0, 5))
def test_codes_are_different_bits(classes: int, seed: int) -> None:
    drawn = codes(Task("d", tuple(range(classes)), encoding="bits:20", seed=seed))
    assert drawn.shape == (classes, 20)
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    assert len(np.unique(drawn, axis=0)) == classes


def test_codes_depend_on_the_seed_and_not_on_the_samples() -> None:
    task = Task("d", (0, 1, 2), 1, "bits:20")
    assert np.array_equal(codes(task), codes(replace(task, shots=40)))
    assert not np.array_equal(codes(task), codes(replace(task, seed=1)))


def test_as_many_codes_as_bits_allow_and_no_more() -> None:
    assert len(np.unique(codes(Task("d", (0, 1, 2, 3), encoding="bits:2")), axis=0)) == 4
    with pytest.raises(StudyError, match="5 classes need more than 2 bits to have different codes"):
        codes(Task("d", tuple(range(5)), encoding="bits:2"))


def test_one_hot_targets() -> None:
    assert np.array_equal(codes(Task("d", (3, 1))), np.eye(2))


@given(st.integers(4, 62), st.integers(0, 9))
def test_class_splits_share_no_class(count: int, seed: int) -> None:
    one, other = split_classes(range(count), "x", seed)
    assert len(one) == len(other) == min(count // 2, 20)
    assert not set(one) & set(other)
    assert split_classes(range(count), "x", seed) == (one, other)


def test_class_splits_differ_between_seeds() -> None:
    assert len({split_classes(range(62), seed) for seed in range(10)}) == 10


def test_a_split_by_kind_keeps_kinds_apart_and_sides_equal() -> None:
    kinds = ["man-made"] * 7 + ["natural"] * 3
    one, other = split_classes(range(10), 0, kinds=kinds)
    assert len(one) == len(other) == 3
    assert {kinds[c] for c in one} == {"man-made"}
    assert {kinds[c] for c in other} == {"natural"}
    with pytest.raises(StudyError, match=r"the column has 3 values for these classes \(a, b, c\); two are needed"):
        split_classes(range(3), 0, kinds=["a", "b", "c"])


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("0-2", (0, 1, 2)),
        ("ant-cat", (0, 1, 2)),
        ("dog,0", (3, 0)),
        ("1,,2", (1, 2)),
    ],
)
def test_class_lists(text: str, chosen: tuple[int, ...]) -> None:
    assert choose_classes(text, NAMES) == chosen


def test_a_name_wins_over_a_position_and_may_hold_a_dash() -> None:
    assert choose_classes("7-9", [str(k) for k in (9, 8, 7)] + ["7-9"]) == (3,)
    assert choose_classes("1", ["3", "2", "1"]) == (2,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cow", "unknown class 'cow'; there are 4 classes: ant, bee, cat, dog"),
        ("0-7", "unknown class '7'; there are 4 classes: ant, bee, cat, dog"),
        ("2-0", "classes '2-0' run backwards; write '0-2'"),
        ("1,bee", "classes '1,bee' name a class twice; name each class once"),
        ("", "classes '' name none; name each class once"),
        ("²", "unknown class '²'; there are 4 classes: ant, bee, cat, dog"),
    ],
)
def test_wrong_class_lists(text: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        choose_classes(text, NAMES)
    assert str(caught.value) == message


REST = Task("blank", (0,), 5, parts=Parts("random", 4), rest=(2, 3))


def test_the_null_class_is_as_large_as_the_others_and_parted_like_them() -> None:
    """Five of one class against five of two others; a task's test images train no task, those of the null class too."""
    found = examples(REST, LABELS, COLUMNS, NAMES)
    assert LABELS[found.train].tolist()[:5] == [0] * 5
    assert set(LABELS[found.train].tolist()[5:]) <= {2, 3}
    assert (len(found.train), len(found.test)) == (10, 8)
    other = examples(replace(REST, classes=(1,), rest=(0, 2, 3), shots=16), LABELS, COLUMNS, NAMES)
    assert not set(found.test) & set(other.train)
    assert (REST.outputs, codes(REST).tolist()) == (2, [[1, 0], [0, 1]])


def test_the_null_class_is_tested_on_the_same_images_for_every_draw_of_samples() -> None:
    one, other = (examples(replace(REST, seed=seed), LABELS, COLUMNS, NAMES) for seed in (0, 1))
    assert one.test.tolist() == other.test.tolist()
    assert one.train.tolist() != other.train.tolist()


def test_a_task_without_a_null_class_has_the_name_it_always_had() -> None:
    assert Task("d", (0, 1)).name == "8b369fb2"
    assert REST.name != replace(REST, rest=(1, 3)).name
