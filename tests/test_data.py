"""Readers of data: what they give, what they say when they cannot, and a cache that never lies."""

import gzip
import io
import json
import re
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from layerwise.data import READERS, DataSet, load, make, open_data, save
from layerwise.data.dataset import COPIES, cached
from layerwise.data.folder import natural
from layerwise.data.pictures import Options, decode, fit, luma
from layerwise.errors import DataError, StoreError

SHARED = Path(__file__).parents[2] / "shared" / "data"


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not beside the project")
    return SHARED / name


def says(text: str) -> Any:
    """An error with exactly this text."""
    return pytest.raises(DataError, match=f"^{re.escape(text)}$")


def tiny(**changes: Any) -> DataSet:
    """Four images of two classes."""
    parts: dict[str, Any] = {
        "name": "tiny",
        "images": np.arange(16, dtype=np.uint8).reshape(4, 1, 2, 2),
        "labels": np.array([0, 1, 0, 1]),
        "class_names": ("cat", "dog"),
        "columns": {"writer": np.array([7, 7, 8, 8])},
        "class_columns": {"kind": ("wild", "tame")},
    }
    return make(**(parts | changes))


def picture(colour: Any = "red", size: tuple[int, int] = (4, 4), mode: str = "RGB", form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, form)
    return buffer.getvalue()


def noise(side: int = 32, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(buffer, form)
    return buffer.getvalue()


def photos(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


# ---- the value: digest, checks, saving


def test_digest_is_known() -> None:
    """A golden value: it stands in every stored run's key, so it may not change between versions or machines."""
    assert tiny().digest == "4169a03774dc4750"


@pytest.mark.parametrize(
    "changes",
    [
        {"images": np.arange(1, 17, dtype=np.uint8).reshape(4, 1, 2, 2)},
        {"images": np.arange(16, dtype=np.uint8).reshape(4, 2, 2, 1)},
        {"labels": np.array([0, 1, 1, 1])},
        {"class_names": ("cat", "cow")},
        {"columns": {}},
        {"columns": {"writer": np.array([7, 7, 8, 9])}},
        {"columns": {"person": np.array([7, 7, 8, 8])}},
        {"columns": {"writer": np.array([7.0, 7, 8, 8])}},
        {"class_columns": {"kind": ("wild", "wild")}},
    ],
)
def test_digest_changes_with_any_content(changes: dict[str, Any]) -> None:
    assert tiny(**changes).digest != tiny().digest


@pytest.mark.parametrize("pixel", range(16))
def test_digest_changes_with_any_pixel(pixel: int) -> None:
    images = np.arange(16, dtype=np.uint8)
    images[pixel] ^= 1
    assert tiny(images=images.reshape(4, 1, 2, 2)).digest != tiny().digest


def test_digest_is_of_contents_not_of_names_or_types() -> None:
    assert tiny(name="other", notes=("a note",)).digest == tiny().digest
    assert tiny(labels=np.array([0, 1, 0, 1], np.int32)).digest == tiny().digest
    assert tiny(columns={"writer": np.array([7, 7, 8, 8], np.int16)}).digest == tiny().digest
    texts = [np.array(["train", "test", "test", "test"], kind) for kind in ("U5", "U10")]
    assert tiny(columns={"split": texts[0]}).digest == tiny(columns={"split": texts[1]}).digest


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"class_names": ("cat",)}, "tiny: there is only one class, 'cat'; at least 2 classes are needed"),
        ({"class_names": ()}, "tiny: there is no class; at least 2 classes are needed"),
        (
            {"class_names": ("cat", "cat")},
            "tiny: class name 'cat' stands for more than one class; class names must differ",
        ),
        ({"images": np.zeros((0, 1, 2, 2), np.uint8), "labels": np.zeros(0)}, "tiny: there are no images"),
        ({"labels": np.array([0, 1, 0])}, "tiny: 4 images but 3 labels; each image needs one"),
        (
            {"labels": np.array([0, 1, 2, -1])},
            "tiny: 2 of 4 labels lie outside 0-1 (the first is 2, of example 2); "
            "remove these examples or name more classes",
        ),
        (
            {"images": np.zeros((4, 2, 2))},
            "tiny: images are float64 (4, 2, 2); they must be uint8 (examples, channels, height, width)",
        ),
        ({"columns": {"writer": np.arange(3)}}, "tiny: column 'writer' has 3 values for 4 images"),
        (
            {"columns": {"writer": np.array([None] * 4)}},
            "tiny: column 'writer' is of type object; it must hold numbers or text",
        ),
        (
            {"columns": {"split": np.array(["train", "dev", "test", "test"])}},
            "tiny: column 'split' has 'dev'; it may hold train, validation, test: rename the column",
        ),
        ({"class_columns": {"kind": ("wild",)}}, "tiny: class column 'kind' has 1 values for 2 classes"),
    ],
)
def test_what_does_not_fit_together(changes: dict[str, Any], text: str) -> None:
    with says(text):
        tiny(**changes)


