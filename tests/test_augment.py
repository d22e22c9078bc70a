"""Augmentation: a text, numbers that follow from run, pass and sample alone, and images that are what they say."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from torch import Tensor, nn

from layerwise.augment import FORMS, Augmentation, Draws
from layerwise.augmented import augmented
from layerwise.data.dataset import DataSet, make, save
from layerwise.errors import StudyError
from layerwise.feed import DRAWN, Batches, batches, feed
from layerwise.fleet import train_fleet
from layerwise.nets import NETS, Architecture
from layerwise.prefix import Prefix, frozen_depth
from layerwise.run import Recipe, Run
from layerwise.studies.request import Request
from layerwise.tasks import Parts, Task
from layerwise.train import Trained, train
from layerwise.treatment import Treatment

TEXT = "crop:4,flip,jitter:0.2"
RECIPE = Recipe(30, 7, 0.05, precision="float64", evaluate_every=15, augment=TEXT)

# ---- the text


@pytest.mark.parametrize(
    ("text", "made", "spelt"),
    [
        ("", Augmentation(), ""),
        ("crop:4", Augmentation(crop=4), "crop:4"),
        (" jitter:.5 , flip,", Augmentation(flip=True, jitter=0.5), "flip,jitter:0.5"),
        (TEXT, Augmentation(4, True, jitter=0.2), TEXT),
        ("blur:2,hue:.25,rotate:15.5", Augmentation(rotate=15.5, hue=0.25, blur=2), "rotate:15.5,hue:0.25,blur:2"),
        ("jitter:1,crop:012", Augmentation(crop=12, jitter=1), "crop:12,jitter:1"),
        ("crop:0,jitter:0", Augmentation(), ""),
    ],
)
def test_texts(text: str, made: Augmentation, spelt: str) -> None:
    assert Augmentation.parse(text) == made
    assert made.spell() == spelt
    assert Recipe(1, 1, augment=text).augment == spelt


THOUSANDTHS = st.integers(0, 500).map(lambda n: n / 1000)


@given(st.builds(Augmentation, st.integers(0, 999), st.booleans(), *[THOUSANDTHS] * 6))
def test_every_augmentation_is_spelt_as_it_is_parsed(made: Augmentation) -> None:
    assert Augmentation.parse(made.spell()) == made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "flop",
            f"'flop': unknown word 'flop'; did you mean 'flip'? (known: blur, crop, flip, hue, jitter, rotate, scale, "
            f"shear); it is made of {FORMS}",
        ),
        ("crop", f"'crop': 'crop' is not understood; it is made of {FORMS}"),
        ("crop:-1", f"'crop:-1': 'crop:-1' is not understood; it is made of {FORMS}"),
        ("flip:2", f"'flip:2': 'flip:2' is not understood; it is made of {FORMS}"),
        ("jitter:.", f"'jitter:.': 'jitter:.' is not understood; it is made of {FORMS}"),
        ("jitter:nan", f"'jitter:nan': 'jitter:nan' is not understood; it is made of {FORMS}"),
        ("jitter:1.5", "'jitter:1.5': jitter:1.5 is not possible; the most is 1"),
        ("rotate:200", "'rotate:200': rotate:200 is not possible; the most is 180"),
        ("flip,flip", "'flip,flip' has 'flip' twice; write it once"),
    ],
)
def test_texts_that_are_not_understood(text: str, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        Recipe(1, 1, augment=text)
    assert str(caught.value) == f"augmentation {message}"


# ---- the images


def varied(images: Tensor, text: str, drawn: Sequence[Sequence[float]], mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Images whose pixels were scaled by this mean and deviation, varied by these numbers."""
    scale = [torch.full((images.shape[1], 1, 1), value, dtype=images.dtype) for value in (mean, std)]
    return augmented(images, torch.tensor(drawn, dtype=torch.float64), Augmentation.parse(text), *scale)


