"""The drawn arrays of bars: by hand, in two ways, deterministic, and what their classes say of them."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from layerwise.data import make, open_data, stimuli
from layerwise.data.stimuli import CHUNK, ELEMENTS, KINDS, Drawn, Kind, draw, positions, rendered
from layerwise.errors import DataError
from layerwise.feed import feed
from layerwise.run import Recipe, Run
from layerwise.tasks import Parts, Task
from layerwise.train import train
from layerwise.treatment import Treatment


def bar(angle: float, right: float = 0.0, down: float = 0.0, size: int = 10) -> np.ndarray:
    """The picture of one bar; it is 0.9 sizes long and 0.3 wide."""
    return rendered(np.array([[[float(angle)]]]), np.array([[[[right, down]]]]), size)[0]


def axes(picture: np.ndarray) -> np.ndarray:
    """The orientation in degrees of each bar of an array, from the second moments of its light: no use of how it was
    drawn."""
    side = len(picture) // ELEMENTS
    y, x = np.mgrid[:side, :side]
    found = np.empty((ELEMENTS, ELEMENTS))
    for row in range(ELEMENTS):
        for column in range(ELEMENTS):
            light = picture[row * side : (row + 1) * side, column * side : (column + 1) * side] / 255
            dx, dy = x - np.average(x, weights=light), y - np.average(y, weights=light)
            moments = [np.average(m, weights=light) for m in (dx * dx, -dx * dy, dy * dy)]
            found[row, column] = np.degrees(np.arctan2(2 * moments[1], moments[0] - moments[2])) / 2
    return found.ravel() % 180


def turned(angles: np.ndarray, by: float) -> np.ndarray:
    """Angles minus another, in [-90, 90)."""
    return (angles - by + 90) % 180 - 90


def test_one_bar_by_hand() -> None:
    """9 pixels long and 3 wide, in the middle of 10x10: two whole rows of eight pixels, half rows and half ends."""
    wanted = np.zeros((10, 10), np.uint8)
    wanted[4:6] = [128, *[255] * 8, 128]
    wanted[[3, 6]] = [64, *[128] * 8, 64]
    np.testing.assert_array_equal(bar(0), wanted)
    np.testing.assert_array_equal(bar(180), wanted)
    np.testing.assert_array_equal(bar(90), wanted.T)


def test_angles_turn_counterclockwise() -> None:
    picture = bar(30).astype(int)
    assert picture[:5, 5:].sum() > 3 * picture[:5, :5].sum(), "up on the right"
    np.testing.assert_array_equal(bar(-30), picture[::-1])
    np.testing.assert_array_equal(bar(150), picture[:, ::-1])


def test_shifts_are_to_the_right_and_down_in_distances_of_bars() -> None:
    np.testing.assert_array_equal(bar(0, down=0.2), np.roll(bar(0), 2, 0))
    np.testing.assert_array_equal(bar(90, right=0.1), np.roll(bar(90), 1, 1))


@pytest.mark.parametrize("angle", range(0, 180, 15))
def test_every_angle_has_as_much_light(angle: int) -> None:
    """Else the brightness of an array would tell its odd bar."""
    assert bar(angle, size=32).sum() / 255 == pytest.approx(0.9 * 32 * 0.3 * 32, rel=0.02)


def test_bars_stay_in_their_cells() -> None:
    assert stimuli.LENGTH / 2 + stimuli.JITTER <= 0.5


@pytest.fixture(scope="module")
def large() -> Drawn:
    """Twenty arrays of each kind, their bars 18 pixels long."""
    return draw(20, 3, size=20 * ELEMENTS)


@pytest.mark.parametrize("kind", [Kind(0), Kind(45, 30, "left"), Kind(135, 16, "right")], ids=lambda kind: kind.name)
def test_what_is_drawn_is_what_the_columns_say(kind: Kind, large: Drawn) -> None:
    """The moments of the light give the common orientation, which bar is odd, and how odd it is."""
    of_kind = large.labels == kind.label
    pictures = large.images[of_kind, 0]
    columns = {name: values[of_kind] for name, values in large.columns.items()}
    signs = set()
    for picture, common, odd in zip(pictures, columns["orientation"], columns["position"], strict=True):
        assert 0 <= (common - kind.start) % 180 <= 90
        away = turned(axes(picture), common)
        if kind.difference:
            assert odd in positions(kind.side)
            assert abs(away[odd]) == pytest.approx(kind.difference, abs=1.5)
            signs.add(np.sign(away[odd]))
            away = np.delete(away, odd)
        else:
            assert odd == -1
        assert np.abs(away).max() < 1.5
    assert len(signs) == (2 if kind.difference else 0), "an odd bar is turned either way"
    assert (columns["difference"] == kind.difference).all()


def test_sides_leave_out_the_middle_and_are_alike() -> None:
    left, right = (positions(side) for side in stimuli.SIDES)
    assert len(left) == len(right) == ELEMENTS * (ELEMENTS // 2)
    mirrored = left // ELEMENTS * ELEMENTS + ELEMENTS - 1 - left % ELEMENTS
    assert set(mirrored.tolist()) == set(right.tolist())
    assert not set(left.tolist()) & set(right.tolist())


def test_all_positions_and_orientations_are_used() -> None:
    drawn = draw(300, 0, size=4 * ELEMENTS)
    of_kind = drawn.labels == Kind(0, 30, "left").label
    assert set(drawn.columns["position"][of_kind].tolist()) == set(positions("left").tolist())
    tenths = np.histogram(drawn.columns["orientation"][of_kind], 10, (0, 90))[0]
    assert tenths.min() > 10


@pytest.mark.parametrize("per_class", [1, CHUNK, CHUNK + 3])
def test_fewer_samples_are_a_prefix_of_more(per_class: int) -> None:
    few, more = (draw(count, 0).images.reshape(len(KINDS), count, -1) for count in (per_class, CHUNK + 20))
    np.testing.assert_array_equal(few, more[:, :per_class])


def test_seeds_and_classes_have_their_own_draws() -> None:
    one, other = (draw(30, seed).images.reshape(len(KINDS) * 30, -1) for seed in (0, 1))
    assert (one != other).any(1).all()
    assert len(np.unique(np.concatenate([one, other]), axis=0)) == 2 * len(one)


def test_an_array_is_the_same_at_every_size() -> None:
    small, large = (draw(3, 0, size) for size in (32, 64))
    for name, values in small.columns.items():
        np.testing.assert_array_equal(values, large.columns[name])
    halved = large.images.reshape(-1, 32, 2, 32, 2).astype(float).mean((2, 4))
    assert np.abs(halved - small.images[:, 0]).mean() < 6, "of 255"


def test_classes_tell_what_they_are() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) == len(stimuli.STARTS) * (1 + 2 * len(stimuli.DIFFERENCES))
    assert Kind(45, 16, "left").name == "odd 16 left 45-135"
    assert Kind(45, 16, "left").even == Kind(45)
    assert [KINDS[kind.label] for kind in KINDS] == list(KINDS)


def test_locators(tmp_path: Path) -> None:
    data, _ = open_data("stimuli:2:7", tmp_path, resize=40)
    assert (data.name, data.images.shape) == ("stimuli:2:7", (2 * len(KINDS), 1, 40, 40))
    np.testing.assert_array_equal(data.images, draw(2, 7, 40).images)
    odd = data.class_names.index("odd 30 right 90-180")
    assert {name: values[odd] for name, values in data.class_columns.items()} == {
        "array": "odd", "difference": "30", "orientations": "90-180", "side": "right",
    }  # fmt: skip
    assert open_data("stimuli:2", tmp_path)[0].images.shape[2:] == (32, 32)


@pytest.mark.parametrize("argument", ["many", "0", "5:0:1", "5:"])
def test_locators_that_cannot_be_counted(argument: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_data(f"stimuli:{argument}", tmp_path)
    assert str(caught.value) == (
        f"'stimuli:{argument}' is not stimuli:PER_CLASS:SEED, two whole numbers such as stimuli:3000:0 "
        "(at most 99999 per class)"
    )


def test_bars_of_three_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_data("stimuli:2", tmp_path, resize=16)
    assert str(caught.value) == "stimuli of 16x16 pixels have bars of under 4; pass --resize 20 or more"


def some(kinds: tuple[Kind, Kind], chunks: int) -> tuple[np.ndarray, np.ndarray]:
    """Arrays of two kinds (examples, 32, 32), and which of the two each is."""
    drawn = [
        np.concatenate(
            [rendered(angles, shifts, 32) for angles, shifts, _, _ in islice(stimuli.arrays(kind, 0), chunks)]
        )
        for kind in kinds
    ]
    return np.concatenate(drawn), np.repeat([0, 1], chunks * CHUNK)


def test_pixels_alone_tell_the_odd_ones_where_they_were_learnt_and_nowhere_else() -> None:
    """What the nearest of 1,200 pictures of a kind says: templates serve their own quarter turn and side alone."""
    odd = Kind(0, 30, "left")
    pictures, labels = some((odd.even, odd), 14)
    new = np.arange(len(labels)) % (14 * CHUNK) >= 12 * CHUNK
    nearest = KNeighborsClassifier(1, algorithm="brute").fit(pictures[~new].reshape(-1, 1024) / 255.0, labels[~new])

    def right(pictures: np.ndarray, labels: np.ndarray) -> float:
        return float(nearest.score(pictures.reshape(-1, 1024) / 255.0, labels))

    assert right(pictures[new], labels[new]) > 0.9
    assert right(*some((Kind(90), Kind(90, 30, "left")), 2)) < 0.6
    assert right(*some((Kind(0), Kind(0, 30, "right")), 2)) < 0.6


def test_a_small_net_learns_it() -> None:
    pictures, labels = some((Kind(0), Kind(0, 30, "left")), 14)
    data = make("bars", pictures[:, None], labels, ["even", "odd"])
    task = Task(data.digest, (0, 1), 1_200, "onehot", Parts("random", 200))
    run = Run("lenet5relu", task, Treatment.parse("R4"), None, (Recipe(700, 50, 1e-3, "adam"),))
    curve = train(run, feed(task, data, "lenet5relu")).curve
    assert next(p.value for p in curve if (p.split, p.quantity) == ("test", "accuracy")) > 0.85
