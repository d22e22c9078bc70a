"""`layerwise adapt`, `predict`, `export`: the folder of an adapted net, what it predicts, and what cannot harm it."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file
from scipy.stats import norm
from sklearn import metrics

import layerwise
from layerwise import cli, tasks
from layerwise.adapting import described
from layerwise.adapting.adapt import adapt
from layerwise.adapting.adapted import AdaptedNet, load_adapted
from layerwise.adapting.measured import calibration_error, measured
from layerwise.adapting.predicting import predict
from layerwise.adapting.rates import best
from layerwise.adapting.wish import Fitted, Wish, fitted
from layerwise.data import open_data
from layerwise.data.dataset import DataSet, make
from layerwise.errors import DataError, LayersError, LayerwiseError, StoreError, StudyError
from layerwise.feed import scaled
from layerwise.images import Images
from layerwise.layers import layers
from layerwise.nets import NETS, build
from layerwise.nets.from_torchvision import imported
from layerwise.nets.weights import read_weights
from layerwise.result import restore
from layerwise.run import Recipe, key
from layerwise.store import Store
from layerwise.tasks import examples

QUICK: dict[str, Any] = {"rates": (0.2,), "steps": 60, "batch_size": 8, "quiet": True, "executor": "serial"}
TESTED = ("test", "accuracy")
SIDES = (40, 48)  # of the pictures, which training makes 32x32


def draw_pictures(folder: Path, classes: str, each: int = 12) -> Path:
    """Class folders of grey pictures: a bright square whose place is the class, and noise."""
    draw = np.random.default_rng(ord(classes[0]))
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = draw.integers(0, 90, SIDES, dtype=np.uint8)
            pixels[4 + 14 * (k // 2) :, 4 + 20 * (k % 2) :][:12, :14] = draw.integers(160, 255)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two tasks, weights of LeNet-5, and a net adapted to the first task."""
    place = tmp_path_factory.mktemp("adapting")
    draw_pictures(place / "abc", "abc")
    draw_pictures(place / "xyzw", "xyzw", 8)
    save_file(build("lenet5", (1, 32, 32), 10, 7).state_dict(), place / "lenet5.safetensors")
    assert adapt_to(place, "abc", "made") is not None
    return place


def adapt_to(base: Path, data: str, out: str, **more: Any) -> AdaptedNet | None:
    asked = {**QUICK, "treatment": "F3T*R", "resize": 32, "out": base / out, "store": base / "store", **more}
    return adapt(f"lenet5@{base / 'lenet5.safetensors'}", f"folder:{base / data}", **asked)


@pytest.fixture
def made(base: Path, tmp_path: Path) -> Path:
    """A copy of the adapted net, to do things to."""
    return Path(shutil.copytree(base / "made", tmp_path / "made"))