STAY = (0.5, 0.5, 0.9, 0.5, 0.5, 0.5)  # numbers that leave an image as it is


def test_crops_and_flips_by_hand() -> None:
    """Padded by 1, the corner is at 0, 1 or 2: up and left, in place, down and right of the image."""
    image = torch.arange(1.0, 10).view(1, 1, 3, 3)
    three = image.repeat(3, 1, 1, 1)
    made = varied(three, "crop:1,flip", [(0, 0, 0.5, 0, 0, 0), (0.99, 0.4, 0.5, 0, 0, 0), (0.5, 0.99, 0.49, 0, 0, 0)])
    assert made[0, 0].tolist() == [[0, 0, 0], [0, 1, 2], [0, 4, 5]]
    assert made[1, 0].tolist() == [[4, 5, 6], [7, 8, 9], [0, 0, 0]]
    assert made[2, 0].tolist() == [[0, 3, 2], [0, 6, 5], [0, 9, 8]]  # 1 to the right, then mirrored


@pytest.mark.parametrize("channels", [1, 3])
def test_identities(channels: int) -> None:
    images = torch.randn(5, channels, 6, 7)
    anything, mirrored = torch.rand(5, 6).tolist(), [(0.5, 0.5, 0.1, 0, 0, 0)] * 5
    assert torch.equal(varied(images, "crop:0,jitter:0", anything), images)
    assert torch.equal(varied(images, "crop:2,flip", [STAY] * 5), images)
    assert torch.equal(varied(varied(images, "flip", mirrored), "flip", mirrored), images)
    assert torch.equal(varied(images, "flip", mirrored), images.flip(3))
    pixels = torch.rand(5, channels, 6, 7, dtype=torch.float64)
    scaled = (pixels - 0.4) / 0.3
    torch.testing.assert_close(varied(scaled, "jitter:0.7", [STAY] * 5, 0.4, 0.3), scaled, rtol=0, atol=1e-12)


def test_jitter_is_pillows(tmp_path: Path) -> None:
    """Each of the three by itself, on scaled pixels, within the rounding of bytes."""
    raw = np.random.default_rng(0).integers(0, 256, (9, 8, 3), np.uint8)
    picture = Image.fromarray(raw)
    pixels = torch.from_numpy(raw).permute(2, 0, 1)[None].double() / 255
    for at, kind in enumerate((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), 3):
        for number, factor in ((0.0, 0.6), (0.75, 1.2), (1.0, 1.4)):
            drawn = [number if k == at else 0.5 for k in range(6)]
            made = varied((pixels - 0.5) / 0.25, "jitter:0.4", [drawn], 0.5, 0.25) * 0.25 + 0.5
            expected = np.asarray(kind(picture).enhance(factor))
            assert np.abs(made[0].permute(1, 2, 0).numpy() * 255 - expected).max() < 1.6


def test_saturation_is_nothing_to_grey_images() -> None:
    pixels = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    one, other = ([(0.5, 0.5, 0.5, 0.3, 0.8, number)] * 2 for number in (0.1, 0.9))
    assert torch.equal(varied(pixels, "jitter:0.5", one), varied(pixels, "jitter:0.5", other))
    colour = pixels.expand(2, 3, 4, 4)  # grey in three channels stays grey, and equals what one channel gives
    made = varied(colour, "jitter:0.5", one)
    torch.testing.assert_close(made, varied(pixels, "jitter:0.5", one).expand(2, 3, 4, 4), rtol=0, atol=1e-12)


def test_images_do_not_depend_on_their_batch_and_keep_their_layout() -> None:
    images, drawn = torch.randn(9, 3, 8, 8), torch.rand(9, 6).tolist()
    whole = varied(images, TEXT, drawn)
    apart = torch.cat([varied(images[k : k + 1], TEXT, drawn[k : k + 1]) for k in range(9)])
    assert torch.equal(whole, apart)
    innermost = varied(images.to(memory_format=torch.channels_last), TEXT, drawn)
    assert innermost.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(innermost, whole)
    assert whole.is_contiguous()
    assert len({tuple(image.flatten().tolist()) for image in varied(images[:1].repeat(9, 1, 1, 1), TEXT, drawn)}) == 9