def same(a: DataSet, b: DataSet) -> None:
    """Raises where two data sets differ in anything."""
    np.testing.assert_array_equal(a.images, b.images)
    np.testing.assert_array_equal(a.labels, b.labels)
    assert (a.name, a.class_names, a.class_columns, a.digest, a.notes) == (
        *(b.name, b.class_names, b.class_columns, b.digest, b.notes),
    )
    assert list(a.columns) == list(b.columns)
    for key in a.columns:
        np.testing.assert_array_equal(a.columns[key], b.columns[key])


def test_saved_is_loaded_as_it_was(tmp_path: Path) -> None:
    columns = {"split": np.array(["train", "test", "test", "train"]), "naïve/../x": np.array([0.5, np.nan, 1, 2])}
    dataset = tiny(columns=columns, class_names=("Katze", "犬"), notes=("one note",))
    save(dataset, tmp_path / "deep" / "folder")
    found = load(tmp_path / "deep" / "folder")
    same(found, dataset)
    assert isinstance(found.images, np.memmap)
    assert not found.images.flags.writeable
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["folder"]


def test_many_savers_of_one_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(save, tiny(), tmp_path / "folder") for _ in range(40)]:
            future.result()
    same(load(tmp_path / "folder"), tiny())
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_open_maps_outlive_a_replacement(tmp_path: Path) -> None:
    save(tiny(), tmp_path / "folder")
    before = load(tmp_path / "folder")
    save(tiny(labels=np.array([1, 1, 0, 0])), tmp_path / "folder")
    same(before, tiny())
    assert load(tmp_path / "folder").labels.tolist() == [1, 1, 0, 0]


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"^the data cache .*file/folder cannot be written"):
        save(tiny(), tmp_path / "file" / "folder")


def test_loading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^the data cache .* is damaged or missing .*; open the data again$"):
        load(tmp_path)


# ---- locators and the cache


def test_unknown_name(tmp_path: Path) -> None:
    known = "csv, digits, folder, glyphs, hub, mnist, npz, omniglot, parquet, stimuli"
    with says(f"unknown data 'glyph'; did you mean 'glyphs'? (known: {known})"):
        open_data("glyph", tmp_path)
    (tmp_path / "photos").mkdir()
    with says(f"'{tmp_path / 'photos'}' is a folder and no kind of data; write folder:{tmp_path / 'photos'}"):
        open_data(str(tmp_path / "photos"), tmp_path)


@pytest.mark.parametrize("name", ["mnist", "npz", "parquet", "folder"])
def test_path_is_needed_and_must_exist(name: str, tmp_path: Path) -> None:
    form = READERS[name].form
    with says(f"data '{name}' needs a path: write {form}"):
        open_data(name, tmp_path)
    with says(f"{tmp_path}/nowhere does not exist; {form} needs an existing path"):
        open_data(f"{name}:{tmp_path}/nowhere", tmp_path)


