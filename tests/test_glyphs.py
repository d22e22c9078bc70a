"""The drawn characters: deterministic, nested, every face readable, and neither trivial nor hopeless."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from layerwise.data import glyphs, make
from layerwise.feed import feed
from layerwise.run import Recipe, Run
from layerwise.tasks import Parts, Task
from layerwise.train import train
from layerwise.treatment import Treatment


@pytest.fixture(scope="module")
def hundred() -> np.ndarray:
    images, _ = glyphs.draw(100, seed=0)
    return images.reshape(62, 100, 32, 32)


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first three characters, to be quick; what they look like does not depend on the others."""
    monkeypatch.setattr(glyphs, "CHARACTERS", glyphs.CHARACTERS[:3])


def test_shapes_labels_and_ink(hundred: np.ndarray) -> None:
    assert hundred.dtype == np.uint8
    assert hundred.reshape(62, 100, -1).max(2).min() > 100, "a sample has no ink"
    assert 0.05 < hundred.mean() / 255 < 0.2, "white ink is the smaller part of a black image"


@pytest.mark.usefixtures("three")
def test_labels_stand_class_by_class() -> None:
    images, labels = glyphs.draw(2, seed=5)
    assert images.shape == (6, 1, 32, 32)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("per_class", [1, 7, 100, glyphs.CHUNK + 3])
def test_fewer_samples_are_a_prefix_of_more(hundred: np.ndarray, per_class: int) -> None:
    other = glyphs.draw(per_class, seed=0)[0].reshape(3, per_class, 32, 32)
    np.testing.assert_array_equal(other[:, :100], hundred[:3, :per_class])


@pytest.mark.usefixtures("three")
def test_another_seed_gives_other_samples(hundred: np.ndarray) -> None:
    other = glyphs.draw(100, seed=1)[0].reshape(3, 100, 32, 32)
    assert (other != hundred[:3]).any((2, 3)).all()


def test_no_two_samples_are_equal(hundred: np.ndarray) -> None:
    assert len(np.unique(hundred.reshape(6200, -1), axis=0)) == 6200


def test_classes_draw_their_own_poses() -> None:
    """Were the random numbers shared, sample i of O and of 0 would have one font, place and wobble."""
    draws = [np.random.default_rng([0, label, 0]).random(7) for label in range(62)]
    assert len({draw[0] for draw in draws}) == 62
    renderings = torch.ones(1, 4 * glyphs.SIZE, 4 * glyphs.SIZE)
    first, second = (next(glyphs.warps(renderings, 0, label)) for label in (0, 1))
    assert (first != second).any()


@pytest.mark.parametrize("face", glyphs.FACES)
def test_every_face_has_all_characters(face: str) -> None:
    """No character is blank, the box of a missing glyph, or the picture of another character."""
    pictures = {character: np.asarray(glyphs.plain(character, face)) for character in glyphs.CHARACTERS}
    missing = np.asarray(glyphs.plain("\ufffe", face))
    assert len({picture.tobytes() for picture in pictures.values()}) == 62
    for character, picture in pictures.items():
        assert picture.max() == 255, character
        assert (picture != missing).any(), character


@pytest.mark.parametrize("face", glyphs.FACES)
def test_every_face_has_capitals_of_one_height(face: str) -> None:
    rows = np.flatnonzero(np.asarray(glyphs.plain("H", face)).max(1) > 127)
    assert rows[-1] - rows[0] + 1 == pytest.approx(glyphs.CAPITAL * glyphs.FINE, abs=2)


def test_strokes_grow_and_thin_by_pixels() -> None:
    square = torch.zeros(1, 12, 12)
    square[0, 4:8, 4:8] = 1
    assert [int((glyphs.grown(square, stroke) == 1).sum()) for stroke in (-1, 0, 1, 2)] == [4, 16, 36, 64]
    assert glyphs.grown(square, -1).max(0).values[4:8, 4:8].min() == 0.5, "thinned ink is never wiped out"


def test_pose_without_draws_is_the_scale_alone() -> None:
    matrix, shift = glyphs.pose(np.array([[0.0, 0, -1, 0, 0, 0], [0.0, 0, 1, 0, 1, -1]]))
    np.testing.assert_allclose(matrix, [np.eye(2) / glyphs.SCALE[0], np.eye(2) / glyphs.SCALE[1]])
    np.testing.assert_allclose(shift, [[0, 0], [glyphs.SHIFT, -glyphs.SHIFT]])


def test_pose_of_a_turn_is_a_rotation() -> None:
    matrix, _ = glyphs.pose(np.array([[1.0, 0, 0, 0, 0, 0]]))
    scale = np.sqrt(np.prod(glyphs.SCALE))
    np.testing.assert_allclose(matrix[0] @ matrix[0].T, np.eye(2) / scale**2, atol=1e-12)
    assert np.degrees(np.arctan2(matrix[0, 1, 0], matrix[0, 0, 0])) == pytest.approx(glyphs.TURN)


def test_no_pose_keeps_the_rendering_where_it_is() -> None:
    """Identity, no shift, no wobble: the image is the rendering averaged over its fine pixels."""
    rendering = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(rendering, 9, 1, 4)  # grid_sample reads between pixels, so not too rough
    places = glyphs.sampled(torch.eye(2)[None], torch.zeros(1, 2), torch.zeros(1, 2, glyphs.KNOTS, glyphs.KNOTS))
    fine = torch.nn.functional.grid_sample(smooth, places, align_corners=False)
    wanted = torch.nn.functional.avg_pool2d(smooth, 2)
    torch.testing.assert_close(fine, wanted, atol=1e-5, rtol=0)


def test_shift_moves_the_ink_to_the_right_and_down() -> None:
    rendering = torch.zeros(1, 1, 128, 128)
    rendering[..., 64:68, 64:68] = 1  # one final pixel, just right of and below the middle
    places = glyphs.sampled(torch.eye(2)[None], torch.tensor([[3.0, 5.0]]), torch.zeros(1, 2, 5, 5))
    fine = torch.nn.functional.grid_sample(rendering, places, align_corners=False)
    image = torch.nn.functional.avg_pool2d(fine, 2)[0, 0]
    assert divmod(int(image.argmax()), 32) == (16 + 5, 16 + 3)


def test_a_net_learns_more_than_neighbours_in_pixels_tell(hundred: np.ndarray) -> None:
    """20 classes, 80 samples each to learn from: a LeNet-5 is at least 8 points above 1-nearest-neighbour."""
    labels = np.repeat(np.arange(62), 100)
    data = make("glyphs", hundred.reshape(-1, 1, 32, 32), labels, tuple(glyphs.CHARACTERS))
    classes = tuple(np.random.default_rng(0).permutation(62)[:20].tolist())
    task = Task(data.digest, classes, 80, "bits:20", Parts("random", 20))
    run = Run("lenet5", task, Treatment.parse("R6"), None, (Recipe(1_500, 20, 0.05, drops=(0.8,)),))
    food = feed(task, data, "lenet5")
    learnt = next(p.value for p in train(run, food).curve if (p.split, p.quantity) == ("test", "accuracy"))
    known, asked = (food.parts[name] for name in ("train", "test"))
    nearest = KNeighborsClassifier(1, algorithm="brute").fit(
        known.pool[known.rows].flatten(1).numpy(), known.classes.numpy()
    )
    pixels = nearest.score(asked.pool[asked.rows].flatten(1).numpy(), asked.classes.numpy())
    assert 0.55 < pixels < 0.88, "far above chance (0.05), and not enough"
    assert learnt > pixels + 0.08