def test_a_crop_as_large_as_the_images() -> None:
    with pytest.raises(StudyError, match=r"^augmentation crop:8 is not possible for 8x9 images; take a smaller one$"):
        varied(torch.randn(2, 1, 8, 9), "crop:8", [STAY] * 2)


# ---- what kornia does with them


MIDDLE = (*STAY, 0.5, 0.5, 0.5, 0.5, 0.0)  # numbers that leave an image as it is
TURN, SCALE, SHEAR, HUE, BLUR = range(len(STAY), len(MIDDLE))
MORE = "rotate:30,scale:0.3,shear:20,hue:0.2,blur:1.5"


def but(at: int, number: float) -> tuple[float, ...]:
    """MIDDLE with another number at one place."""
    return tuple(number if k == at else value for k, value in enumerate(MIDDLE))


@pytest.fixture
def kornia() -> None:
    pytest.importorskip("kornia")


@pytest.mark.usefixtures("kornia")
@pytest.mark.parametrize("channels", [1, 3])
def test_numbers_in_the_middle_leave_an_image_as_it_is(channels: int) -> None:
    pixels = torch.rand(4, channels, 9, 10, dtype=torch.float64)
    made = varied((pixels - 0.4) / 0.3, MORE, [MIDDLE] * 4, 0.4, 0.3)
    torch.testing.assert_close(made, (pixels - 0.4) / 0.3, rtol=0, atol=1e-6)  # kornia's hue: a divisor plus 1e-8


@pytest.mark.usefixtures("kornia")
def test_rotation_scale_and_shear_by_hand() -> None:
    """About the middle: quarter turns either way; twice the size; a column that leans by 45 degrees."""
    image = torch.arange(9.0, dtype=torch.float64).view(1, 1, 3, 3)
    left, right = (varied(image, "rotate:180", [but(TURN, number)])[0, 0] for number in (0.25, 0.75))
    torch.testing.assert_close(left, image[0, 0].rot90(1), rtol=0, atol=1e-9)
    torch.testing.assert_close(right, image[0, 0].rot90(-1), rtol=0, atol=1e-9)
    larger = varied(image, "scale:0.5", [but(SCALE, 0.9999999)])[0, 0]  # by 1.5: a step is two thirds of a pixel
    torch.testing.assert_close(larger[1], image.new_tensor([4 - 2 / 3, 4, 4 + 2 / 3]), rtol=0, atol=1e-5)
    column = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    column[..., 1] = 1
    leant = varied(column, "shear:45", [but(SHEAR, 0.9999999)])[0, 0]
    diagonal = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(leant, diagonal, atol=1e-5) or torch.allclose(leant, diagonal.flip(1), atol=1e-5)