def test_file_where_a_folder_is_needed_and_the_reverse(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with says(f"{tmp_path}/file is a file; folder:DIR needs a folder"):
        open_data(f"folder:{tmp_path}/file", tmp_path)
    with says(f"{tmp_path} is a folder; npz:FILE needs a file"):
        open_data(f"npz:{tmp_path}", tmp_path)


@pytest.mark.parametrize("argument", ["many", "0", "5:0:1", "-5", "5:", "²", "100000"])
def test_glyphs_that_cannot_be_counted(argument: str, tmp_path: Path) -> None:
    with says(
        f"'glyphs:{argument}' is not glyphs:PER_CLASS:SEED, two whole numbers such as glyphs:500:0 "
        "(at most 99999 per class)"
    ):
        open_data(f"glyphs:{argument}", tmp_path)


def test_digits_take_nothing(tmp_path: Path) -> None:
    with says("'digits:5': digits takes nothing after its name; write digits"):
        open_data("digits:5", tmp_path)


@pytest.mark.parametrize("side", [0, -3, 100_000])
def test_resize_must_be_sensible(side: int, tmp_path: Path) -> None:
    with says(f"resize is {side}; the side of the images in pixels must be from 1 to 4096"):
        open_data("digits", tmp_path, resize=side)


def test_every_reader_tells_its_form_and_what_it_is() -> None:
    assert all(reader.form.partition(":")[0] == name for name, reader in READERS.items())
    assert all(reader.help and "\n" not in reader.help for reader in READERS.values())


def test_glyphs_open_by_count_and_seed(tmp_path: Path) -> None:
    three, folder = open_data("glyphs:3", tmp_path)
    same(three, load(folder))
    assert (three.name, three.images.shape, len(three.class_names)) == ("glyphs:3", (186, 1, 32, 32), 62)
    assert np.bincount(three.labels).tolist() == [3] * 62


def test_glyphs_have_500_of_each_class_and_seed_0_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerwise.data.glyphs.CHARACTERS", "01")  # to be quick
    digests = {
        one: open_data(one, tmp_path)[0].digest for one in ("glyphs", "glyphs:500", "glyphs:500:0", "glyphs:500:1")
    }
    assert digests["glyphs"] == digests["glyphs:500"] == digests["glyphs:500:0"] != digests["glyphs:500:1"]


def test_digits_are_scaled_to_bytes(tmp_path: Path) -> None:
    dataset, _ = open_data("digits", tmp_path)
    assert dataset.images.shape == (1797, 1, 8, 8)
    assert dataset.images[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # 0 0 5 13 9 1 0 0 of 16
    assert dataset.labels[:10].tolist() == list(range(10))


def test_second_time_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, folder = open_data("digits", tmp_path)
    monkeypatch.setattr("layerwise.data.READERS", {"digits": READERS["mnist"].__class__("digits", "", _never)})
    second, again = open_data("digits", tmp_path)
    assert folder == again
    assert folder.parent == tmp_path
    assert re.fullmatch("[0-9a-f]{16}", folder.name)
    same(first, second)


def _never(*_: object) -> DataSet:
    raise AssertionError("read again")


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "meta.json", "column0.npy"])
@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        _flip,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: path.write_bytes(b"{}"),
    ],
    ids=["removed", "flipped", "emptied", "cut", "replaced"],
)
def test_damaged_cache_is_rebuilt(name: str, harm: Callable[[Path], object], tmp_path: Path) -> None:
    file = npz(tmp_path, writer=np.array([1, 2, 3, 4]))
    first, folder = open_data(f"npz:{file}", tmp_path / "cache")
    harm(folder / name)
    second, again = open_data(f"npz:{file}", tmp_path / "cache")
    assert folder == again
    same(second, load(folder))
    assert second.digest == first.digest
    np.testing.assert_array_equal(second.columns["writer"], [1, 2, 3, 4])
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_what_runs_of_your_own_have_cached_is_rebuilt(tmp_path: Path) -> None:
    """Bug: an images.npy that a power cut had cut short made train_all and advise fail for ever."""
    data, _ = open_data(f"npz:{npz(tmp_path)}", tmp_path / "cache")
    folder = cached(data, tmp_path / "own")
    before = (folder / "images.npy").stat().st_ino
    assert (cached(data, folder) / "images.npy").stat().st_ino == before
    (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:-3])
    same(load(cached(data, folder)), data)


def test_changed_file_is_read_again_and_options_are_kept_apart(tmp_path: Path) -> None:
    file, cache = npz(tmp_path), tmp_path / "cache"
    plain, grey = open_data(f"npz:{file}", cache), open_data(f"npz:{file}", cache, grey=True)
    assert plain[1] != grey[1]
    time.sleep(0.01)  # so that the time of change differs
    npz(tmp_path, labels=np.array([1, 0, 1, 0]))
    changed = open_data(f"npz:{file}", cache)
    assert changed[1] != plain[1]
    assert changed[0].labels.tolist() == [1, 0, 1, 0]


def test_digest_does_not_depend_on_the_path(tmp_path: Path) -> None:
    files = {"cat/1.png": picture("red"), "dog/1.png": picture("blue")}
    other = {"cat/x.png": picture("red"), "dog/y.png": picture("blue")}
    a, b = photos(tmp_path / "a", files), photos(tmp_path / "b", other)
    assert opened(a)[0].digest == opened(b)[0].digest


# ---- npz


def npz(folder: Path, **changes: Any) -> Path:
    arrays = {"images": np.arange(16, dtype=np.uint8).reshape(4, 2, 2), "labels": np.array([0, 1, 0, 1])} | changes
    np.savez(folder / "mine.npz", **{key: values for key, values in arrays.items() if values is not None})
    return folder / "mine.npz"


def opened_npz(folder: Path, **changes: Any) -> DataSet:
    return open_data(f"npz:{npz(folder, **changes)}", folder / "cache")[0]


def test_npz_with_names_and_columns(tmp_path: Path) -> None:
    names = np.array(["cat", "dog", "cow"])
    dataset = opened_npz(tmp_path, class_names=names, writer=np.arange(4), other=np.arange(5), table=np.ones((4, 2)))
    assert (dataset.name, dataset.class_names, list(dataset.columns)) == ("npz", ("cat", "dog", "cow"), ["writer"])
    np.testing.assert_array_equal(dataset.images[:, 0], np.arange(16).reshape(4, 2, 2))


def test_npz_labels_become_positions(tmp_path: Path) -> None:
    dataset = opened_npz(tmp_path, labels=np.array([30, -1, 7, 30], np.int16))
    assert (dataset.labels.tolist(), dataset.class_names) == ([2, 0, 1, 2], ("-1", "7", "30"))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_npz_fractions_are_scaled_and_rounded(kind: type, tmp_path: Path) -> None:
    values = np.array([0, 0.25, 0.5, 1], kind).reshape(4, 1, 1)
    assert opened_npz(tmp_path, images=values).images.ravel().tolist() == [0, 64, 128, 255]