def add_task(base: Path, folder: Path, **more: Any) -> AdaptedNet:
    found = adapt(None, f"folder:{base / 'xyzw'}", **{**QUICK, "onto": folder, "store": base / "store", **more})
    assert found is not None
    return found


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Run a command in this process; gives code, out and err."""

    def ran(*words: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["layerwise", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            cli.main()
        found = capsys.readouterr()
        return SimpleNamespace(code=exit.value.code or 0, out=found.out, err=found.err)

    return ran


# What is measured.


def test_calibration_error_by_hand() -> None:
    """Two bins: (0, 0.5] holds 0.5 right; (0.5, 1] holds 0.9 right, 0.8 wrong, 0.6 right: (0.5 + |2 - 2.3|) / 4."""
    chances = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.5, 0.5]])
    assert calibration_error(chances, np.array([0, 1, 1, 0]), bins=2) == pytest.approx((0.5 + 0.3) / 4)


def test_calibration_error_of_known_confidence() -> None:
    """Who says 0.7 and is right as often has none; who is always sure and half the time right has a half."""
    chances = np.tile([0.7, 0.3], (10, 1))
    assert calibration_error(chances, np.array([0] * 7 + [1] * 3)) == pytest.approx(0, abs=1e-12)
    assert calibration_error(np.tile([1.0, 0.0], (10, 1)), np.array([0, 1] * 5)) == pytest.approx(0.5)


def test_what_is_measured_is_what_scikit_learn_measures() -> None:
    draw = np.random.default_rng(0)
    classes, chances = draw.integers(0, 4, 300), draw.dirichlet(np.ones(4), 300)
    found, said = measured(chances, classes), chances.argmax(1)
    precision, recall, _, support = metrics.precision_recall_fscore_support(classes, said)
    assert found.precision == pytest.approx(precision.tolist())
    assert found.recall == pytest.approx(recall.tolist())
    assert found.support == tuple(support.tolist())
    assert found.confusion == tuple(map(tuple, metrics.confusion_matrix(classes, said).tolist()))
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(classes, said))
    assert found.accuracy == pytest.approx(metrics.accuracy_score(classes, said))
    p, n, z = found.accuracy, 300, norm.ppf(0.95)  # Wilson 1927
    middle, half = (p + z**2 / 2 / n) / (1 + z**2 / n), z * (p * (1 - p) / n + z**2 / 4 / n**2) ** 0.5 / (1 + z**2 / n)
    assert found.interval == pytest.approx((middle - half, middle + half))


def test_a_class_without_images_or_guesses_has_no_share() -> None:
    found = measured(np.array([[0.9, 0.1, 0.0], [0.8, 0.1, 0.1]]), np.array([0, 1]))
    assert (found.precision, found.recall, found.balanced_accuracy) == ((0.5, None, None), (1.0, 0.0, None), 0.5)


# What is written.


def test_the_folder_says_what_it_is(base: Path) -> None:
    told = json.loads((base / "made" / "layerwise.json").read_text())
    source = base / "lenet5.safetensors"
    assert sorted(bytes_of(base / "made")) == ["README.md", "layerwise.json", "model.safetensors"]
    assert (told["net"], told["weights"]) == ("lenet5", hashlib.sha256(source.read_bytes()).hexdigest())
    assert (told["treatment"], told["letters"], told["granularity"]) == ("F3TTR", "FFFTTR", "layer")
    assert told["layers"] == ["C1", "S2", "C3", "S4", "C5", "F6"]
    assert told["classes"] == ["a", "b", "c"]
    mean, std = NETS["lenet5"].pixels(1)
    assert told["preprocessing"] == {
        "channels": 1, "height": 32, "width": 32, "resize": 32, "grey": False, "mean": list(mean), "std": list(std),
    }  # fmt: skip
    assert told["recipes"] == [{**asdict(Recipe(60, 8, 0.2, drops=(0.8,))), "drops": [0.8], "layer_rates": []}]
    assert told["files"] == {
        "model.safetensors": hashlib.sha256((base / "made/model.safetensors").read_bytes()).hexdigest()
    }
    assert told["data"]["images"] == {"train": 30, "validation": 0, "test": 6}
    assert set(told["versions"]) == {"layerwise", "python", "torch", "numpy", "pillow", "safetensors"}


def test_its_test_accuracy_is_what_the_engine_measured(base: Path) -> None:
    told = json.loads((base / "made" / "layerwise.json").read_text())
    curve = Store(base / "store").get(told["tasks"][0]["run"]).result["curve"]
    assert told["test_accuracy"] == next(value for _, part, what, value in reversed(curve) if (part, what) == TESTED)
    assert told["test_interval"][0] < told["test_accuracy"] <= told["test_interval"][1]
    assert sum(map(sum, told["tasks"][0]["test"]["confusion"])) == 6


def test_the_card_tells_it_to_a_person(base: Path) -> None:
    card = (base / "made" / "README.md").read_text()
    told = json.loads((base / "made" / "layerwise.json").read_text())
    for part in (
        "# lenet5, adapted to abc",
        f"| accuracy | **{told['test_accuracy']:.1%}** (90% interval ",
        "(15 equal bins, Guo et al. 2017, eq. 3)",
        "| class | precision | recall | support |",
        "Confusion matrix: test images by class (rows) and predicted class (columns).",
        "- `C1` to `C3` (3 layers): copied, frozen",
        "- `S4` to `C5` (2 layers): copied, tuned",
        "- `F6` (1 layer): fresh, trained",
        "images: 30 to train on, 6 to test on.",
        'net = layerwise.load_adapted("FOLDER")',
    ):
        assert part in card, part
    assert "None" not in card.replace("[None]", "")
    assert "nan" not in card


def test_frozen_layers_are_the_files_and_the_others_are_not(base: Path) -> None:
    before, after = load_file(base / "lenet5.safetensors"), load_file(base / "made" / "model.safetensors")
    same = {
        name for name in before if before[name].shape == after[name].shape and torch.equal(before[name], after[name])
    }
    found = layers(build("lenet5", (1, 32, 32), 3, 0), torch.zeros(1, 1, 32, 32))
    assert same - {"C3.0.seen", "C3.0.outs"} == {n for layer in found[:3] for n in layer.parameters}


# What it predicts.


def test_predictions_are_those_of_the_trained_net_to_the_bit(base: Path) -> None:
    """Of every picture: from its file through the folder, and from the data's arrays through the run's own weights."""
    data, _ = open_data(f"folder:{base / 'abc'}", base / "store" / "data", resize=32)
    told = json.loads((base / "made" / "layerwise.json").read_text())
    trained = build("lenet5", (1, 32, 32), 3, 1)
    trained.load_state_dict(restore(Store(base / "store"), told["tasks"][0]["run"]).weights)
    files = [base / "abc" / name / f"{number}.png" for name in "abc" for number in range(12)]
    net = load_adapted(base / "made")
    with torch.no_grad():
        for file, pixels in zip(files, data.images, strict=True):
            image = scaled(pixels[None].copy(), NETS["lenet5"])
            assert torch.equal(net.preprocess(file)[None], image)
            expected = trained.eval()(image).double().softmax(1)[0].tolist()
            assert dict(net.predict(file)) == dict(zip("abc", expected, strict=True))
    assert [one.chances for one in predict(base / "made", [base / "abc"])] == [tuple(net.predict(f)) for f in files]


def test_it_learns_these_pictures(base: Path) -> None:
    found = predict(base / "made", [base / "abc"])
    assert sum(one.class_name == Path(one.image).parent.name for one in found) / len(found) > 0.9


def test_a_picture_is_told_from_bytes_and_from_pillow(base: Path) -> None:
    net, file = load_adapted(base / "made"), base / "abc" / "b" / "3.png"
    assert (
        net.predict(file) == net.predict(file.read_bytes()) == net.predict(Image.open(file)) == net.predict(str(file))
    )


def test_a_colour_picture_is_made_grey_as_pillow_does_and_turned_upright(base: Path, tmp_path: Path) -> None:
    net, grey = load_adapted(base / "made"), Image.open(base / "abc" / "b" / "3.png")
    Image.merge("RGB", [grey] * 3).save(tmp_path / "colour.png")
    assert net.predict(tmp_path / "colour.png") == net.predict(grey)
    turned = grey.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    turned.save(tmp_path / "turned.png", exif=exif)
    assert net.predict(tmp_path / "turned.png") == net.predict(grey)


def test_the_module_is_in_eval_mode_and_gives_logits(base: Path) -> None:
    net = layerwise.load_adapted(base / "made")
    assert isinstance(net, torch.nn.Module)
    assert not net.training
    file = base / "abc" / "a" / "0.png"
    chances = net(net.preprocess(file)[None]).double().softmax(1)[0]
    assert [chance for _, chance in net.predict(file)] == sorted(chances.tolist(), reverse=True)
    assert net.classes == ("a", "b", "c")


def test_the_command_prints_a_table_or_json(base: Path, run: Callable[..., SimpleNamespace]) -> None:
    files = [base / "abc" / "a" / "0.png", base / "abc" / "c" / "1.png"]
    found = predict(base / "made", files)
    shown = run("predict", base / "made", *files, "--top", 2)
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0].split() == ["image", "class", "probability", "else"]
    (first, chance), (second, less) = found[0].chances[:2]
    assert lines[1].split() == [str(files[0]), first, f"{chance:.1%}", second, f"{less:.1%}"]
    told = json.loads(run("predict", base / "made", *files, "--json").out)
    assert told == [
        {"image": str(file), "class": one.class_name, "probabilities": dict(one.chances)}
        for file, one in zip(files, found, strict=True)
    ]


def test_what_cannot_be_read_is_a_line_each_and_the_others_are_predicted(
    base: Path, tmp_path: Path, run: Callable[..., SimpleNamespace]
) -> None:
    whole = (base / "abc" / "a" / "0.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    shown = run("predict", base / "made", tmp_path, base / "abc" / "a" / "0.png", tmp_path / "nothing.png")
    assert shown.code == 2
    assert len(shown.out.splitlines()) == 2
    assert shown.err.splitlines() == [
        f"Unreadable: {tmp_path}/half.png is truncated (its {len(whole) // 2:,} bytes end inside the image)",
        f"Unreadable: {tmp_path}/text.png is not an image that can be read",
        f"Unreadable: {tmp_path}/nothing.png cannot be read (No such file or directory)",
    ]
    told = json.loads(run("predict", base / "made", tmp_path, "--json").out)
    assert told[1] == {"image": f"{tmp_path}/text.png", "error": "is not an image that can be read"}


def test_another_size_is_refused_where_training_set_none(base: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "small" / name).mkdir(parents=True)
        for number in range(4):
            with Image.open(base / "abc" / name / f"{number}.png") as image:
                image.resize((32, 32)).save(tmp_path / "small" / name / f"{number}.png")
    net = adapt(
        "lenet5", f"folder:{tmp_path / 'small'}", **{**QUICK, "steps": 2}, out=tmp_path / "o", store=tmp_path / "s"
    )
    assert net is not None
    assert net.task.letters == "RRRRRR"  # no weights: from scratch
    with pytest.raises(DataError) as told:
        net.predict(base / "abc" / "a" / "0.png")
    assert str(told.value) == (
        f"{base}/abc/a/0.png is 48x40 pixels, and all training images were 32x32; make it so, or adapt the net with "
        "--resize 32, which holds for predictions too"
    )


# What must not happen to it.


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda folder: _flip(folder / "model.safetensors"),
         "{0}/model.safetensors is damaged (it is not what layerwise.json says); copy the folder again"),
        (lambda folder: (folder / "model.safetensors").unlink(),
         "{0}/model.safetensors cannot be read (No such file or directory); copy the folder again"),
        (lambda folder: (folder / "layerwise.json").write_text("{"),
         "{0} is no adapted net (layerwise.json: it is no JSON); name a folder that `layerwise adapt` has made"),
        (lambda folder: (folder / "layerwise.json").unlink(),
         "{0} is no adapted net (layerwise.json: No such file or directory); name a folder that `layerwise "
         "adapt` has made"),
        (lambda folder: _say(folder, format=99),
         "{0} was written in format 99 by a newer layerwise, and this one reads 1; upgrade layerwise"),
        (lambda folder: _say(folder, net="lenet6"),
         "unknown net 'lenet6'; did you mean 'lenet5'? (known: " + ", ".join(sorted(NETS)) + ")"),
        (lambda folder: _say(folder, net="evil.py:net"),
         "{0} holds net 'evil.py:net', which is made by a file or folder of your own, and such are used only where you "
         "name them: pass --net FILE.py:FUNCTION, or --net transformers:DIR"),
        (lambda folder: _say(folder, tasks=[]),
         "{0} is no adapted net (layerwise.json has tasks that it cannot have been given); copy the folder again, or "
         "adapt the net again"),
        (lambda folder: _say(folder, preprocessing={}),
         "{0} is no adapted net (layerwise.json lacks or misuses 'channels'); adapt the net again"),
    ],
)  # fmt: skip
def test_a_harmed_folder_is_told_in_one_line(made: Path, harm: Callable[[Path], object], told: str) -> None:
    harm(made)
    with pytest.raises(LayerwiseError) as error:
        load_adapted(made)
    assert str(error.value) == told.format(made)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def _say(folder: Path, **values: Any) -> None:
    told = json.loads((folder / "layerwise.json").read_text())
    (folder / "layerwise.json").write_text(json.dumps({**told, **values}))


def test_weights_of_another_net_do_not_fit(made: Path) -> None:
    _say(made, net="sharma")
    with pytest.raises(StoreError, match="the tensors of task 'abc' do not fit net 'sharma'"):
        load_adapted(made)


OWN = """
from pathlib import Path
from torch import nn
Path({mark!r}).touch()