@pytest.mark.usefixtures("kornia")
def test_hue_by_hand() -> None:
    """A third of a turn makes red green; grey stays grey, in one channel and in three."""
    red = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    red[:, 0] = 1
    made = varied(red, "hue:0.5", [but(HUE, 0.5 + 1 / 3)])
    torch.testing.assert_close(made[0, :, 0, 0], red.new_tensor([0, 1, 0]), rtol=0, atol=1e-6)
    grey = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    assert torch.equal(varied(grey, "hue:0.5", [but(HUE, 0.9)] * 2), grey)
    colour = grey.expand(2, 3, 3, 3)
    torch.testing.assert_close(varied(colour, "hue:0.5", [but(HUE, 0.9)] * 2), colour, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("kornia")
def test_blur_by_hand() -> None:
    """A point becomes a Gaussian of the deviation that was drawn, and its sum stays."""
    image = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
    image[..., 10, 10] = 1
    made = varied(image, "blur:2", [but(BLUR, 0.75)])[0, 0]
    places = torch.arange(21.0, dtype=torch.float64) - 10
    assert float(made.sum()) == pytest.approx(1)
    assert float((made.sum(0) * places**2).sum()) == pytest.approx(1.5**2, rel=0.02)  # cut off at three deviations
    with pytest.raises(
        StudyError, match=r"^augmentation blur:3 is not possible for images of 9 pixels; take a smaller"
    ):
        varied(torch.randn(2, 1, 9, 12), "blur:3", [MIDDLE] * 2)


@pytest.mark.usefixtures("kornia")
def test_with_kornia_images_do_not_depend_on_their_batch_and_keep_their_layout() -> None:
    images, drawn = torch.randn(9, 3, 12, 12), torch.rand(9, len(MIDDLE)).tolist()
    whole = varied(images, MORE, drawn)
    apart = torch.cat([varied(images[k : k + 1], MORE, drawn[k : k + 1]) for k in range(9)])
    torch.testing.assert_close(apart, whole, rtol=0, atol=1e-5)
    innermost = varied(images.to(memory_format=torch.channels_last), MORE, drawn)
    assert innermost.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(innermost, whole, rtol=0, atol=1e-5)
    assert len({tuple(one.flatten().tolist()) for one in varied(images[:1].repeat(9, 1, 1, 1), MORE, drawn)}) == 9


def test_without_kornia_the_cure_is_told_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerwise.augment.find_spec", lambda name: None)
    data = make("two", np.zeros((4, 1, 8, 8), np.uint8), np.arange(4) % 2, ["a", "b"])
    with pytest.raises(StudyError) as told:
        Request(data, augment="flip,blur:1,rotate:9")
    assert str(told.value) == (
        "augmentation 'flip,rotate:9,blur:1': rotate, blur needs kornia, which is not installed; "
        "pip install 'layerwise[augment]', or leave it out"
    )
    assert Request(data, augment="crop:2,flip").augment == "crop:2,flip"


# ---- the numbers


def test_numbers_are_uniform_and_independent() -> None:
    found = Draws((0, "x"), 500).take(np.tile(np.arange(500), 20))
    assert found.shape == (10_000, 6)
    assert np.abs(found.mean(0) - 0.5).max() < 0.02
    assert np.abs(found.var(0) - 1 / 12).max() < 0.005
    assert np.abs(np.corrcoef(found.T) - np.eye(6)).max() < 0.05


def test_more_words_leave_the_numbers_of_others_as_they_are() -> None:
    order = np.random.default_rng(0).permutation(20)
    few, many = Draws((3, "x"), 20), Draws((3, "x"), 20, more=True)
    for _ in range(3):
        some = many.take(order)
        assert np.array_equal(few.take(order), some[:, :6])
        assert some.shape == (20, len(MIDDLE))
        assert len(np.unique(some)) == some.size


def test_a_samples_numbers_follow_from_its_pass_and_position_alone() -> None:
    """Whatever the order and the size of batches: here one pass in order, by sevens, and one shuffled, at once."""
    order = np.random.default_rng(0).permutation(20)
    one, other = Draws((3, "x"), 20), Draws((3, "x"), 20)
    straight = np.concatenate([one.take(some) for some in np.split(np.arange(40) % 20, [7, 14, 21, 28, 35])])
    mixed = other.take(np.concatenate([order, order[::-1]]))
    assert np.array_equal(straight[:20][order], mixed[:20])
    assert np.array_equal(straight[20:][order[::-1]], mixed[20:])
    assert not (straight[:20] == straight[20:]).any()
    assert not np.array_equal(Draws((4, "x"), 20).take(order), mixed[:20])


def members(data: DataSet, texts: Sequence[str], recipe: Recipe, net: str = "lenet5") -> list[Run]:
    """A run for each treatment, from one source, on tasks that differ in samples and seed."""
    learnt = Task(data.digest, (0, 1, 2), 6, "onehot", Parts("random", 5))
    source = Run(net, learnt, Treatment.parse("R6"), None, (replace(recipe, steps=10),))
    made = []
    for k, text in enumerate(texts):
        treatment = Treatment.parse(text).resolve(6)
        task = Task(data.digest, (3, 4, 5), 2 + k, "onehot", Parts("random", 5), seed=k)
        recipes = (recipe,) * len(treatment.stages)
        made.append(Run(net, task, treatment, source if treatment.needs_source else None, recipes, seed=k, draw=1))
    return made


def test_runs_that_are_compared_see_the_same_pixels(blobs: DataSet) -> None:
    """Treatment and source do not matter, the seed does; and words share what they draw: crops with flips or not."""
    frozen, tuned = (members(blobs, [text], RECIPE)[0] for text in ("F3R*", "T*"))
    food = feed(tuned.task, blobs, tuned.net, "float64")
    seen = {}
    for name, run in {"frozen": frozen, "tuned": tuned, "seed": replace(tuned, seed=8)}.items():
        seen[name] = Batches([run], 0, [food]).next()[0]
    assert torch.equal(seen["frozen"], seen["tuned"])
    assert not torch.equal(seen["seed"], seen["tuned"])
    crop, both = (
        Batches([replace(tuned, recipes=(replace(RECIPE, augment=text),))], 0, [food]).next()[0]
        for text in ("crop:3", "crop:3,flip")
    )
    same = [torch.equal(a, b) or torch.equal(a.flip(2), b) for a, b in zip(crop[0], both[0], strict=True)]
    assert len(same) == RECIPE.batch_size
    assert torch.equal(crop[0], both[0]) is False
    unmoved = [torch.equal(a, b) for a, b in zip(crop[0], both[0], strict=True)]
    assert any(unmoved)


def test_a_fleet_gives_each_member_the_pixels_that_it_has_alone(blobs: DataSet) -> None:
    """Over more steps than are drawn at once, and several passes."""
    runs = members(blobs, ["T*", "F2R*", "R*"], RECIPE)
    feeds = [feed(run.task, blobs, run.net, "float64") for run in runs]
    fleet, alone = Batches(runs, 0, feeds), [Batches([run], 0, [food]) for run, food in zip(runs, feeds, strict=True)]
    orders = [batches(run, 0, len(food.parts["train"].classes)) for run, food in zip(runs, feeds, strict=True)]
    changed = 0
    for _ in range(DRAWN + 3):
        images, _aims = fleet.next()
        for k, own in enumerate(alone):
            assert torch.equal(images[k], own.next()[0][0])
            plain = feeds[k].parts["train"].images(next(orders[k]))
            changed += int((images[k] != plain).flatten(1).any(1).sum())
    assert changed > 0.9 * (DRAWN + 3) * 3 * RECIPE.batch_size


# ---- training


@pytest.fixture
def coloured(blobs: DataSet) -> DataSet:
    images = np.repeat(blobs.images, 3, axis=1)
    images[:, 1] //= 2
    return make("coloured", images, blobs.labels, blobs.class_names)


def alike(one: Any, other: Any, within: float = 1e-10) -> None:
    assert isinstance(one, Trained)
    assert isinstance(other, Trained)
    assert [p.value for p in one.curve] == pytest.approx([p.value for p in other.curve], abs=within)
    for name, tensor in other.weights.items():
        torch.testing.assert_close(one.weights[name], tensor, rtol=within, atol=within)


def normed(channels: int, size: int, outputs: int) -> nn.Module:
    """Three layers with batch norm."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, stride=3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 3, stride=3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(36, outputs),
    )  # fmt: skip


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("net", "depth"), [("lenet5", 6), ("normed", 3)])
def test_the_fleet_is_the_serial_trainer(
    blobs: DataSet, coloured: DataSet, net: str, depth: int, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grey and colour, frozen layers in front, two stages; and a second time to the bit."""
    monkeypatch.setitem(NETS, "normed", Architecture(normed, (0.5, 0.4, 0.6), (0.2, 0.3, 0.25)))
    data = blobs if net == "lenet5" else coloured
    recipe = replace(RECIPE, steps=6, batch_size=5, rate=0.01, evaluate_every=0, channels_last=channels_last)
    runs = [
        replace(run, treatment=Treatment.parse(text).resolve(depth), net=net, source=None, recipes=recipes, draw=1)
        for run, text, recipes in zip(
            members(data, ["R*"] * 3, recipe), ["R*", "X3R*", "R* > F2T*"],
            [(recipe,), (recipe,), (recipe, replace(recipe, augment="flip"))], strict=True,
        )
    ]  # fmt: skip
    for group in (runs[:2], runs[2:] * 2):
        feeds = [feed(run.task, data, run.net, "float64", channels_last) for run in group]
        together = train_fleet(group, feeds, [None] * len(group))
        for run, food, one in zip(group, feeds, together, strict=True):
            alone = train(run, food, ahead=Prefix().ahead)
            alike(one, alone)
            again = train(run, food)
            assert all(torch.equal(again.weights[name], tensor) for name, tensor in alone.weights.items())
            assert again.curve == alone.curve


@pytest.mark.usefixtures("kornia")
def test_with_kornia_the_fleet_is_the_serial_trainer(blobs: DataSet) -> None:
    recipe = replace(RECIPE, steps=6, batch_size=5, rate=0.01, evaluate_every=0, augment=f"flip,{MORE}")
    runs = members(blobs, ["R*", "X3R*"], recipe)
    feeds = [feed(run.task, blobs, run.net, "float64") for run in runs]
    for run, food, one in zip(runs, feeds, train_fleet(runs, feeds, [None] * 2), strict=True):
        alone = train(run, food)
        alike(one, alone)
        again = train(run, food)
        assert all(torch.equal(again.weights[name], tensor) for name, tensor in alone.weights.items())


def test_augmentation_changes_what_is_learnt_but_not_what_is_evaluated(blobs: DataSet) -> None:
    run = members(blobs, ["R*"], RECIPE)[0]
    plain = replace(run, recipes=(replace(RECIPE, augment=""),))
    food = feed(run.task, blobs, run.net, "float64")
    one, other = train(run, food), train(plain, food)
    assert one.initial.keys() == other.initial.keys()
    assert not any(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())
    still = [replace(r, recipes=(replace(r.recipes[0], steps=0),)) for r in (run, plain)]
    assert train(still[0], food).curve == train(still[1], food).curve


def test_no_frozen_layers_are_computed_ahead(blobs: DataSet) -> None:
    """Bug that would be: features of images as they are, in place of those of varied ones."""
    run = members(blobs, ["F4R*"], RECIPE)[0]
    plain = replace(run, recipes=(replace(RECIPE, augment=""),))
    assert (frozen_depth(run, 0), frozen_depth(plain, 0)) == (0, 4)
    food = feed(run.task, blobs, run.net, "float64")
    assert run.source_run is not None
    source = train(run.source_run, feed(run.source_run.task, blobs, run.net, "float64"))
    ahead = train(run, food, source, Prefix().ahead)
    alike(ahead, train(run, food, source), 0)
    alike(train_fleet([run] * 2, [food] * 2, [source] * 2)[0], ahead)


def test_a_large_run_sees_the_same_pixels(blobs: DataSet, tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric")
    from layerwise import large

    save(blobs, tmp_path / "blobs")
    run = members(blobs, ["R*"], replace(RECIPE, steps=15))[0]
    food = feed(run.task, blobs, run.net, "float64")
    alike(large.train_large(run, tmp_path / "blobs"), train(run, food))
