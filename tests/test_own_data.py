"""A user's own data: csv lists, the hub's library, Omniglot's archive, copies, groups by file names, what is told."""

import io
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from layerwise.cli import app
from layerwise.data import open_data
from layerwise.data.copies import checked, superfluous
from layerwise.data.dataset import COPIES, DataSet, make
from layerwise.data.pictures import Options, decode
from layerwise.data.summary import summary
from layerwise.errors import DataError


def says(text: str) -> Any:
    """An error with exactly this text."""
    return pytest.raises(DataError, match=f"^{re.escape(text)}$")


def picture(shade: int, size: tuple[int, int] = (4, 4), mode: str = "RGB", form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    grey = Image.new("L", size, shade)
    grey.convert(mode).save(buffer, form)
    return buffer.getvalue()


def files(root: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def opened(locator: str, folder: Path, **options: Any) -> DataSet:
    return open_data(locator, folder / "cache", **options)[0]


def shades(data: DataSet) -> list[int]:
    return data.images[:, 0, 0, 0].tolist()


# ---- csv


PHOTOS = {f"photos/{k}.png": picture(10 * k) for k in range(1, 5)}


def listed(folder: Path, text: str, **options: Any) -> DataSet:
    files(folder, PHOTOS)
    (folder / "list.csv").write_text(text)
    return opened(f"csv:{folder}/list.csv", folder, **options)


def test_a_list_with_columns_and_parts(tmp_path: Path) -> None:
    text = (
        "person,label,path,age,split\nanna,dog,photos/2.png,7,dev\n\nben,cat2,photos/1.png,8,Train\n"
        '"anna, jr",cat10,photos/4.png,-1,test\n'
    )
    data = listed(tmp_path, text)
    assert (shades(data), data.labels.tolist(), data.class_names) == ([20, 10, 40], [2, 0, 1], ("cat2", "cat10", "dog"))
    assert {key: values.tolist() for key, values in data.columns.items()} == {
        "person": ["anna", "ben", "anna, jr"], "age": [7, 8, -1], "split": ["validation", "train", "test"],
    }  # fmt: skip
    assert data.columns["age"].dtype == np.int64


@pytest.mark.parametrize(
    "text",
    [
        "path,label\nphotos/1.png,a\nphotos/3.png,b\n",
        "photos/1.png,a\nphotos/3.png,b\n",
        "\ufefffile_name;class\nphotos/1.png;a\nphotos/3.png;b\n",
        "this\tthat\nphotos/1.png\ta\nphotos/3.png\tb\n",
        "target, image\na, photos/1.png\nb, photos/3.png\n",
    ],
    ids=["named", "no heads", "semicolons", "tabs and other heads", "the other way round"],
)
def test_the_ways_to_write_a_list(text: str, tmp_path: Path) -> None:
    data = listed(tmp_path, text)
    assert (shades(data), data.labels.tolist(), data.class_names) == ([10, 30], [0, 1], ("a", "b"))


NEEDS = "csv:FILE needs a line for each picture with its path and its label, such as photos/1.jpg,cat"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"FILE has no lines; {NEEDS}"),
        ("photos/1.png\nphotos/2.png\n", f"FILE has only one column; {NEEDS}"),
        ("path,label\n", f"FILE has no lines below its heads; {NEEDS}"),
        (
            "path,label\nphotos/1.png,a,b\n",
            "FILE: line 2 has 3 values for 2 columns; put commas in a value between quotes",
        ),
        ("path,label\nphotos/1.png,a\nphotos/2.png,\n", "FILE: line 3 has no label; add it, or remove the line"),
        ("path,label,label\nx,y,z\n", "FILE has two columns 'label'; rename one"),
        (
            "path,label,split\nphotos/1.png,a,train\nphotos/2.png,b,extra\n",
            "FILE: column 'split' has 'extra'; it may hold train, training, val, valid, validation, dev, test, "
            "testing: correct or rename it",
        ),
        (
            "path,label\nphotos/1.png,a\nphotos/9.png,b\n../../etc/hosts,b\n",
            "DIR/photos/9.png cannot be read (No such file or directory); 2 of 3 images unreadable. Remove them or "
            "pass --skip-unreadable",
        ),
    ],
)
def test_lists_that_cannot_be_used(text: str, message: str, tmp_path: Path) -> None:
    with says(message.replace("FILE has", f"{tmp_path}/list.csv has").replace("FILE: ", f"{tmp_path}/list.csv: ")
              .replace("DIR", str(tmp_path))):  # fmt: skip
        listed(tmp_path, text)