def test_npz_channels_first_and_last_are_the_same_data(tmp_path: Path) -> None:
    first = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6), np.uint8)
    a, b = opened_npz(tmp_path, images=first), opened_npz(tmp_path, images=first.transpose(0, 2, 3, 1))
    assert a.digest == b.digest
    np.testing.assert_array_equal(a.images, first)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"labels": np.arange(3)}, "has 4 images but 3 labels; each image needs one"),
        (
            {"images": None, "extra": np.ones(3)},
            "has no array 'images' (it has extra, labels); save it with np.savez(FILE, images=..., labels=...)",
        ),
        (
            {"images": np.zeros((4, 3, 5, 1), np.uint8)},
            ": images are (4, 3, 5, 1): axis 1 and axis 3 could both be the channels; drop one",
        ),
        (
            {"images": np.zeros((4, 5, 5, 2), np.uint8)},
            ": images are (4, 5, 5, 2); they must be (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1 or 3",
        ),
        (
            {"images": np.zeros((4, 5, 5), np.int32)},
            ": images are int32; save them as uint8, or as fractions from 0 to 1",
        ),
        (
            {"images": np.array([0, np.nan, np.inf, 1.5]).reshape(4, 1, 1)},
            ": 3 pixels are not numbers from 0 to 1 (NaN, infinite or out of range), the first in example 1; "
            "clean them, or save the images as uint8",
        ),
        (
            {"labels": np.eye(4)},
            ": labels are float64 (4, 4); they must be whole numbers, one per image (labels.argmax(1) of one-hot "
            "codes, labels.astype(int) of fractions)",
        ),
        (
            {"labels": np.array([0, 1, None, 1])},
            ": array 'labels' holds Python objects, which could run code when read; save it as numbers or text, such "
            "as np.array(labels.tolist())",
        ),
    ],
)
def test_npz_that_cannot_be_used(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    with says(f"{tmp_path}/mine.npz{'' if text.startswith(':') else ' '}{text}"):
        opened_npz(tmp_path, **changes)


def test_npz_with_one_class(tmp_path: Path) -> None:
    with says("npz: there is only one class, '5'; at least 2 classes are needed"):
        opened_npz(tmp_path, labels=np.full(4, 5))


def test_npz_never_runs_what_is_pickled(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "harmed",)

    with pytest.raises(DataError, match="array 'extra' holds Python objects"):
        opened_npz(tmp_path, extra=np.array([Harm()]))
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("content", [b"", b"PK\3\4 nothing", b"\x93NUMPY"])
def test_npz_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.npz").write_bytes(content)
    with says(f"{tmp_path}/mine.npz is truncated or not an npz file; save it again with np.savez"):
        open_data(f"npz:{tmp_path}/mine.npz", tmp_path)


def test_npz_cut_or_damaged_anywhere(tmp_path: Path) -> None:
    """Whatever byte is lost or changed, it is a DataError or the same data, never another exception."""
    raw = npz(tmp_path).read_bytes()
    wanted = open_data(f"npz:{tmp_path}/mine.npz", tmp_path / "cache")[0].digest
    file = tmp_path / "harmed.npz"
    for position in range(0, len(raw), 7):
        for content in (raw[:position], raw[:position] + bytes([raw[position] ^ 0xFF]) + raw[position + 1 :]):
            file.write_bytes(content)
            with suppress(DataError):
                assert READERS["npz"].read(file, Options()).digest == wanted


# ---- mnist


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def four_files(folder: Path, pack: Callable[[bytes], bytes] = bytes, suffix: str = "") -> Path:
    folder.mkdir()
    pixels = np.arange(20).reshape(5, 2, 2)
    for start, part in (("train", slice(0, 3)), ("t10k", slice(3, 5))):
        (folder / f"{start}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(pixels[part])))
        (folder / f"{start}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(np.array([9, 0, 3, 4, 7])[part])))
    return folder


def test_mnist_zipped_or_not(tmp_path: Path) -> None:
    plain, _ = open_data(f"mnist:{four_files(tmp_path / 'plain')}", tmp_path)
    packed, _ = open_data(f"mnist:{four_files(tmp_path / 'packed', gzip.compress, '.gz')}", tmp_path)
    assert plain.digest == packed.digest
    np.testing.assert_array_equal(plain.images, np.arange(20).reshape(5, 1, 2, 2))
    assert plain.labels.tolist() == [9, 0, 3, 4, 7]
    assert plain.class_names == tuple("0123456789")
    assert plain.columns["split"].tolist() == ["train"] * 3 + ["test"] * 2


def test_mnist_lacks_a_file(tmp_path: Path) -> None:
    folder = four_files(tmp_path / "mnist")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with says(
        f"{folder} has no t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz; mnist:DIR needs the four classic IDX "
        "files in one folder"
    ):
        open_data(f"mnist:{folder}", tmp_path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", " is not an IDX file of bytes with 3 axes (it begins with nothing, not 00000803); fetch it again"),
        (
            idx(np.arange(3)),
            " is not an IDX file of bytes with 3 axes (it begins with 00000801, not 00000803); fetch it again",
        ),
        (idx(np.zeros((3, 2, 2)))[:-5], " holds 23 bytes where its header tells of 28; fetch it again"),
    ],
)
def test_mnist_damaged(content: bytes, text: str, tmp_path: Path) -> None:
    folder = four_files(tmp_path / "mnist")
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    with says(f"{folder}/train-images-idx3-ubyte{text}"):
        open_data(f"mnist:{folder}", tmp_path)


@pytest.mark.parametrize("harm", [lambda raw: raw[:-9], lambda raw: b"no gzip", lambda raw: raw[:12] + b"\xff" * 9])
def test_mnist_damaged_gzip(harm: Callable[[bytes], bytes], tmp_path: Path) -> None:
    folder = four_files(tmp_path / "mnist", gzip.compress, ".gz")
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(DataError, match=rf"^{file} is truncated or damaged \(.*\); fetch it again$"):
        open_data(f"mnist:{folder}", tmp_path)


def test_mnist_counts_differ(tmp_path: Path) -> None:
    folder = four_files(tmp_path / "mnist")
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.array([1, 2])))
    with says(f"{folder}: 3 train images but 2 labels; fetch the files again"):
        open_data(f"mnist:{folder}", tmp_path)