def small(outputs):
    return nn.Sequential(nn.Conv2d(1, 4, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(196, outputs))
"""


def test_code_runs_only_where_the_user_names_it(base: Path, tmp_path: Path) -> None:
    """A folder may come from anywhere: a file that its layerwise.json names is not run for that."""
    own, mark = tmp_path / "own.py", tmp_path / "it-ran"
    own.write_text(OWN.format(mark=str(mark)))
    more = {"out": tmp_path / "net", "store": base / "store", "resize": 32, "no_test": True}
    net = adapt(f"{own}:small", f"folder:{base / 'abc'}", **{**QUICK, "steps": 2}, **more)
    assert net is not None
    assert net.described.net.startswith("own.py:small#")
    here = f"from layerwise import load_adapted; net = load_adapted({str(tmp_path / 'net')!r}"
    mark.unlink()
    for named, told in (
        ("", f"{tmp_path}/net holds net '{net.described.net}', which is made by a file"),
        (f", net='{own}:small'", ""),
    ):
        done = subprocess.run(
            [sys.executable, "-c", f"{here}{named}); print(net.classes)"], capture_output=True, text=True
        )
        assert told in done.stderr
        assert mark.exists() == (not told)
    _say(tmp_path / "net", net=f"{own}:small")
    mark.unlink()
    with pytest.raises(StudyError, match="such are used only where you name them"):
        load_adapted(tmp_path / "net")
    assert not mark.exists()


def test_other_code_than_it_was_made_with_is_refused(base: Path, made: Path, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(OWN.format(mark=str(tmp_path / "mark")))
    with pytest.raises(
        StudyError, match=re.escape(f"{made} holds net 'lenet5', and '{tmp_path}/other.py:small' is 'other.py:small#")
    ):
        load_adapted(made, net=f"{tmp_path}/other.py:small")


def test_other_folders_are_not_overwritten(base: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError) as told:
        adapt_to(base, "abc", str(tmp_path / "precious"))
    assert str(told.value) == f"--out {tmp_path}/precious is a folder with other things in it; pass another"
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file; pass a folder"):
        adapt_to(base, "abc", str(tmp_path / "file"))
    assert bytes_of(tmp_path) == {"precious/thesis.tex": b"years of work", "file": b""}


def test_an_adapted_net_is_replaced_whole_and_a_family_is_not(base: Path, made: Path) -> None:
    (made / "model.onnx").write_bytes(b"of the old net")
    (made.parent / "empty").mkdir()
    again = adapt_to(base, "abc", str(made), treatment="F*R")
    assert again is not None
    assert sorted(bytes_of(made)) == ["README.md", "layerwise.json", "model.safetensors"]
    assert load_adapted(made).task.letters == "FFFFFR"
    assert adapt_to(base, "abc", str(made.parent / "empty")) is not None
    add_task(base, made)
    with pytest.raises(StoreError) as told:
        adapt_to(base, "abc", str(made))
    assert str(told.value) == (
        f"--out {made} holds the tasks abc, xyzw, which would be lost; pass another --out, or --onto"
    )
    assert not list(made.parent.glob(".*"))  # nothing is left lying about


def test_a_net_that_cannot_be_put_in_place_leaves_the_old_one(
    base: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename = bytes_of(made), Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(StoreError, match="cannot be written"):
        adapt_to(base, "abc", str(made), treatment="F*R")
    assert bytes_of(made) == before


# Families.


def test_a_task_is_added_and_the_earlier_ones_stay_to_the_byte(base: Path, made: Path) -> None:
    files = [base / "abc" / name / "0.png" for name in "abc"]
    images = torch.stack([load_adapted(made).preprocess(file) for file in files])
    outputs, before = load_adapted(made)(images), bytes_of(made)
    added = add_task(base, made)
    after = bytes_of(made)
    assert after["model.safetensors"] == before["model.safetensors"]
    assert load_adapted(made)(images).detach().numpy().tobytes() == outputs.detach().numpy().tobytes()
    assert sorted(after) == ["README.md", "layerwise.json", "model.safetensors", "tasks/xyzw.safetensors"]
    own = load_file(made / "tasks" / "xyzw.safetensors")
    assert {name.partition(".")[0] for name in own} == {"F6"}  # the trunk is stored once
    second = load_adapted(made, "xyzw")
    assert (second.classes, second.task.trunk, second.task.letters) == (("w", "x", "y", "z"), 5, "FFFFFR")
    for name, tensor in load_file(made / "model.safetensors").items():
        if not name.startswith("F6"):
            assert torch.equal(second.net.state_dict()[name], tensor)
    for file in (base / "xyzw").rglob("*.png"):
        assert second.predict(file) == added.predict(file)
    told = json.loads(after["layerwise.json"])
    assert [(task["name"], task["file"]) for task in told["tasks"]] == [
        ("abc", "model.safetensors"), ("xyzw", "tasks/xyzw.safetensors"),
    ]  # fmt: skip
    assert told["classes"] == ["a", "b", "c"]
    assert "## Task `xyzw`: 4 classes" in after["README.md"].decode()
    assert "The first 5 of 6 layers are those of task `abc`, in `model.safetensors`." in after["README.md"].decode()


def test_each_task_has_what_its_treatment_trains(base: Path, made: Path) -> None:
    add_task(base, made, treatment="FFTF*R", task="late")
    add_task(base, made, treatment="F*R > F4T*", task="staged")
    found = {task.name: task.trunk for task in described.read(made).tasks}
    assert found == {"abc": 0, "late": 2, "staged": 4}
    assert {name.partition(".")[0] for name in load_file(made / "tasks" / "late.safetensors")} == {
        "C3",
        "S4",
        "C5",
        "F6",
    }
    assert {name.partition(".")[0] for name in load_file(made / "tasks" / "staged.safetensors")} == {"C5", "F6"}


def test_a_crash_while_a_task_is_added_leaves_the_family_as_it_was(
    base: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, written = bytes_of(made), described.write_whole

    def dies(path: Path, given: bytes) -> None:
        if path.name == "layerwise.json":
            raise KeyboardInterrupt
        written(path, given)

    with monkeypatch.context() as patch:
        patch.setattr(described, "write_whole", dies)
        with pytest.raises(KeyboardInterrupt):
            add_task(base, made)
    assert {name: content for name, content in bytes_of(made).items() if name in before} == before
    assert [task.name for task in described.read(made).tasks] == ["abc"]
    with pytest.raises(StudyError, match="unknown task 'xyzw'"):
        load_adapted(made, "xyzw")
    add_task(base, made)
    assert load_adapted(made, "xyzw").classes == ("w", "x", "y", "z")


def test_a_damaged_task_harms_no_other(base: Path, made: Path) -> None:
    add_task(base, made)
    _flip(made / "tasks" / "xyzw.safetensors")
    assert load_adapted(made).predict(base / "abc" / "a" / "0.png")
    with pytest.raises(StoreError, match=r"xyzw\.safetensors is damaged"):
        load_adapted(made, "xyzw")


def test_two_tasks_added_at_once_are_both_there(base: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is added while the first is being trained: what the folder says is read again under a lock."""
    from layerwise.adapting import training

    carried_out, others = training.Training.carried_out, ["other"]

    def meanwhile(self: training.Training) -> object:
        if others:
            add_task(base, made, task=others.pop())
        return carried_out(self)

    monkeypatch.setattr(training.Training, "carried_out", meanwhile)
    add_task(base, made, task="slow")
    assert [task.name for task in described.read(made).tasks] == ["abc", "other", "slow"]
    assert load_adapted(made, "other").classes == load_adapted(made, "slow").classes


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"treatment": "T*R"},
         "treatment 'T5R' keeps no leading layer frozen, so nothing is shared with 'abc'; begin it with F, "
         "such as 'F*R', or adapt without --onto"),
        ({"treatment": "F*R > T*"},
         "treatment 'F5R > T6' keeps no leading layer frozen, so nothing is shared with 'abc'; begin it with "
         "F, such as 'F*R', or adapt without --onto"),
        ({"task": "abc"}, "--task abc is there already (abc); pass another name"),
        ({"task": "../x"}, "--task '../x' is no name; use letters, digits, - and _, at most 64 of them"),
        ({"resize": 28},
         "--onto {0}: images are made as they were for its trunk (--resize 32, grey); leave out --resize and --grey"),
        ({"out": "there"}, "--onto {0} adds to that folder, and --out there makes another; pass one of them"),
    ],
)  # fmt: skip
def test_what_cannot_be_added_is_told(base: Path, made: Path, more: dict[str, Any], told: str) -> None:
    before = bytes_of(made)
    with pytest.raises(LayerwiseError) as error:
        add_task(base, made, **more)
    assert str(error.value) == told.format(made)
    assert bytes_of(made) == before