def test_a_list_counts_what_it_skips_and_is_read_again_where_a_picture_changes(tmp_path: Path) -> None:
    text = "path,label,n\nphotos/1.png,a,5\nphotos/none.png,a,6\nphotos/3.png,b,7\nphotos,b,8\n"
    data = listed(tmp_path, text, skip_unreadable=True)
    assert (shades(data), data.labels.tolist(), data.columns["n"].tolist()) == ([10, 30], [0, 1], [5, 7])
    assert data.reading.unreadable == (
        f"{tmp_path}/photos/none.png cannot be read (No such file or directory)",
        f"{tmp_path}/photos cannot be read (Is a directory)",
    )
    assert data.notes[0].startswith("2 unreadable images were skipped")
    (tmp_path / "photos/3.png").write_bytes(picture(99, form="BMP"))
    assert shades(opened(f"csv:{tmp_path}/list.csv", tmp_path, skip_unreadable=True)) == [10, 99]


# ---- folders: what telephones, cameras and desktops leave in them


def test_a_folder_as_users_have_it(tmp_path: Path) -> None:
    """All kinds of pictures become one array of upright squares, the middle of each; a note says so."""
    upright = Image.new("RGB", (8, 4), "red")
    exif = Image.Exif()
    exif[274] = 6  # turned to the right
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", exif=exif)
    frames = io.BytesIO()
    first, *others = (Image.new("RGB", (6, 4), colour) for colour in ("blue", "red", "red"))
    first.save(frames, "GIF", save_all=True, append_images=others)
    deep = io.BytesIO()
    Image.fromarray(np.full((5, 4), 0x8080, np.uint16)).save(deep, "PNG")
    contents = {
        "a/turned.jpg": buffer.getvalue(), "a/moving.gif": frames.getvalue(), "b/deep.png": deep.getvalue(),
        "b/print.jpg": picture(200, (4, 6), "CMYK", "JPEG"), "b/clear.png": picture(9, (4, 4), "RGBA"),
        "a/Thumbs.db": b"x", "b/desktop.ini": b"x", "b/.DS_Store": b"x",
    }  # fmt: skip
    data = opened(f"folder:{files(tmp_path / 'x', contents)}", tmp_path, resize=4)
    assert data.images.shape == (5, 3, 4, 4)
    near = np.abs(data.images.mean((2, 3)) - [[0, 0, 255], [254, 0, 0], [9, 9, 9], [128] * 3, [200] * 3])
    assert near.max() < 3
    assert data.reading.sizes == {"6x4": 1, "4x8": 1, "4x4": 1, "4x5": 1, "4x6": 1}
    assert data.notes == (
        "images of 5 sizes (6x4 is the most frequent, 1 times) became 4x4: the square in the middle, scaled",
        "1 grey image is among 4 in colour; grey becomes three equal channels",
    )
    alone = decode(tmp_path / "x/a/turned.jpg", Options(resize=4))  # as for a prediction
    assert np.array_equal(alone, data.images[1])


@pytest.mark.parametrize(("brand", "kind"), [(b"heic", "HEIC"), (b"mif1", "HEIF"), (b"avif", "AVIF")])
def test_pictures_of_telephones_are_told_by_their_kind(brand: bytes, kind: str, tmp_path: Path) -> None:
    contents = {"a/1.png": picture(1), "b/1.heic": b"\0\0\0\x18ftyp" + brand + b"\0" * 40}
    root = files(tmp_path / "x", contents)
    with says(
        f"{root}/b/1.heic is a {kind} picture, which is not read here; save it as JPEG or PNG; 1 of 2 images "
        "unreadable. Remove it or pass --skip-unreadable"
    ):
        opened(f"folder:{root}", tmp_path)