# ---- pictures: colour, size, damage


def pixels(content: bytes, **options: Any) -> np.ndarray:
    return decode(content, Options(**options))


def test_grey_is_itu_601_luma_also_in_arrays() -> None:
    """Our luma of arrays and Pillow's of pictures agree on every pixel."""
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    expected = np.asarray(Image.fromarray(colours).convert("L"))
    np.testing.assert_array_equal(luma(colours.transpose(2, 0, 1)[None])[0, 0], expected)
    assert pixels(picture((200, 100, 50)), grey=True)[0, 0, 0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


def test_transparent_is_white_and_16_bits_become_8() -> None:
    assert pixels(picture((0, 0, 0, 0), mode="RGBA"))[:, 0, 0].tolist() == [255, 255, 255]
    assert pixels(picture((10, 20, 30, 255), mode="RGBA"))[:, 0, 0].tolist() == [10, 20, 30]
    assert pixels(picture((7, 0), mode="LA")).tolist() == [[[255] * 4] * 4]
    assert pixels(picture(65535, mode="I;16")).tolist() == [[[255] * 4] * 4]
    assert pixels(picture(257 * 9, mode="I;16"))[0, 0, 0] == 9


def test_pictures_are_turned_upright() -> None:
    image = Image.fromarray(np.array([[0, 255]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    assert pixels(buffer.getvalue()).tolist() == [[[0], [255]]]


def test_resize_takes_the_square_in_the_middle() -> None:
    wide = np.zeros((4, 12), np.uint8)
    wide[:, 4:8] = np.arange(0, 160, 10).reshape(4, 4)
    wide[:, :4] = wide[:, 8:] = 255
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "PNG")
    np.testing.assert_array_equal(pixels(buffer.getvalue(), resize=4)[0], wide[:, 4:8])


def test_resize_is_antialiased_and_equal_for_arrays_and_pictures() -> None:
    board = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    buffer = io.BytesIO()
    Image.fromarray(board.astype(np.uint8)).save(buffer, "PNG")
    small = pixels(buffer.getvalue(), resize=8)
    assert abs(small[0, 1:-1, 1:-1].astype(int) - 127.5).max() < 2, "a fine chequerboard becomes even grey"
    np.testing.assert_array_equal(fit(board[None, None].astype(np.uint8), Options(resize=8))[0], small)


# ---- folder


def opened(folder: Path, **options: Any) -> tuple[DataSet, Path]:
    return open_data(f"folder:{folder}", folder.parent / "cache", **options)


PAIR = {"cat/1.png": picture("red"), "dog/1.png": picture("blue")}


def test_folder_of_class_folders(tmp_path: Path) -> None:
    files = {f"class{n}/{k}.png": picture((n, k, 0)) for n in (10, 2, 1) for k in (10, 9)}
    junk = {"class1/.DS_Store": b"x", ".git/x/1.png": b"x", "README.txt": b"x", "class1/.hidden/1.png": b"x"}
    dataset, _ = opened(photos(tmp_path / "photos", files | junk))
    assert dataset.class_names == ("class1", "class2", "class10")
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(dataset.images[:, :2, 0, 0], [[1, 9], [1, 10], [2, 9], [2, 10], [10, 9], [10, 10]])
    assert (dataset.columns, dataset.notes, dataset.name) == ({}, (), "folder")


@pytest.mark.parametrize("valid", ["val", "valid", "validation", "Val", "dev"])
def test_folder_of_parts(valid: str, tmp_path: Path) -> None:
    parts = ("test", "train", valid)
    files = {f"{part}/{name}": content for part in parts for name, content in PAIR.items()}
    dataset, _ = opened(photos(tmp_path / "photos", files))
    by_part = dict(zip(dataset.columns["split"].tolist(), dataset.labels.tolist(), strict=True))
    assert sorted(by_part) == ["test", "train", "validation"]
    assert dataset.labels.tolist() == [0, 1] * 3
    assert dataset.class_names == ("cat", "dog")


def test_folder_grey_among_colour(tmp_path: Path) -> None:
    files = {"a/1.png": picture(9, mode="L"), "a/2.png": picture("red"), "b/1.png": picture(7, mode="L")}
    dataset, _ = opened(photos(tmp_path / "photos", files))
    assert dataset.images[:, :, 0, 0].tolist() == [[9, 9, 9], [255, 0, 0], [7, 7, 7]]
    grey, _ = opened(tmp_path / "photos", grey=True)
    assert grey.images[:, :, 0, 0].tolist() == [[9], [76], [7]]


def test_folder_of_different_sizes(tmp_path: Path) -> None:
    sizes = [(40, 30), (50, 60), (70, 20)]
    files = {f"{name}/1.png": picture(size=size) for name, size in zip("abc", sizes, strict=True)}
    folder = photos(tmp_path / "photos", files)
    with says(
        f"images have different sizes: {folder}/a/1.png is 40x30, {folder}/b/1.png is 50x60; "
        "--resize 30 makes them alike"
    ):
        opened(folder)
    assert opened(folder, resize=30)[0].images.shape == (3, 3, 30, 30)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty (0 bytes)"),
        (b"a note on the pictures", "is not an image that can be read"),
        (noise()[:-300], f"is truncated (its {len(noise()) - 300:,} bytes end inside the image)"),
        (
            noise(form="PNG")[:-300],
            f"is truncated (its {len(noise(form='PNG')) - 300:,} bytes end inside the image)",
        ),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "is not an image that can be read"),
    ],
    ids=["empty", "text", "jpeg", "png", "postscript"],
)
def test_folder_with_an_unreadable_file(content: bytes, complaint: str, tmp_path: Path) -> None:
    good = {f"{name}/{number}.png": noise(form="PNG") for name in ("cat", "dog") for number in (1, 2)}
    folder = photos(tmp_path / "photos", good | {"cat/7.jpg": content})
    with says(f"{folder}/cat/7.jpg {complaint}; 1 of 5 images unreadable. Remove it or pass --skip-unreadable"):
        opened(folder)
    dataset, _ = opened(folder, skip_unreadable=True)
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.notes[0] == f"1 unreadable image was skipped (the first: {folder}/cat/7.jpg {complaint})"
    assert dataset.reading.unreadable == (f"{folder}/cat/7.jpg {complaint}",)