def test_names_of_tasks_come_from_the_data_and_differ(base: Path, made: Path) -> None:
    shutil.copytree(base / "xyzw", made.parent / "my abc!")
    for _ in range(2):
        adapt(None, f"folder:{made.parent / 'my abc!'}", **QUICK, onto=made, store=base / "store")
    assert [task.name for task in described.read(made).tasks] == ["abc", "my-abc", "my-abc-2"]


# What is trained.


def wished(base: Path, **more: Any) -> Fitted:
    images = {name: more.pop(name) for name in ("classes", "groups", "hold_out") if name in more}
    asked = Images(f"folder:{base / 'abc'}", resize=32, **images)
    data, _ = asked.open(base / "store" / "data")
    return fitted(Wish("lenet5", read_weights(base / "lenet5.safetensors"), asked, **more), data)


def parts(plan: Fitted, data: DataSet, which: str) -> dict[str, set[int]]:
    task = plan.trial if which == "trial" else plan.task
    assert task is not None
    found = examples(task, data.labels, data.columns, data.class_names)
    return {name: set(where.tolist()) for name, where in vars(found).items()}


def test_rates_are_compared_on_training_images_and_the_test_stays_out(base: Path) -> None:
    plan = wished(base, treatment="F*R")
    trial, final = parts(plan, plan.data, "trial"), parts(plan, plan.data, "final")
    assert [run.recipes[0].rate for run in plan.trials] == [0.003, 0.01, 0.03, 0.1]
    assert {run.treatment.expanded for run in plan.trials} == {"FFFFFR"}
    assert trial["test"] == final["test"]
    assert final["train"] == trial["train"] | trial["validation"]
    assert not trial["train"] & trial["validation"]
    assert len(trial["validation"]) == 6  # a fifth of the ten of each class
    assert not final["validation"]