def test_more_than_there_is_memory_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 150})())
    root = files(tmp_path / "x", {"a/1.png": picture(1), "b/1.png": picture(2)})
    assert opened(f"folder:{root}", tmp_path, grey=True).images.nbytes == 32
    contents = {f"{name}/{k}.png": picture(k, (8, 8)) for name in "ab" for k in (1, 2)}
    root = files(tmp_path / "y", contents)
    with says("4 images of 8x8 take 0.0 GB, and 0.0 GB are free; pass a smaller --resize, such as --resize 224"):
        opened(f"folder:{root}", tmp_path)


# ---- groups by the names of files


def test_groups_by_an_expression_for_paths(tmp_path: Path) -> None:
    names = ["cat/P1_a.png", "cat/P2_a.png", "dog/P10_b.png", "dog/P1_b.png"]
    root = files(tmp_path / "x", {name: picture(k) for k, name in enumerate(names)})
    data = opened(f"folder:{root}", tmp_path, groups=r"/(P\d+)_")
    assert data.columns["group"].tolist() == ["P1", "P2", "P1", "P10"]
    (tmp_path / "list.csv").write_text("\n".join(f"x/{name},{name[:3]}" for name in names))
    data = opened(f"csv:{tmp_path}/list.csv", tmp_path, groups=r"/(P\d+)_")
    assert data.columns["group"].tolist() == ["P1", "P2", "P10", "P1"]


@pytest.mark.parametrize(
    ("locator", "groups", "message"),
    [
        ("folder:X", "(Q)", "--groups '(Q)' finds nothing in cat/1.png, as in 2 of 2 paths; correct it, or the names"),
        ("folder:X", "(?:c)", "--groups '(?:c)' has no part in round brackets; put those around the group's name"),
        (
            "folder:X", "(", "--groups '(' is not a regular expression (missing ), unterminated subpattern at position "
            "0); such as '(P[0-9]+)_'",
        ),
        ("folder:X", "person", "--groups person: the data have no column 'person' (they have: none)"),
        (
            "digits", "(a)", "--groups '(a)' is for folder: and csv:, whose files have paths; name a column of digits",
        ),
    ],
)  # fmt: skip
def test_groups_that_are_not_there(locator: str, groups: str, message: str, tmp_path: Path) -> None:
    root = files(tmp_path / "x", {"cat/1.png": picture(1), "dog/1.png": picture(2)})
    with says(message):
        opened(locator.replace("X", str(root)), tmp_path, groups=groups)


# ---- Omniglot's archive


def drawing(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (5, 5), shade).save(buffer, "PNG")
    return buffer.getvalue()


def archive(folder: Path, contents: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(folder / "images.zip", "w", how) as made:
        for name, content in contents.items():
            made.writestr(name, content)
    return folder / "images.zip"


def test_omniglot_by_hand(tmp_path: Path) -> None:
    contents = {
        "images/Greek/character02/0394_10.png": drawing(1), "images/Greek/character02/0394_02.png": drawing(0),
        "images/Latin/character01/0683_01.png": drawing(1), "__MACOSX/Latin/character01/._0683_01.png": b"x",
        "images/README.txt": b"x", "../../Evil/character01/0001_01.png": drawing(1),
        "/etc/character01/0001_01.png": drawing(1), "../character01/0001_01.png": drawing(1),
    }  # fmt: skip
    before = set(tmp_path.parent.rglob("*"))
    data = opened(f"omniglot:{archive(tmp_path, contents)}", tmp_path)
    assert data.class_names == ("Greek/character02", "Latin/character01")
    assert (shades(data), data.labels.tolist()) == ([0, 255, 255], [0, 0, 1])
    assert data.columns["drawer"].tolist() == [2, 10, 1]
    assert data.columns["alphabet"].tolist() == ["Greek", "Greek", "Latin"]
    assert data.class_columns == {"alphabet": ("Greek", "Latin")}
    made = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.parent.rglob("*")) - before}
    assert made == {"images.zip", "cache"}  # nothing was unpacked anywhere


