"""What clumsy and hostile users do to images, nets and adapted folders: one line with the cure, or no harm done."""

import io
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from layerwise.adapting import adapt as adapting
from layerwise.adapting import described, exporting
from layerwise.adapting.adapt import adapt
from layerwise.adapting.adapted import AdaptedNet, load_adapted
from layerwise.adapting.applying import Applied
from layerwise.adapting.card import _code, _plain
from layerwise.api import probe, study
from layerwise.data import open_data, request_key
from layerwise.data.alike import notes, pairs
from layerwise.data.dataset import COPIES, make, names
from layerwise.data.pictures import Options
from layerwise.errors import DataError, LayersError, LayerwiseError, StoreError, StudyError
from layerwise.images import Images, open_images
from layerwise.nets import architecture, build, named

QUICK: dict[str, Any] = {"rates": (0.1,), "steps": 2, "batch_size": 4, "quiet": True, "executor": "serial"}
NOISE = np.random.default_rng(0)


def pictures(folder: Path, classes: str | list[str], each: int = 5, side: int = 32, colours: int = 1) -> Path:
    """Class folders of noise."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = NOISE.integers(0, 255, (side, side, colours), dtype=np.uint8)
            Image.fromarray(pixels.squeeze()).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey pictures of two classes, weights of LeNet-5, and a net adapted to the pictures, as they come."""
    place = tmp_path_factory.mktemp("rough")
    pictures(place / "ab", "ab")
    save_file(build("lenet5", (1, 32, 32), 10, 7).state_dict(), place / "lenet5.safetensors")
    assert adapted(place, "ab", place / "made") is not None
    return place


def adapted(place: Path, data: str, out: Path, **more: Any) -> AdaptedNet | None:
    asked = {**QUICK, "treatment": "F*R", "store": place / "store", "out": out, **more}
    return adapt(f"lenet5@{place / 'lenet5.safetensors'}", f"folder:{place / data}", **asked)


@pytest.fixture
def made(place: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place / "made", tmp_path / "made"))


# The folder of an adapted net.


def _set(*path: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def change(told: dict[str, Any]) -> None:
        inner: Any = told
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "amiss"),
    [
        (_set("net", to=None), "a net"),
        (_set("net", to=["lenet5"]), "a net"),
        (_set("files", to={"model.safetensors": 1}), "layers or files"),
        (_set("preprocessing", "channels", to=10**9), "a preprocessing"),
        (_set("preprocessing", "height", to=16), "a preprocessing"),
        (_set("preprocessing", "height", to="32"), "a preprocessing"),
        (_set("preprocessing", "resize", to=-3), "a preprocessing"),
        (_set("preprocessing", "mean", to=[]), "a preprocessing"),
        (_set("preprocessing", "mean", to=[None]), "a preprocessing"),
        (_set("preprocessing", "mean", to="abc"), "a preprocessing"),
        (_set("preprocessing", "mean", to=[0.1, 0.2, 0.3]), "a preprocessing"),
        (_set("preprocessing", "std", to=[0.0]), "a preprocessing"),
        (_set("preprocessing", "std", to=[float("nan")]), "a preprocessing"),
        (_set("tasks", 0, "name", to="../../etc"), "tasks"),
        (_set("tasks", 0, "classes", to=None), "tasks"),
        (_set("tasks", 0, "classes", to=[]), "tasks"),
        (_set("tasks", 0, "classes", to=[1, 2]), "tasks"),
        (_set("tasks", 0, "classes", to=["a", "a"]), "tasks"),
        (_set("tasks", 0, "trunk", to=3), "tasks"),
    ],
)
def test_a_description_that_was_tampered_with_is_told(
    made: Path, change: Callable[[dict[str, Any]], None], amiss: str
) -> None:
    told = json.loads((made / "layerwise.json").read_text())
    change(told)
    (made / "layerwise.json").write_text(json.dumps(told))
    with pytest.raises(StoreError) as error:
        load_adapted(made)
    assert str(error.value) == (
        f"{made} is no adapted net (layerwise.json has {amiss} that it cannot have been given); copy the folder again, "
        "or adapt the net again"
    )