def test_the_best_rate_is_by_accuracy_then_loss_and_never_a_diverged_one() -> None:
    results = [
        {"accuracy": 0.5, "loss": 0.1},
        {"accuracy": 0.8, "loss": 0.9},
        {"accuracy": 0.8, "loss": 0.7},
        {"accuracy": None, "loss": None},
    ]
    assert best(results) == 2


def test_the_net_is_of_the_rate_that_was_best_on_validation_images(base: Path, tmp_path: Path) -> None:
    net = adapt_to(base, "abc", str(tmp_path / "o"), rates=(1e-6, 0.2, 1e9))
    assert net is not None
    assert [one["rates"] for one in net.task.tried] == [[1e-6], [0.2], [1e9]]
    assert net.task.tried[1]["accuracy"] > net.task.tried[0]["accuracy"]
    assert net.task.recipes[0]["rate"] == 0.2
    assert "| 1e-06 |" in (tmp_path / "o" / "README.md").read_text()


def test_without_validation_images_the_first_rate_that_was_named_is_it(base: Path, tmp_path: Path) -> None:
    """Bug: it was 0.01, whatever was named."""
    for name in "abc":
        (tmp_path / "few" / name).mkdir(parents=True)
        shutil.copy(base / "abc" / name / "0.png", tmp_path / "few" / name)
    few = Images(f"folder:{tmp_path / 'few'}", resize=32)
    data, _ = few.open(tmp_path / "data")
    plan = fitted(replace(wished(base).wish, images=few, rates=(0.3, 0.5), no_test=True), data)
    assert [[recipe.rate for recipe in one] for one in plan.choices] == [[0.3, pytest.approx(0.03)]]
    told = "there are too few images to choose a rate by validation: it is 0.3, the first that was named"
    assert told in plan.notes