def test_archives_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = "omniglot:ZIP needs the archive as published, such as images_background.zip"
    name = "Greek/character01/0001_01.png"
    bomb = archive(tmp_path, {name: b"\0" * 50_000_000})
    assert bomb.stat().st_size < 60_000
    with says(f"{bomb}: {name} unpacks to more than 100,000 bytes; {needs}"):
        opened(f"omniglot:{bomb}", tmp_path)
    nothing = archive(tmp_path, {"Greek/0001_01.png": drawing(1)})
    with says(f"{nothing} has no drawings named ALPHABET/characterNN/NNNN_DD.png; {needs}"):
        opened(f"omniglot:{nothing}", tmp_path)
    monkeypatch.setattr("layerwise.data.omniglot.MOST_FILES", 1)
    many = archive(tmp_path, {name: drawing(1), name.replace("1.", "2."): drawing(0)})
    with says(f"{many} has 2 drawings, more than Omniglot's 32,460; {needs}"):
        opened(f"omniglot:{many}", tmp_path)
    for content in (b"", b"no archive", many.read_bytes()[:-40]):
        many.write_bytes(content)
        with pytest.raises(DataError, match=r"images.zip is damaged or not a zip archive \(.*\); fetch it again$"):
            opened(f"omniglot:{many}", tmp_path)


def test_a_large_picture_in_a_small_archive(tmp_path: Path) -> None:
    """Pictures of many pixels that compress to nothing: the memory they would take is looked at first."""
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    contents = {f"Greek/character{k % 2}1/0001_{k}.png": buffer.getvalue() for k in range(5_000)}
    assert len(buffer.getvalue()) < 100_000
    path = archive(tmp_path, dict.fromkeys(contents, buffer.getvalue()))
    with pytest.raises(
        DataError, match=r"^5,000 images of 9000x9000 take 405\.0 GB, and .* GB are free; pass a smaller"
    ):
        opened(f"omniglot:{path}", tmp_path)


def test_real_omniglot(shared: Callable[[str], Path], tmp_path: Path) -> None:
    data = opened(f"omniglot:{shared('omniglot/images_background_small1.zip')}", tmp_path)
    assert data.images.shape == (2720, 1, 105, 105)
    assert np.bincount(data.labels).tolist() == [20] * 136
    assert set(data.class_columns["alphabet"]) == {"Balinese", "Early_Aramaic", "Greek", "Korean", "Latin"}
    assert np.bincount(data.columns["drawer"]).tolist() == [0] + [136] * 20
    assert set(np.unique(data.images).tolist()) == {0, 255}
    assert data.images.mean() > 200  # black on white


# ---- the hub's library, without a network


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return library


def test_a_folder_by_the_hubs_library_is_what_ours_reads(datasets: Any, tmp_path: Path) -> None:
    names = {f"{part}/{name}/{k}.png": picture(20 * k + len(part) + ord(name[0]) % 5)
             for part in ("train", "test") for name in ("cat", "dog") for k in (1, 2)}  # fmt: skip
    root = files(tmp_path / "x", names)
    theirs, ours = opened(f"hub:{root}", tmp_path), opened(f"folder:{root}", tmp_path)
    assert (theirs.name, theirs.class_names) == ("hub", ("cat", "dog"))
    for part in ("train", "test"):
        at = [data.columns["split"] == part for data in (theirs, ours)]
        assert np.array_equal(theirs.images[at[0]], ours.images[at[1]])
        assert np.array_equal(theirs.labels[at[0]], ours.labels[at[1]])
    only = opened(f"hub:{root}:test", tmp_path)
    assert set(only.columns["split"].tolist()) == {"test"}
    assert only.notes == (f"split train of hub:{root} is not used",)
    with says(f"hub:{root} has no split 'dev'; it has train, test"):
        opened(f"hub:{root}:dev", tmp_path)
    (root / "train/cat/3.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"^row 2 of train of hub:.* is not an image that can be read; 1 of 9 images"):
        opened(f"hub:{root}", tmp_path)


def test_a_folder_of_parquet_by_the_hubs_library(datasets: Any, tmp_path: Path) -> None:
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"]), "hand": datasets.Value("string")}
    )
    rows = {
        "img": [{"bytes": picture(k), "path": None} for k in (1, 2, 3)],
        "label": [1, 0, 1],
        "hand": ["l", "r", "l"],
    }
    (tmp_path / "x").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "x/train.parquet")
    data = opened(f"hub:{tmp_path}/x", tmp_path)
    assert (shades(data), data.labels.tolist(), data.class_names) == ([1, 2, 3], [1, 0, 1], ("x", "y"))
    assert {key: values.tolist() for key, values in data.columns.items()} == {"hand": ["l", "r", "l"]}