def test_folder_with_several_unreadable_files(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", PAIR | {"cat/0.png": b"", "dog/notes.txt": b"x", "dog/t.csv": b"a,b"})
    with says(
        f"{folder}/cat/0.png is empty (0 bytes); 3 of 5 images unreadable. Remove them or pass --skip-unreadable"
    ):
        opened(folder)
    dataset, _ = opened(folder, skip_unreadable=True)
    assert dataset.notes == (f"3 unreadable images were skipped (the first: {folder}/cat/0.png is empty (0 bytes))",)
    assert dataset.images[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]


def test_folder_with_nothing_readable(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", {"cat/1.png": b"", "dog/1.png": b""})
    with says(f"{folder}/cat/1.png is empty (0 bytes); 2 of 2 images unreadable: there is nothing to read"):
        opened(folder, skip_unreadable=True)


def test_folder_with_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    folder = photos(tmp_path / "photos", PAIR | {"dog/2.png": picture(size=(40, 30))})
    with says(
        f"{folder}/dog/2.png has more than 1,000 pixels; 1 of 3 images unreadable. Remove it or pass --skip-unreadable"
    ):
        opened(folder)


NEEDS = "folder:DIR needs a folder for each class with its pictures in it, such as DIR/cat/1.jpg"


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], f"DIR has no class folders; {NEEDS}"),
        (["1.png"], f"DIR has no class folders; {NEEDS}"),
        (["cat/1.png"], "DIR has only one class folder, 'cat'; at least 2 classes are needed"),
        (["cat/", "dog/"], f"DIR has class folders but no files in them; {NEEDS}"),
        (["cat/1.png", "dog/", "emu/.x"], "class folder 'dog' in DIR is empty; remove it or put pictures into it"),
        (
            ["train/cat/1.png", "train/dog/1.png", "test/1.png"],
            "part 'test' of DIR has no class folders; sort its pictures into class folders or move it elsewhere",
        ),
        (
            ["train/cat/1.png", "train/dog/1.png", "extra/1.png"],
            "DIR has the part 'train' and beside it 'extra'; "
            "keep either class folders or only train, val and test in it",
        ),
    ],
)
def test_folder_that_cannot_be_used(names: Sequence[str], text: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    photos(folder, {name: picture() for name in names if not name.endswith("/")})
    for name in names:
        if name.endswith("/"):
            (folder / name).mkdir()
    with says(
        text.replace("DIR has", f"{folder} has")
        .replace("in DIR is", f"in {folder} is")
        .replace("of DIR", f"of {folder}")
    ):
        opened(folder)


def test_natural_order() -> None:
    names = ["10", "9", "a10b", "a9b", "B", "a", "01", "1"]
    assert sorted(names, key=natural) == ["01", "1", "9", "10", "B", "a", "a9b", "a10b"]


# ---- parquet


def rows(file: Path, columns: dict[str, Any], names: Sequence[str] | None = None) -> Path:
    file.parent.mkdir(exist_ok=True)
    table = pa.table(columns)
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(names)}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file)
    return file.parent