def test_a_description_without_end_is_told(made: Path) -> None:
    (made / "layerwise.json").write_text("[" * 100_000)
    with pytest.raises(StoreError, match="it is no JSON"):
        load_adapted(made)


def test_a_description_names_no_folder_of_another_net(made: Path, tmp_path: Path) -> None:
    """`transformers:DIR` would read what lies there: only a folder that the user names is used."""
    pytest.importorskip("transformers")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text('{"model_type": "resnet"}')
    told = json.loads((made / "layerwise.json").read_text())
    told["net"] = f"transformers:{tmp_path / 'theirs'}"
    (made / "layerwise.json").write_text(json.dumps(told))
    with pytest.raises(StudyError, match="such are used only where you name them"):
        load_adapted(made)


def test_a_net_is_where_it_was_when_its_replacement_is_interrupted(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = (made / "model.safetensors").read_bytes(), Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    found = described.read(made)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            described.write(made, found, {"model.safetensors": b"other"}, "card")
    assert (made / "model.safetensors").read_bytes() == before
    assert [path.name for path in made.parent.iterdir()] == ["made"]


def test_an_export_that_fails_leaves_the_net_that_was_trained(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")

    def refuses(net: AdaptedNet) -> bytes:
        raise LayersError("net 'lenet5' cannot be exported to ONNX (why)")

    monkeypatch.setattr(adapting, "exported", refuses)
    with pytest.raises(LayersError) as told:
        adapted(place, "ab", tmp_path / "o", onnx=True)
    assert str(told.value) == (
        f"net 'lenet5' cannot be exported to ONNX (why); the adapted net itself is in {tmp_path / 'o'}"
    )
    assert load_adapted(tmp_path / "o").classes == ("a", "b")


def test_where_an_export_cannot_go_is_told_before_it_is_made(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "exported", lambda net: pytest.fail("exported"))
    for out in (made, made / "no" / "net.onnx"):
        with pytest.raises(StoreError, match="is no file in a folder that is there; name one, such as"):
            exporting.export(made, out=out)


# Names.


def test_names_of_classes_and_files_are_no_markup_and_no_lines_of_their_own(
    place: Path, tmp_path: Path, run: Callable[..., SimpleNamespace]
) -> None:
    odd = ["<img src=x>", "a|b", "new\nline", "t`ick", "[x](y)", "\x1b[31mred", os.fsdecode(b"cl\xff")]
    try:
        pictures(tmp_path / "odd", odd, each=2)
    except OSError:
        pytest.skip("such names are not possible here")
    net = adapt(
        f"lenet5@{place / 'lenet5.safetensors'}", f"folder:{tmp_path / 'odd'}", **QUICK, treatment="F*R",
        store=tmp_path / "s", out=tmp_path / "o", command=["layerwise", "`x`", "<y>"],
    )  # fmt: skip
    assert net is not None
    assert set(load_adapted(tmp_path / "o").classes) == set(odd)
    card = (tmp_path / "o" / "README.md").read_text()
    for text in (r"\<img src=x\>", r"a\|b", "new line", r"t\`ick", r"\[x\](y)", "`` layerwise '`x`' '<y>' ``"):
        assert text in card
    assert not any(line.startswith("line") for line in card.splitlines())
    shown = run("predict", str(tmp_path / "o"), str(tmp_path / "odd"))
    assert (shown.code, len(shown.out.splitlines())) == (0, 1 + 2 * len(odd))
    assert "\x1b" not in shown.out
    told = json.loads(run("predict", str(tmp_path / "o"), str(tmp_path / "odd"), "--json").out)
    assert set(told[0]["probabilities"]) == set(odd)
    assert run("data", f"folder:{tmp_path / 'odd'}").code == 0


def test_text_is_escaped_by_hand() -> None:
    assert _plain("F*R > T*\n<b>") == r"F\*R \> T\* \<b\>"
    assert (_code("x"), _code("a`b"), _code("``")) == ("`x`", "`` a`b ``", "``` `` ```")


# Lists, archives, files.


def test_a_list_may_name_what_no_file_can_be_called(tmp_path: Path) -> None:
    pictures(tmp_path, "ab", 2)
    lines = [f"{name}/{k}.png,{name}" for name in "ab" for k in range(2)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", "x" * 5000 + ",a", *lines]))
    with pytest.raises(DataError, match=r"cannot be read \(File name too long\); 1 of 5 images unreadable"):
        open_data(f"csv:{tmp_path}/list.csv", tmp_path / "cache")
    (tmp_path / "latin.csv").write_bytes("path,label\na/0.png,café\n".encode("latin-1"))
    with pytest.raises(DataError) as told:
        open_data(f"csv:{tmp_path}/latin.csv", tmp_path / "cache")
    assert str(told.value) == f"{tmp_path}/latin.csv is not UTF-8 text (byte 22 is not); save it as such"


def test_a_bomb_is_refused_where_it_is_predicted_too(place: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Pillow warns of more pixels than its limit, and raises at twice as many: both are refused, and nothing warns."""
    net = load_adapted(place / "made")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    for side in (32, 64):
        Image.new("L", (side, side)).save(tmp_path / "bomb.png")
        with pytest.raises(DataError) as told:
            net.predict(tmp_path / "bomb.png")
        assert str(told.value) == f"{tmp_path}/bomb.png has more than 700 pixels"


def test_half_a_picture_that_was_opened_elsewhere_is_told(place: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(NOISE.integers(0, 255, (32, 32), dtype=np.uint8)).save(file, "PNG")
    with pytest.raises(DataError, match="the image is truncated"):
        load_adapted(place / "made").predict(Image.open(io.BytesIO(file.getvalue()[:500])))


def test_an_archive_larger_than_any_memory_is_told(tmp_path: Path) -> None:
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 32, 32)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    with pytest.raises(DataError, match="is damaged, or larger than the memory"):
        open_data(f"npz:{tmp_path}/huge.npz", tmp_path / "cache")


def test_a_folder_for_the_hub_is_read_again_when_it_changes_with_splits_named_too(tmp_path: Path) -> None:
    pictures(tmp_path / "data", "ab", 1)
    before = [request_key("hub", f"{tmp_path}/data{splits}", Options()) for splits in ("", ":train")]
    (tmp_path / "data" / "a" / "new.png").write_bytes(b"x")
    after = [request_key("hub", f"{tmp_path}/data{splits}", Options()) for splits in ("", ":train")]
    assert len({*before, *after}) == 4


def test_a_column_of_text_in_parquet_files_can_group(tmp_path: Path) -> None:
    content = []
    for _ in range(6):
        file = io.BytesIO()
        Image.fromarray(NOISE.integers(0, 255, (8, 8), dtype=np.uint8)).save(file, "PNG")
        content.append({"bytes": file.getvalue(), "path": None})
    rows = {"image": content, "label": [0, 1] * 3, "person": ["ann", "bob", "cy"] * 2, "caption": ["x" * 9] * 6}
    pq.write_table(pa.table(rows), tmp_path / "all.parquet")
    plain, _ = open_data(f"parquet:{tmp_path}", tmp_path / "cache")
    grouped, _ = open_data(f"parquet:{tmp_path}", tmp_path / "cache", groups="person")
    assert plain.columns == {}  # so its digest is what it was before text could be asked for
    assert {key: values.tolist() for key, values in grouped.columns.items()} == {"person": rows["person"]}
    with pytest.raises(DataError, match="the data have no column 'age'"):
        open_data(f"parquet:{tmp_path}", tmp_path / "cache", groups="age")


def test_what_layerwise_left_beside_parquet_files_is_no_data(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    rows = {"image": [{"bytes": file.getvalue(), "path": None}] * 4, "label": [0, 1] * 2}
    for folder, table in ((tmp_path, rows), (tmp_path / "layerwise-out" / "study", {"key": ["a"], "value": [0.5]})):
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), folder / "rows.parquet")
    assert len(open_data(f"parquet:{tmp_path}", tmp_path / "cache")[0].labels) == 4


# Near copies.


def test_a_picture_saved_again_is_almost_alike_and_another_is_not(tmp_path: Path) -> None:
    waves = np.add.outer(np.arange(64), np.arange(64))[None] * np.linspace(0.05, 0.4, 8)[:, None, None]
    first = [Image.fromarray((127 + 90 * np.sin(wave + k)).astype(np.uint8)) for k, wave in enumerate(waves)]
    first[7] = Image.new("L", (64, 64), 90)  # nothing is seen in it, so it is like nothing
    for number, image in enumerate(first):
        (tmp_path / "train" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "train" / "ab"[number % 2] / f"{number}.png")
    for name, number in (("a", 2), ("b", 7), ("b", 1)):
        (tmp_path / "test" / name).mkdir(parents=True, exist_ok=True)
        first[number].resize((48, 48)).resize((64, 64)).save(tmp_path / "test" / name / f"{number}.jpg", quality=50)
    first[2].save(tmp_path / "test" / "b" / "2.png")  # a copy, which is told of as such
    data, place = open_data(f"folder:{tmp_path}", tmp_path.parent / "cache-of-alike")
    called = names(place)
    there = pairs(data.images)
    assert there is not None
    found = {" ".join(sorted(str(Path(called[k]).relative_to(tmp_path)) for k in pair)) for pair in there}
    assert found == {
        "test/a/2.jpg train/a/2.png", "test/b/1.jpg train/b/1.png", "test/b/2.png train/a/2.png",
        "test/a/2.jpg test/b/2.png",
    }  # fmt: skip
    assert COPIES in data.columns
    told = notes(data, called)
    assert told[0].startswith("3 pairs of images are almost alike (such as ")
    assert told[1] == (
        f"CAUTION: 2 pairs of images are almost alike (such as {tmp_path}/test/a/2.jpg and {tmp_path}/train/a/2.png), "
        "and in different parts: what is measured may be too good"
    )
    assert told[2].startswith("1 pair of images is almost alike")


def test_images_that_are_all_alike_cannot_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.linspace(0, 255, 32, dtype=np.uint8)
    images = np.broadcast_to(ramp, (6, 1, 32, 32)).copy()
    images[:, 0, 0, 0] = np.arange(6)
    data = make("ramps", images, np.arange(6) % 2, ["a", "b"])
    assert notes(data) == ["near copies cannot be told: of 6 images more pairs are alike at 16x16 pixels"]
    monkeypatch.setattr("layerwise.data.alike.MOST", 5)
    assert notes(data) == ["near copies were not looked for among 6 images; that is done up to 5"]


# What is asked for.


def test_no_size_and_no_class_are_not_the_same_as_none_said(place: Path, tmp_path: Path) -> None:
    more = {"store": tmp_path / "s", "quiet": True}
    for call in (
        lambda: adapted(place, "ab", tmp_path / "o", resize=0),
        lambda: probe(f"lenet5@{place}/lenet5.safetensors", f"folder:{place}/ab", resize=0, **more),
        lambda: study("gutstein", data=f"folder:{place}/ab", resize=0, **more),
    ):
        with pytest.raises(DataError, match="resize is 0; the side of the images"):
            call()
    with pytest.raises(StudyError, match="classes '' name none"):
        adapted(place, "ab", tmp_path / "o", classes="")


def test_images_are_opened_as_the_net_takes_them(place: Path, tmp_path: Path) -> None:
    """At its own size unless another is asked for, which is told; and grey ones in colour where its weights are."""
    (tmp_path / "mine.py").write_text(
        "import torch\nSIZE = 20\n\n\ndef mine(outputs, channels):\n    return torch.nn.Sequential("
        "torch.nn.Conv2d(channels, 2, 3), torch.nn.Flatten(), torch.nn.LazyLinear(outputs))\n"
    )
    name, asked = named(f"{tmp_path}/mine.py:mine"), Images(f"folder:{place}/ab")
    own = open_images(asked, tmp_path / "cache", name)
    assert (own.data.images.shape[1:], own.asked.resize) == ((1, 20, 20), 20)
    assert own.data.notes == ("images are made 20 x 20, the net's own size; --resize makes them others",)
    save_file(build(name, (3, 16, 16), 4, 0).state_dict(), tmp_path / "colour.safetensors")
    weights = (tmp_path / "colour.safetensors").read_bytes()
    coloured = open_images(Images(asked.data, resize=16), tmp_path / "cache", name, weights)
    assert (coloured.data.images.shape[1:], coloured.data.notes) == ((3, 16, 16), ())


def test_a_grey_trunk_takes_colour_pictures_as_it_would_predict_them(place: Path, made: Path, tmp_path: Path) -> None:
    pictures(tmp_path / "colour", "xy", colours=3)
    net = adapt(None, f"folder:{tmp_path}/colour", **QUICK, onto=made, store=tmp_path / "s")
    assert net is not None
    assert net.predict(tmp_path / "colour" / "x" / "0.png")
    pictures(tmp_path / "large", "xy", side=40)
    with pytest.raises(DataError) as told:
        adapt(None, f"folder:{tmp_path}/large", **QUICK, onto=made, store=tmp_path / "s")
    assert str(told.value) == (
        f"the images are 1x40x40 (channels, height, width), and the trunk in {made} takes 1x32x32, as they come; make "
        "them so yourself, or adapt a net of their own, without --onto"
    )


def test_a_batch_larger_than_the_data_is_told(place: Path, tmp_path: Path) -> None:
    net = adapted(place, "ab", tmp_path / "o", batch_size=1000)
    assert net is not None
    assert net.task.recipes[0]["batch_size"] == 8
    assert "--batch-size 1000: a step has all 8 training images, no more" in net.task.notes


def test_weights_of_another_net_are_told_by_their_file(place: Path, tmp_path: Path) -> None:
    save_file(build("sharma", (1, 32, 32), 10, 0).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(LayersError, match=f"weights '{tmp_path}/other.safetensors' do not fit net 'lenet5'"):
        adapt(f"lenet5@{tmp_path}/other.safetensors", f"folder:{place}/ab", **QUICK, store=tmp_path / "s")


@pytest.mark.parametrize("part", ["net", "treatment", "accuracy", "interval"])
def test_advice_that_was_tampered_with_is_told(place: Path, tmp_path: Path, part: str) -> None:
    advice: dict[str, Any] = {
        "net": "lenet5", "layers": ["C1", "S2", "C3", "S4", "C5", "F6"], "data": {"digest": "x"},
        "recommended": {"treatment": "F5R", "recipes": [{"steps": 2, "batch_size": 4, "rate": 0.1}], "accuracy": 0.5,
                        "interval": [0.4, 0.6]},
    }  # fmt: skip
    (advice if part == "net" else advice["recommended"])[part] = {"not": "this"}
    (tmp_path / "advice.json").write_text(json.dumps(advice))
    more = {"rates": None, "steps": None, "batch_size": None, "treatment": None}
    with pytest.raises(LayerwiseError):
        adapted(place, "ab", tmp_path / "o", advice=tmp_path / "advice.json", **more)


def test_advice_is_for_layers_and_says_so(place: Path, tmp_path: Path) -> None:
    more = {"rates": None, "steps": None, "batch_size": None, "treatment": None}
    with pytest.raises(StudyError, match="--advice has a letter for each layer; leave out --granularity block"):
        adapted(place, "ab", tmp_path / "o", advice=tmp_path / "a.json", granularity="block", **more)


def test_units_of_a_head_of_another_width_are_refused_before_anything_is_trained(place: Path, tmp_path: Path) -> None:
    with pytest.raises(LayersError, match=r"layer 6 'F6' cannot be copied: 'F6\.0\.weight' is \(10, 120\)"):
        adapted(place, "ab", tmp_path / "o", treatment="F5P(0.5,random,F)", dry_run=True)


# Groups.


def listed(place: Path, people: Callable[[str, int], str]) -> Images:
    lines = [f"ab/{name}/{k}.png,{name},{people(name, k)}" for name in "ab" for k in range(5)]
    (place / "list.csv").write_text("\n".join(["path,label,person", *lines]))
    return Images(f"csv:{place / 'list.csv'}", groups="person")


@pytest.mark.parametrize("people", [lambda name, k: name, lambda name, k: "one"])
def test_groups_that_leave_nothing_to_test_on_are_told(
    place: Path, tmp_path: Path, people: Callable[[str, int], str]
) -> None:
    asked = listed(place, people)
    more = {**QUICK, "treatment": "F*R", "store": tmp_path / "s", "out": tmp_path / "o", "groups": "person"}
    with pytest.raises(DataError) as told:
        adapt(f"lenet5@{place}/lenet5.safetensors", asked.data, **more)
    assert str(told.value) == (
        "no image can be tested on: of every class all images are of one person, or linked to the others; pass "
        "--no-test, or other --groups"
    )
    assert adapt(f"lenet5@{place}/lenet5.safetensors", asked.data, **more, no_test=True) is not None


def test_a_class_that_is_one_group_is_told_to_have_no_test_image(place: Path, tmp_path: Path) -> None:
    asked = listed(place, lambda name, k: "one" if name == "a" else str(k))
    more = {**QUICK, "treatment": "F*R", "store": tmp_path / "s", "out": tmp_path / "o", "groups": "person"}
    net = adapt(f"lenet5@{place}/lenet5.safetensors", asked.data, **more)
    assert net is not None
    assert net.task.test is not None
    assert tuple(net.task.test["support"]) == (0, 1)
    assert "1 of 2 classes have no test image (a): all its images are of one person" in net.task.notes


# Nets.


def test_a_folder_of_transformers_that_is_amiss_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    for config, pixels, told in (
        ('{"model_type": "resnet", "hidden_sizes": "abc"}', "{}", "the configuration in '.*' is not one of 'resnet'"),
        ('{"model_type": "resnet"}', '{"image_mean": 5}', "has image_mean 5 and .*; write a number per channel"),
        ('{"hidden_sizes": [1]}', "{}", "has no 'model_type', so it is no net of transformers"),
    ):
        (tmp_path / "config.json").write_text(config)
        (tmp_path / "preprocessor_config.json").write_text(pixels)
        with pytest.raises(StudyError, match=told) as error:
            architecture(f"transformers:{tmp_path}")
        assert "\n" not in str(error.value)


def test_a_net_with_lazy_modules_is_whole_each_time_it_is_built(tmp_path: Path) -> None:
    """Such modules have weights once they have seen an image; the second net of a size used to have none."""
    (tmp_path / "lazy.py").write_text(
        "from torch import nn\n\n\ndef net(outputs):\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(outputs))\n"
    )
    first, second = (build(named(f"{tmp_path}/lazy.py:net"), (1, 8, 8), 3, 5).state_dict() for _ in range(2))
    assert second["1.weight"].shape == (3, 64)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_file_that_would_end_the_program_is_told(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(StudyError, match=r"cannot be loaded \(SystemExit: 3\)"):
        architecture(f"{tmp_path}/ends.py:net")


def test_a_callback_is_of_the_lightning_that_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both may be installed, and a trainer of one knows no callback of the other."""
    from layerwise import callbacks

    theirs = {name: SimpleNamespace(Callback=type(name, (), {})) for name in ("lightning.pytorch", "pytorch_lightning")}
    monkeypatch.setattr(callbacks, "find_spec", lambda name: name)
    monkeypatch.setattr(callbacks, "import_module", lambda name: theirs[name])
    applied = Applied.__new__(Applied)
    for used in theirs:
        for name in theirs:
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setitem(sys.modules, used, theirs[used])
        assert isinstance(callbacks.lightning(applied), theirs[used].Callback)