def test_the_hub_out_of_reach_is_one_line(datasets: Any, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^hub:nobody/nothing cannot be loaded \(.*\); check its name and the network$"
    ) as told:
        opened("hub:nobody/nothing", tmp_path)
    assert "\n" not in str(told.value)
    with says("data 'hub' needs a name: write hub:NAME, such as hub:ylecun/mnist, or hub:FOLDER"):
        opened("hub", tmp_path)


def test_the_hub_without_its_library_or_with_one_that_runs_scripts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DataError, match=r"^hub:a/b needs the library `datasets` \(.*\); pip install 'layerwise\[hub\]'$"
    ):
        opened("hub:a/b", tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", type("Old", (), {"__version__": "3.6.0"})())
    with says(
        "hub:a/b needs `datasets` 4 or later, which runs no scripts, and 3.6.0 is installed; "
        "pip install --upgrade datasets"
    ):
        opened("hub:a/b", tmp_path)


# ---- copies


def shaded(values: list[int], split: list[str] | None = None, labels: list[int] | None = None) -> DataSet:
    images = np.array(values, np.uint8)[:, None, None, None].repeat(2, 2).repeat(2, 3)
    columns = {"split": np.array(split)} if split else {}
    return make("some", images, np.array(labels or [k % 2 for k in range(len(values))]), ["cat", "dog"], columns)


def test_copies_by_hand() -> None:
    data = shaded([5, 6, 5, 7, 5], labels=[0, 1, 0, 1, 1])
    found = checked(data)
    assert found.columns[COPIES].tolist() == [0, 1, 0, 3, 0]
    assert found.digest == data.digest  # it follows from the images
    assert found.notes == (
        "2 images are copies of another, pixel for pixel (such as image 0 and image 2); where images are parted at "
        "random, copies stay on one side; --drop-duplicates leaves all but one out",
        "equal images are in different classes, 1 in all: image 0 is 'cat', image 4 is 'dog'",
    )
    fewer = checked(data, drop=True)
    assert (shades(fewer), fewer.labels.tolist(), fewer.columns) == ([5, 6, 7], [0, 1, 1], {})
    assert fewer.digest == shaded([5, 6, 7], labels=[0, 1, 1]).digest
    assert fewer.notes == ("2 copies were left out: 3 of 5 images are used",)
    assert checked(shaded([1, 2, 3])).notes == ()


SPLIT = ["train", "train", "validation", "test", "test", "train", "train"]


def test_copies_across_published_parts_are_told_loudly() -> None:
    found = checked(shaded([1, 2, 2, 1, 1, 3, 3], SPLIT, [0, 1, 1, 0, 0, 1, 1]))
    assert found.notes == (
        "CAUTION: 2 of 2 test images are in train too, pixel for pixel (such as image 0 and image 3): what is measured "
        "on test is too good; --drop-duplicates leaves them out of train",
        "CAUTION: 1 of 1 validation images is in train too, pixel for pixel (such as image 1 and image 2): what is "
        "measured on validation is too good; --drop-duplicates leaves them out of train",
        "2 images are copies of another, pixel for pixel (such as image 3 and image 4); "
        "--drop-duplicates leaves all but one out",
    )


def test_what_is_dropped_is_never_of_the_test_part() -> None:
    same, split = np.array([0, 1, 1, 0, 0, 5, 5]), np.array(SPLIT)
    assert superfluous(same, split).tolist() == [True, True, False, False, False, False, True]
    assert superfluous(np.array([0, 0, 0]), np.array(["validation", "test", "validation"])).tolist() == [
        True,
        False,
        True,
    ]
    assert superfluous(np.arange(7), split).tolist() == [False] * 7


def test_copies_are_found_when_data_are_opened(tmp_path: Path) -> None:
    """The same file, and the same pixels in another kind of file; data that are drawn are not looked at."""
    root = tmp_path / "x"
    files(root, {"train/cat/1.png": picture(7), "train/dog/1.png": picture(9), "test/cat/2.bmp": picture(7, form="BMP"),
                 "test/dog/2.png": picture(8)})  # fmt: skip
    data = opened(f"folder:{root}", tmp_path)
    assert data.notes[0].startswith(
        f"CAUTION: 1 of 2 test images is in train too, pixel for pixel (such as {root}/train/cat/1.png and "
        f"{root}/test/cat/2.bmp)"
    )
    assert sorted(shades(opened(f"folder:{root}", tmp_path, drop_duplicates=True))) == [7, 8, 9]
    shutil.copy(root / "test/dog/2.png", root / "test/dog/3.png")
    assert len(opened(f"folder:{root}", tmp_path, drop_duplicates=True).images) == 4


# ---- what is told


def test_a_summary_by_hand(tmp_path: Path) -> None:
    contents = {f"train/cat/{k}.png": picture(k) for k in range(6)} | {"train/dog/9.png": picture(77, (8, 4)),
                "test/dog/1.png": picture(50), "test/dog/2.png": picture(50), "test/cat/bad.png": b"x"}  # fmt: skip
    root = files(tmp_path / "x", contents)
    told = CliRunner().invoke(app, ["data", f"folder:{root}"]).output
    data = opened(f"folder:{root}", tmp_path, resize=4, skip_unreadable=True)
    assert (
        told
        == f"""data        folder:{root}
images      9, 4x4 colour
sizes       4x4 (8), 8x4 (1); sizes differ: pass --resize N; shown as by --resize 4
classes     2, of 3 to 6 images
imbalance   'cat' has 2.0 times the images of 'dog'; to always say 'cat' is 66.7% right
parts       train 7 (1 to 6 a class), test 2 (0 to 2 a class)
duplicates  1
unreadable  1 of 10
digest      {data.digest}

class  images  train  test
cat    6       6      0
dog    3       1      2

Notes:
  images of 2 sizes (4x4 is the most frequent, 8 times) became 4x4: the square in the middle, scaled
  1 image is a copy of another, pixel for pixel (such as {root}/test/dog/1.png and {root}/test/dog/2.png)\
; --drop-duplicates leaves all but one out

Unreadable:
  {root}/test/cat/bad.png is not an image that can be read
"""
    )
    again = CliRunner().invoke(app, ["data", f"folder:{root}", "--resize", "4", "--drop-duplicates"]).output
    assert "duplicates  1\n" in again
    assert "  the test part has 1 copy of its own images, and is left as published\n" in again


def test_a_summary_of_arrays_names_columns_and_kinds() -> None:
    columns = {"writer": np.array([3, 4, 3, 4, 5, 6, 7, 8])}
    data = make("x", np.arange(32, dtype=np.uint8).reshape(8, 1, 2, 2), np.arange(8) % 2, ["a", "b"], columns,
                {"kind": ["wild", "tame"]})  # fmt: skip
    lines = dict(summary(data).lines)
    assert lines["columns"] == "writer (6 values: 3, 4, 5, 6, 7, ...)"
    assert lines["of classes"] == "kind (tame, wild)"
    assert (lines["imbalance"], lines["duplicates"], lines["images"]) == ("none", "none", "8, 2x2 grey")
    assert "sizes" not in lines
    assert summary(data).classes == (("a", "4"), ("b", "4"))