def structs(*contents: bytes | None) -> list[dict[str, Any] | None]:
    return [None if content is None else {"bytes": content, "path": "x.png"} for content in contents]


RED, BLUE = picture("red"), picture("blue")


def opened_parquet(path: Path, **options: Any) -> DataSet:
    return open_data(f"parquet:{path}", path.parent / "cache", **options)[0]


def test_parquet_of_two_parts_with_names(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    rows(folder / "train-0.parquet", {"image": structs(RED, BLUE), "label": [1, 0], "writer": [5, 6]}, "ab")
    rows(folder / "validation-0.parquet", {"image": structs(BLUE), "label": [0], "writer": [7]}, "ab")
    dataset = opened_parquet(folder)
    assert dataset.class_names == ("a", "b")
    assert dataset.labels.tolist() == [1, 0, 0]
    assert dataset.images[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255], [0, 0, 255]]
    assert dataset.columns["split"].tolist() == ["train", "train", "validation"]
    assert dataset.columns["writer"].tolist() == [5, 6, 7]


def test_parquet_of_bytes_and_words(tmp_path: Path) -> None:
    folder = rows(tmp_path / "data" / "mine.parquet", {"img": [RED, BLUE, RED], "label": ["dog", "cat", "dog"]})
    dataset = opened_parquet(folder)
    assert (dataset.class_names, dataset.labels.tolist()) == (("cat", "dog"), [1, 0, 1])
    assert list(dataset.columns) == [COPIES]
    assert dataset.columns[COPIES].tolist() == [0, 1, 0]
    assert opened_parquet(folder / "mine.parquet").digest == dataset.digest


def test_parquet_with_a_table_of_classes(tmp_path: Path) -> None:
    names = ["n1", "n2", "n3"]
    folder = rows(tmp_path / "data" / "x.parquet", {"image": structs(RED, BLUE, RED), "label": [0, 1, 2]}, names)
    lines = ["label,words,kind", '2,"crane, bird",natural', '0,"crane, machine",made', '1,"owl",natural']
    (folder / "classes.csv").write_text("\n".join(lines))
    dataset = opened_parquet(folder)
    assert dataset.class_names == ("crane (n1)", "owl", "crane (n3)")
    assert dataset.class_columns == {
        "words": ("crane, machine", "owl", "crane, bird"),
        "kind": ("made", "natural", "natural"),
    }
    (folder / "classes.csv").write_text("label,kind\nn1,a\nn3,c\n")
    with says(f"{folder}/classes.csv has no line for class 'n1'; add it or remove the file"):
        opened_parquet(folder)
    (folder / "classes.csv").write_text("name,kind\nn1,a\n")
    with says(
        f"{folder}/classes.csv has no column 'label'; add one with the name or position of each class, "
        "or remove the file"
    ):
        opened_parquet(folder)
    (folder / "classes.csv").write_text("label,kind\nn3,c\nn1,a\nn2,b\n")
    assert opened_parquet(folder).class_columns == {"kind": ("a", "b", "c")}


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"label": [0, 1]}, "FOLDER: no image column among label; name the column 'image'"),
        ({"image": [RED, BLUE]}, "FOLDER: no label column among image; name the column 'label'"),
        (
            {"a": [RED, BLUE], "b": [RED, BLUE], "label": [0, 1]},
            "FOLDER: more than one column could be the image (a, b) among a, b, label; name the column 'image'",
        ),
        (
            {"image": [RED, BLUE], "x": [0, 1], "y": [0, 1]},
            "FOLDER: more than one column could be the label (x, y) among image, x, y; name the column 'label'",
        ),
        (
            {"image": [RED, BLUE], "label": [0, None]},
            "FOLDER: 1 rows have no 'label' (the first is row 1); remove them",
        ),
        (
            {"image": structs(RED, None), "label": [0, 1]},
            "row 1 of FOLDER/x.parquet is empty; 1 of 2 images unreadable. Remove it or pass --skip-unreadable",
        ),
        (
            {"image": [RED, picture(size=(8, 6))], "label": [0, 1]},
            "images have different sizes: row 0 of FOLDER/x.parquet is 4x4, row 1 of FOLDER/x.parquet is 8x6; "
            "--resize 4 makes them alike",
        ),
        (
            {"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())},
            "FOLDER: the parquet files have no rows",
        ),
    ],
)
def test_parquet_that_cannot_be_used(columns: dict[str, Any], text: str, tmp_path: Path) -> None:
    folder = rows(tmp_path / "data" / "x.parquet", columns)
    with says(text.replace("FOLDER", str(folder))):
        opened_parquet(folder)