def test_a_rate_that_failed_is_not_taken_for_one_that_diverged(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("layerwise.execute.work._train_one", failing)
    with pytest.raises(StudyError, match="there was not enough memory for it"):
        adapt_to(base, "abc", str(tmp_path / "o"), rates=(0.1, 0.2))


def test_without_a_treatment_it_says_what_it_does(base: Path) -> None:
    plan = wished(base)
    assert plan.treatment.expanded == "FFFFFR > TTTTTT"
    assert [[recipe.rate for recipe in one] for one in plan.choices][-1] == pytest.approx([0.1, 0.01])
    told = "treatment: F*R > T* (a new head on the frozen layers, then all layers at a tenth of the rate), as none"
    assert any(note.startswith(told) for note in plan.notes)


def test_no_test_trains_on_all(base: Path, tmp_path: Path) -> None:
    net = adapt_to(base, "abc", str(tmp_path / "o"), no_test=True)
    assert net is not None
    assert net.task.data["images"] == {"train": 36, "validation": 0, "test": 0}
    assert json.loads((tmp_path / "o" / "layerwise.json").read_text())["test_accuracy"] is None
    assert "how good it is on others is **not known**" in (tmp_path / "o" / "README.md").read_text()


def test_letters_over_blocks_are_those_over_their_layers() -> None:
    """ResNet-20 has a stem, nine blocks of two layers, and a head; of stages three, the stem and the head apart."""
    data = make(
        "noise", np.random.default_rng(0).integers(0, 255, (20, 3, 32, 32), np.uint8), np.arange(20) % 2, ["a", "b"]
    )
    weights = save(build("resnet20", (3, 32, 32), 10, 0).state_dict())
    for granularity, text, letters in (("block", "F10R", "F" * 19 + "R"), ("block", "F9TR", "F" * 17 + "TTR"),
                                       ("stage", "FFTTR", "F" * 7 + "T" * 12 + "R")):  # fmt: skip
        assert (
            fitted(Wish("resnet20", weights, Images(""), text, granularity=granularity), data).treatment.expanded
            == letters
        )


def test_groups_augmentation_and_copies_reach_the_engine(base: Path, tmp_path: Path) -> None:
    """Every tenth picture is another's copy, which is dropped; what shares a number is on one side."""
    shutil.copytree(base / "abc", tmp_path / "abc")
    for name in "abc":
        shutil.copy(tmp_path / "abc" / name / "0.png", tmp_path / "abc" / name / "12.png")
    more = {"groups": "([0-9]+).png", "drop_duplicates": True, "augment": "crop:2,flip"}
    net = adapt(f"lenet5@{base}/lenet5.safetensors", f"folder:{tmp_path}/abc", **{**QUICK, "steps": 2}, resize=32,
                treatment="F*R", out=tmp_path / "o", store=tmp_path / "s", **more)  # fmt: skip
    assert net is not None
    assert net.task.recipes[0]["augment"] == "crop:2,flip"
    assert sum(net.task.data["images"].values()) == 36
    assert any("3 copies were left out" in note for note in net.task.notes)
    run = Store(tmp_path / "s").get(net.task.run).run
    assert run.task.parts.groups == ("group",)


def test_steps_follow_the_number_of_images(base: Path) -> None:
    assert [(r.steps, r.batch_size) for (r,) in wished(base, treatment="F*R").choices] == [(200, 30)] * 4
    assert wished(base, treatment="F*R", batch_size=4).choices[0][0].steps == 40 * 30 // 4


def write_advice(base: Path, folder: Path, **more: Any) -> Path:
    plan = wished(base)
    recipes = [asdict(Recipe(30, 9, 0.02, momentum=0.5)), asdict(Recipe(5, 9, 0.001))]
    told = {
        "version": 1, "net": "lenet5", "layers": [layer.name for layer in plan.found],
        "recommended": {"treatment": "FFFFFR > FFFTTT", "recipes": recipes, "accuracy": 0.9, "interval": [0.8, 1]},
        "data": {"digest": plan.data.digest, "classes": ["a", "b", "c"]}, **more,
    }  # fmt: skip
    (folder / "advice.json").write_text(json.dumps(told))
    return folder / "advice.json"


def test_advice_is_carried_out_as_it_is(base: Path, tmp_path: Path) -> None:
    advice = write_advice(base, tmp_path)
    more = {"treatment": None, "rates": None, "steps": None, "batch_size": None}
    net = adapt_to(base, "abc", str(tmp_path / "o"), advice=advice, **more)
    assert net is not None
    plan = wished(base, treatment="F5R > F3T3")
    recipes = (Recipe(30, 9, 0.02, momentum=0.5), Recipe(5, 9, 0.001))
    assert net.task.run == key(replace(plan.final(plan.choices[0]), recipes=recipes))
    assert net.task.tried == ()
    expects = f"treatment: F5R > F3T3, as {advice} recommends; it expects 90.0% of new images right (80.0% to 100.0%)"
    assert expects in net.task.notes


def test_images_that_advice_was_found_with_are_not_tested_on(base: Path, tmp_path: Path) -> None:
    plan = wished(base)
    digest = plan.data.digest

    def given(**parts: Any) -> Path:
        task = tasks.described(replace(plan.task, parts=replace(plan.task.parts, **parts), shots=9))
        return write_advice(base, tmp_path, data={"digest": digest, "task": task}, adapt=["layerwise", "adapt"])

    notes = wished(base, advice=given()).notes
    assert any("was given for 9 images a class" in note for note in notes)
    assert not any("was given for other classes" in note for note in notes)
    advice = given(seed=5)
    with pytest.raises(StudyError) as told:
        wished(base, advice=advice)
    tested = len(examples(plan.task, plan.data.labels, plan.data.columns, plan.data.class_names).test)
    assert re.fullmatch(
        rf"--advice {advice} was found with [1-9]\d* of the {tested} images that would be tested on; keep back those "
        rf"that it kept back: layerwise adapt --advice {advice}",
        str(told.value),
    )
    assert wished(base, advice=advice, no_test=True).treatment.expanded == "FFFFFR > FFFTTT"


def test_advice_that_does_not_fit_is_told(base: Path, tmp_path: Path) -> None:
    advice = write_advice(base, tmp_path, layers=["C1"])
    with pytest.raises(StudyError) as told:
        wished(base, advice=advice)
    assert str(told.value) == f"--advice {advice} is about net 'lenet5' of 1 layers, not 'lenet5'; name that net"
    advice.write_text('{"net": "lenet5"}')
    with pytest.raises(StudyError) as told:
        wished(base, advice=advice)
    assert str(told.value) == (
        f"--advice {advice} is not what `layerwise advise` writes (KeyError: 'recommended'); pass its advice.json"
    )
    plan = wished(base, advice=write_advice(base, tmp_path, data={"digest": "0" * 16}))
    assert any("was given on other images" in note for note in plan.notes)
    assert not any("it expects" in note for note in plan.notes)  # that was of those images
    assert not any("was given for other weights" in note for note in plan.notes)
    plan = wished(base, advice=write_advice(base, tmp_path, weights="0" * 64))
    assert any("was given for other weights" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("more", "kind", "told"),
    [
        ({"treatment": "T*"}, LayersError,
         "layer 6 'F6' cannot be copied: 'F6.0.weight' is (10, 120) in the source and (3, 120) here; write R "
         "for this layer"),
        ({"treatment": "WR5"}, LayersError,
         "treatment 'WR5' rewinds (W), and a file of weights does not say where they began; write T or R"),
        ({"treatment": "F7R"}, LayersError, "treatment 'F7R' is for 8 layers; net 'lenet5' has 6: C1 S2 C3 S4 C5 F6"),
        ({"treatment": "F*R", "advice": Path("a.json")}, StudyError,
         "--treatment and --advice both say what to do with the layers; pass one of them"),
        ({"rates": (0.1, -1.0)}, StudyError, "--rates 0.1,-1.0 is not possible; name numbers above 0"),
        ({"share": 0}, StudyError, "--share 0 is not between 0 and 1; for no test images pass --no-test"),
        ({"classes": "a"}, StudyError, "--classes a names one class, which tells nothing apart; name at least 2"),
        ({"no_test": True, "hold_out": "writer:1"}, StudyError,
         "--hold-out writer:1 keeps images back and --no-test keeps none; pass one of them"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_trained(
    base: Path, more: dict[str, Any], kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind) as error:
        wished(base, **more)
    assert str(error.value) == told


def test_a_net_without_weights_has_nothing_to_copy(base: Path) -> None:
    data, _ = open_data(f"folder:{base / 'abc'}", base / "store" / "data", resize=32)
    with pytest.raises(StudyError) as told:
        fitted(Wish("lenet5", None, Images(""), "F*R"), data)
    assert str(told.value) == (
        "treatment 'F5R' copies weights, and net 'lenet5' comes without any; write lenet5@FILE.safetensors, or "
        "--treatment 'R*' to train from scratch"
    )


def test_what_to_do_next_with_a_net_of_ones_own_file_names_the_file(
    base: Path, tmp_path: Path, run: Callable[..., SimpleNamespace]
) -> None:
    """Bug: the command that was shown was refused, as code of a file is run only where the file is named."""
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def small(outputs):\n"
        "    body = [nn.Conv2d(1, 4, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]\n"
        "    return nn.Sequential(*body, nn.Linear(64, outputs))\n"
    )
    shown = run(
        "adapt", f"{tmp_path}/mine.py:small", f"folder:{base}/abc", "--resize", 32, "--treatment", "R*", "--steps", 5,
        "--rates", "0.1", "--store", tmp_path / "store", "--out", tmp_path / "o", "--executor", "serial",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    told = shown.out.splitlines()[-1]
    assert told == f"Use it: layerwise predict {tmp_path}/o --net {tmp_path}/mine.py:small IMAGE..."
    words = told.removeprefix("Use it: layerwise ").removesuffix("IMAGE...").split()
    assert run(*words, base / "abc" / "a").code == 0


def test_the_command_makes_the_folder_and_says_what_to_do_next(
    base: Path, tmp_path: Path, run: Callable[..., SimpleNamespace]
) -> None:
    words = [
        "adapt", f"lenet5@{base}/lenet5.safetensors", f"folder:{base}/abc", "--resize", 32, "--treatment", "F*R",
        "--rates", "0.2", "--steps", 60, "--store", base / "store", "--out", tmp_path / "o", "--executor", "serial",
    ]  # fmt: skip
    dry = run(*words, "--dry-run")
    assert (dry.code, dry.out, (tmp_path / "o").exists()) == (0, "", False)
    assert "Plan: 1 runs wanted" in dry.err
    shown = run(*words)
    assert shown.code == 0
    assert shown.out.splitlines()[1].startswith("F5R: ")
    assert shown.out.splitlines()[-1] == f"Use it: layerwise predict {tmp_path}/o IMAGE..."
    added = run("adapt", f"folder:{base}/xyzw", "--onto", tmp_path / "o", *words[7:13])
    assert added.code == 0
    assert added.out.splitlines()[-1] == f"Use it: layerwise predict {tmp_path}/o --task xyzw IMAGE..."
    assert run("predict", tmp_path / "o", "--task", "xyzw", base / "xyzw" / "w").code == 0
    assert run("adapt", "lenet5").err == (
        "StudyError: DATA is missing; write: layerwise adapt NET DATA, such as folder:DIR (see `layerwise data`)\n"
    )


# Nets of libraries.


@pytest.fixture
def of_library(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A small net as a user names it: timm's by its name, without weights; transformers' by the folder it is in."""
    try:
        imported(request.param)
    except StudyError as error:
        pytest.skip(str(error))
    if request.param == "timm":
        return "timm:test_vit"
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    configured = ResNetConfig(depths=[1, 1], hidden_sizes=[8, 16], embedding_size=4, layer_type="basic")
    torch.manual_seed(3)
    ResNetForImageClassification(configured).save_pretrained(tmp_path / "saved")
    ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(tmp_path / "saved")
    return f"transformers:{tmp_path / 'saved'}"


@pytest.mark.parametrize("of_library", ["timm", "transformers"], indirect=True)
def test_a_librarys_net_goes_the_whole_way(
    base: Path, of_library: str, tmp_path: Path, run: Callable[..., Any]
) -> None:
    """Shown, probed, adapted, loaded back, asked, and given a second task."""
    library, store = of_library.partition(":")[0], base / "store"
    told = run("nets", of_library, "--resize", "32", "--classes", "3")
    assert (told.code, "the head" in told.out) == (0, True)
    how: dict[str, Any] = {"resize": 32, "store": store, "quiet": True}
    data = f"folder:{base / 'abc'}"
    found = layerwise.probe(of_library, data, steps=5, batch_size=8, examples=10, **how)
    assert len(found.layers) > 3
    treatment, out = ("R*" if library == "timm" else "F*TR"), tmp_path / "out"
    made = adapt(of_library, data, **{**QUICK, **how, "steps": 5}, treatment=treatment, out=out)
    assert made is not None
    back = load_adapted(out, net=of_library)
    assert all(torch.equal(tensor, made.state_dict()[name]) for name, tensor in back.state_dict().items())
    assert list(found.layers["layer"]) == list(back.described.layers)
    assert back.described.versions[library] == metadata.version(library)
    assert not {"timm", "torchvision", "transformers"} - {library} & set(back.described.versions)
    images = [base / "abc" / name / "1.png" for name in "abc"]
    given = back(torch.stack([back.preprocess(image) for image in images])).double().softmax(1)
    for image, chances, told in zip(images, given, predict(out, images, net=of_library), strict=True):
        assert (told.image, told.error) == (str(image), None)
        for k, name in enumerate(back.classes):
            assert dict(told.chances)[name] == pytest.approx(chances[k].item(), abs=1e-6)
    before = (out / "model.safetensors").read_bytes()
    second = adapt(of_library, f"folder:{base / 'xyzw'}", **{**QUICK, "steps": 5, "store": store}, onto=out)
    assert second is not None
    assert ((out / "model.safetensors").read_bytes(), second.task.name) == (before, "xyzw")
    assert second.classes == tuple("wxyz")


@pytest.mark.parametrize("of_library", ["timm"], indirect=True)
def test_onnx_of_a_librarys_net_gives_what_torch_gives(base: Path, of_library: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    asked = {**QUICK, "steps": 2, "resize": 32, "treatment": "R*", "no_test": True, "store": base / "store"}
    net = adapt(of_library, f"folder:{base / 'abc'}", **asked, out=tmp_path / "out", onnx=True)
    assert net is not None
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    images = torch.stack([net.preprocess(base / "abc" / name / "1.png") for name in "abc"])
    for batch in (images[:1], images):
        (logits,) = session.run(["logits"], {"images": batch.numpy()})
        assert np.abs(logits - net(batch).detach().numpy()).max() < 1e-4


# ONNX.


def test_onnx_gives_what_torch_gives(base: Path, made: Path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    add_task(base, made, onnx=True)
    assert layerwise.export(made) == made / "model.onnx"
    for task, path in {"abc": made / "model.onnx", "xyzw": made / "tasks" / "xyzw.onnx"}.items():
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        net = load_adapted(made, task)
        images = torch.stack([net.preprocess(base / task / name / "1.png") for name in task])
        for batch in (images[:1], images, images.repeat(5, 1, 1, 1)):
            logits, chances = session.run(["logits", "probabilities"], {"images": batch.numpy()})
            assert np.abs(logits - net(batch).detach().numpy()).max() < 1e-5
            assert np.abs(chances - net(batch).softmax(1).detach().numpy()).max() < 1e-5
        told = {prop.key: json.loads(prop.value) for prop in onnx.load(path).metadata_props}
        assert told["classes"] == list(net.classes)
        assert told["preprocessing"] == json.loads(json.dumps(asdict(net.preprocessing)))
    files = ["model.onnx", "model.safetensors", "tasks/xyzw.onnx", "tasks/xyzw.safetensors"]
    assert sorted(described.read(made).files) == files
    assert all(described.content(made, described.read(made), name) for name in files)


def test_onnx_needs_its_libraries(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from layerwise.adapting import exporting

    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(StudyError) as told:
        adapt_to(base, "abc", str(tmp_path / "o"), onnx=True)
    assert str(told.value) == "to write ONNX onnx and onnxscript is needed; pip install 'layerwise[onnx]'"