def test_parquet_unlabelled_rows_of_a_published_test_part(tmp_path: Path) -> None:
    folder = rows(tmp_path / "data" / "x.parquet", {"image": structs(RED, BLUE), "label": [0, -1]}, "ab")
    with says(
        "parquet: 1 of 2 labels lie outside 0-1 (the first is -1, of example 1); "
        "remove these examples or name more classes"
    ):
        opened_parquet(folder)


def test_parquet_files_of_different_kinds(tmp_path: Path) -> None:
    rows(tmp_path / "data" / "a.parquet", {"image": [RED], "label": [0]})
    folder = rows(tmp_path / "data" / "b.parquet", {"image": [RED], "target": [0]})
    with says(f"{folder}/b.parquet has no column 'label', a.parquet has; keep files of one kind in {folder}"):
        opened_parquet(folder)


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_parquet_cut_short(keep: int, tmp_path: Path) -> None:
    folder = rows(tmp_path / "data" / "x.parquet", {"image": [RED, BLUE], "label": [0, 1]})
    file = folder / "x.parquet"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"^{file} is truncated or not a parquet file \(.*\); fetch it again$"):
        opened_parquet(folder)


def test_parquet_folder_without_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with says(f"{tmp_path}/data has no parquet files; parquet:DIR needs files such as train-00000-of-00001.parquet"):
        opened_parquet(tmp_path / "data")


# ---- real data


def test_real_mnist(tmp_path: Path) -> None:
    dataset, _ = open_data(f"mnist:{shared('mnist')}", tmp_path)
    assert dataset.images.shape == (70_000, 1, 28, 28)
    assert dataset.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert dataset.labels[60_000:60_005].tolist() == [7, 2, 1, 0, 4]
    assert np.unique(dataset.columns["split"], return_counts=True)[1].tolist() == [10_000, 60_000]
    train = dataset.labels[dataset.columns["split"] == "train"]
    assert np.bincount(train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert dataset.images[:60_000].mean() / 255 == pytest.approx(0.1307, abs=5e-5)  # the figure everyone normalises by


def test_real_cifar10(tmp_path: Path) -> None:
    file = shared("cifar10/test-00000-of-00001.parquet")
    dataset, _ = open_data(f"parquet:{file}", tmp_path)
    assert dataset.images.shape == (10_000, 3, 32, 32)
    assert np.bincount(dataset.labels).tolist() == [1000] * 10
    assert dataset.class_names[:3] == ("airplane", "automobile", "bird")
    assert set(dataset.columns["split"].tolist()) == {"test"}
    column = pq.read_table(file, columns=["img"])["img"]
    for row in (0, 4711, 9999):
        with Image.open(io.BytesIO(column[row].as_py()["bytes"])) as image:
            np.testing.assert_array_equal(dataset.images[row].transpose(1, 2, 0), np.asarray(image))


def test_real_tiny_imagenet(tmp_path: Path) -> None:
    dataset, _ = open_data(f"parquet:{shared('tiny_imagenet')}", tmp_path)
    assert dataset.images.shape == (18_750, 3, 64, 64)
    kinds = dataset.class_columns["kind"]
    assert (kinds.count("man-made"), kinds.count("natural")) == (96, 54)
    assert dataset.class_names[:3] == ("goldfish", "European fire salamander", "bullfrog")
    assert dataset.class_columns["wnid"][0] == "n01443537"
    train = dataset.columns["split"] == "train"
    assert np.bincount(dataset.labels[train]).tolist() == [100] * 150
    assert np.bincount(dataset.labels[~train]).tolist() == [25] * 150
    assert set(dataset.columns["split"][~train].tolist()) == {"validation"}


def test_real_chars74k(tmp_path: Path) -> None:
    dataset, _ = open_data(f"npz:{shared('chars74k/chars74k_hnd.npz')}", tmp_path)
    assert dataset.images.shape == (3410, 1, 32, 32)
    assert "".join(dataset.class_names) == "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    pairs = set(zip(dataset.labels.tolist(), dataset.columns["writer"].tolist(), strict=True))
    assert pairs == {(label, writer) for label in range(62) for writer in range(55)}


def test_what_layerwise_left_in_a_folder_is_no_class(tmp_path: Path) -> None:
    """Bug: in a folder of class folders, the report and the store of the last study were read as classes."""
    for name in ("ant", "bee", "layerwise-out", "layerwise-store", "__MACOSX"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    for name in ("ant", "bee"):
        Image.new("L", (8, 8)).save(tmp_path / "photos" / name / "1.png")
    found, _ = open_data(f"folder:{tmp_path / 'photos'}", tmp_path / "cache")
    assert found.class_names == ("ant", "bee")
