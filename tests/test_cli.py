"""The command line and the calls from Python: whole messages, exit codes, and that nothing is lost."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import layerwise
from layerwise.cli.options import NET_NAMES
from layerwise.data.dataset import make
from layerwise.errors import StudyError
from layerwise.nets import NETS
from layerwise.randomness import canonical
from layerwise.run import Recipe, Run, key, key_of
from layerwise.store import Store
from layerwise.studies import STUDIES
from layerwise.studies.request import Request, available, fit_parts
from layerwise.tasks import Task
from layerwise.treatment import Treatment

COMMAND = Path(sys.executable).with_name("layerwise")
TINY = ["--experiments", "levels", "--seeds", "1", "--shots", "1,2", "--steps", "20", "--source-steps", "20"]
GOOD = ["--data", "npz:good.npz", *TINY]
HOSTILE = ("<script>alert(1)</script>", '"quoted"', "a'b", "&amp;", "new\nline", "\x1b[31mred", "x,y", "p-q")
LABELS = np.repeat(np.arange(8), 10)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh folder with a good data set of 8 classes; commands find it by `npz:good.npz`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    before = signal.getsignal(signal.SIGINT)
    save("good.npz")
    yield
    signal.signal(signal.SIGINT, before)


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


def save(name: str, images: np.ndarray | None = None, labels: np.ndarray = LABELS, **more: np.ndarray) -> None:
    np.savez(name, images=pixels(80, 32, 32) if images is None else images, labels=labels, **more)


def process(*words: str, **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([COMMAND, *words], capture_output=True, text=True, timeout=120, **options)  # type: ignore


MISTAKES = {
    "unknown study": (
        ["gutstien"],
        f"StudyError: unknown study 'gutstien'; did you mean 'gutstein'? (known: {', '.join(sorted(STUDIES))})",
    ),
    "unknown net": (
        ["gutstein", *GOOD, "--net", "lenet"],
        f"StudyError: unknown net 'lenet'; did you mean 'lenet5'? (known: {', '.join(sorted(NETS))})",
    ),
    "weights": (
        ["yosinski", *GOOD, "--net", "small8@mine.safetensors"],
        "StudyError: --net small8@mine.safetensors: a study trains its own sources, as for each seed they must know "
        "other classes than its targets; pass --net small8, or look at these weights with: layerwise probe "
        "small8@mine.safetensors DATA",
    ),
    "unknown data": (
        ["gutstein", "--data", "digit"],
        "DataError: unknown data 'digit'; did you mean 'digits'? "
        "(known: csv, digits, folder, glyphs, hub, mnist, npz, omniglot, parquet, stimuli)",
    ),
    "unknown scale": (["gutstein", *GOOD, "--scale", "papre"],
        "StudyError: unknown scale 'papre'; did you mean 'paper'? (known: demo, paper)"),
    "unknown executor": (["gutstein", *GOOD, "--executor", "locl"],
        "StudyError: unknown executor 'locl'; did you mean 'local'? (known: cluster, local, serial)"),
    "an address for this machine": (["gutstein", *GOOD, "--address", "auto"],
        "StudyError: --address auto is for --executor cluster; pass both, or neither"),
    "nobody there": (["gutstein", *GOOD, "--executor", "cluster", "--address", "127.0.0.1:1"],
        "StudyError: --address 127.0.0.1:1: no cluster answers at 127.0.0.1:1 ([Errno 111] Connection refused); "
        "start one with `ray start --head`, or pass --address local for a private one"),
    "no address": (["gutstein", *GOOD, "--executor", "cluster", "--address", "here"],
        "StudyError: --address 'here' is none of auto, local, HOST:PORT, ray://HOST:PORT"),
    "unknown option": (["gutstein", "--sedes", "3"],
        "UsageError: No such option: --sedes (Possible options: --classes, --seeds, --steps) "
        "(see `layerwise study --help`)"),
    "no study": ([], "UsageError: Missing argument 'NAME'. (see `layerwise study --help`)"),
    "no number": (["gutstein", "--resize", "abc"],
        "UsageError: Invalid value for '--resize': 'abc' is not a whole number (see `layerwise study --help`)"),
    "no path": (["gutstein", "--data", "npz"], "DataError: data 'npz' needs a path: write npz:FILE"),
    "no file": (["gutstein", "--data", "npz:nosuch.npz"],
        "DataError: nosuch.npz does not exist; npz:FILE needs an existing path"),
    "nobody's home": (["gutstein", "--data", "npz:~nosuchuser/x"],
        "DataError: '~nosuchuser/x' is no path (Could not determine home directory.); npz:FILE needs an existing one"),
    "shots in words": (["gutstein", *GOOD, "--shots", "a"],
        "StudyError: --shots 'a' is not a list of whole numbers such as 1,5,10"),
    "shots of nothing": (["gutstein", *GOOD, "--shots", ""],
        "StudyError: --shots '' is not a list of whole numbers such as 1,5,10"),
    "no shots": (["gutstein", *GOOD, "--shots", "5,0"], "StudyError: --shots 0,5 is not possible; the least is 1"),
    "shots twice": (["gutstein", *GOOD, "--shots", "1,1"],
        "StudyError: --shots 1,1 names a number twice; name each once"),
    "no seeds": (["gutstein", *GOOD, "--seeds", "0"], "StudyError: --seeds 0 is not possible; the least is 1"),
    "no steps": (["gutstein", *GOOD, "--steps", "0"], "StudyError: --steps 0 is not possible; the least is 1"),
    "no source steps": (["gutstein", *GOOD, "--source-steps", "0"],
        "StudyError: --source-steps 0 is not possible; the least is 1"),
    "no workers": (["gutstein", *GOOD, "--workers", "0"], "StudyError: --workers 0 is not possible; the least is 1"),
    "too many shots": (["gutstein", *GOOD, "--shots", "1,20"],
        "StudyError: --shots 20: the smallest class has 8 training images; ask for at most that"),
    "no such class": (["gutstein", *GOOD, "--classes", "cat"],
        "StudyError: unknown class 'cat'; there are 8 classes: 0, 1, 2, 3, 4, 5, 6, 7"),
    "too few classes": (["gutstein", *GOOD, "--classes", "0-1"],
        "StudyError: 2 classes cannot be split into source and target; at least 4 are needed"),
    "one known class": (["gutstein", *GOOD, "--known", "0"],
        "StudyError: --known 0 gives the source 1 classes and the target 7; both need 2"),
    "known, left out": (["gutstein", *GOOD, "--known", "0-3", "--classes", "2-7"],
        "StudyError: --known 0-3 has class '0', which --classes 2-7 leaves out; name it in both"),
    "known and split": (["gutstein", *GOOD, "--known", "0-3", "--split", "random:1"],
        "StudyError: --known fixes the source's classes and --split draws them; pass one of them"),
    "odd split": (["gutstein", *GOOD, "--split", "half"],
        "StudyError: --split 'half' is not understood; --split is random:SEED or column:NAME"),
    "no class column": (["gutstein", *GOOD, "--split", "column:kind"],
        "StudyError: --split column:kind: the classes have no column 'kind' (they have: none)"),
    "no column": (["gutstein", *GOOD, "--hold-out", "writer:4"],
        "StudyError: --hold-out 'writer:4' is not COLUMN:VALUES of the data, such as writer:40-54 (columns: none)"),
    "store in a file": (["gutstein", *GOOD, "--store", "good.npz"],
        "StoreError: store good.npz cannot be written (Not a directory); pass another --store"),
    "store below a file": (["gutstein", *GOOD, "--store", "good.npz/x"],
        "StoreError: store good.npz/x cannot be written (Not a directory); pass another --store"),
    "out in a file": (["gutstein", *GOOD, "--out", "good.npz"],
        "StudyError: --out good.npz cannot be written (File exists); pass another"),
    "out below a file": (["gutstein", *GOOD, "--out", "good.npz/x"],
        "StudyError: --out good.npz/x cannot be written (Not a directory); pass another"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    run: Callable[..., SimpleNamespace], words: list[str], message: str
) -> None:
    found = run("study", *words)
    assert found.err == message + "\n"
    assert (found.code, found.out) == (2, "")


FLAWED = {
    "one class": (
        lambda: save("x.npz", labels=LABELS * 0),
        "DataError: npz: there is only one class, '0'; at least 2 classes are needed",
    ),
    "three classes": (
        lambda: save("x.npz", labels=LABELS % 3),
        "StudyError: 3 classes cannot be split into source and target; at least 4 are needed",
    ),
    "class without images": (
        lambda: save("x.npz", class_names=np.array([f"c{k}" for k in range(10)])),
        "DataError: class 'c8' (0 in all) has no image to train on, as have 2 of 10 classes; add some, or choose "
        "others with --classes",
    ),
    "one image a class": (
        lambda: save("x.npz", pixels(8, 32, 32), np.arange(8)),
        "DataError: class '0' (1 in all) has no image to train on, as have 8 of 8 classes; add some, or choose "
        "others with --classes",
    ),
    "fewer labels": (
        lambda: save("x.npz", labels=LABELS[:70]),
        "DataError: x.npz has 80 images but 70 labels; each image needs one",
    ),
    "labels outside": (
        lambda: save("x.npz", labels=LABELS - 1, class_names=np.array(list("abcdefgh"))),
        "DataError: npz: 10 of 80 labels lie outside 0-7 (the first is -1, of example 0); remove these examples or "
        "name more classes",
    ),
    "NaN": (
        lambda: save("x.npz", np.full((80, 32, 32), np.nan)),
        "DataError: x.npz: 81,920 pixels are not numbers from 0 to 1 (NaN, infinite or out of range), the first in "
        "example 0; clean them, or save the images as uint8",
    ),
    "Python objects": (
        lambda: save("x.npz", labels=LABELS.astype(object)),
        "DataError: x.npz: array 'labels' holds Python objects, which could run code when read; save it as numbers or "
        "text, such as np.array(labels.tolist())",
    ),
    "pickle": (
        lambda: Path("x.npz").write_bytes(pickle.dumps([1])),
        "DataError: x.npz is truncated or not an npz file; save it again with np.savez",
    ),
    "empty file": (
        lambda: Path("x.npz").touch(),
        "DataError: x.npz is truncated or not an npz file; save it again with np.savez",
    ),
    "truncated": (
        lambda: Path("x.npz").write_bytes(Path("good.npz").read_bytes()[:9000]),
        "DataError: x.npz is truncated or not an npz file; save it again with np.savez",
    ),
    "colour": (
        lambda: save("x.npz", pixels(80, 32, 32, 3)),
        "LayersError: net 'lenet5' takes 32x32 grey images, not 32x32 images of 3 channels; pass --grey",
    ),
    "large and colour": (
        lambda: save("x.npz", pixels(80, 40, 40, 3)),
        "LayersError: net 'lenet5' takes 32x32 grey images, not 40x40 images of 3 channels; pass --resize 32 --grey",
    ),
    "small": (
        lambda: save("x.npz", pixels(80, 28, 28)),
        "LayersError: net 'lenet5' takes 32x32 grey images, not 28x28 images of 1 channel; pass --resize 32",
    ),
    "oblong": (
        lambda: save("x.npz", pixels(80, 40, 48)),
        "LayersError: net 'lenet5' takes square images, not 40x48; pass --resize 40",
    ),
}


@pytest.mark.parametrize(("write", "message"), FLAWED.values(), ids=FLAWED)
def test_a_flawed_file_is_one_line_and_exit_code_2(
    run: Callable[..., SimpleNamespace], write: Callable[[], object], message: str
) -> None:
    write()
    found = run("study", "gutstein", "--data", "npz:x.npz", *TINY)
    assert (found.code, found.err, found.out) == (2, message + "\n", "")


def test_class_names_cannot_break_the_line_or_the_terminal(run: Callable[..., SimpleNamespace]) -> None:
    save("x.npz", class_names=np.array(HOSTILE))
    found = run("study", "gutstein", "--data", "npz:x.npz", "--classes", "dog")
    assert found.err == (
        "StudyError: unknown class 'dog'; there are 8 classes: <script>alert(1)</script>, \"quoted\", a'b, &amp;, "
        "new\\nline, \\x1b[31mred, x,y, p-q\n"
    )


def test_values_to_hold_out_are_values_and_never_positions(run: Callable[..., SimpleNamespace]) -> None:
    save("x.npz", writer=np.tile(np.arange(101, 111), 8))
    words = ["study", "gutstein", "--data", "npz:x.npz", *TINY, "--dry-run", "--hold-out"]
    assert run(*words, "writer:5").err == (
        "StudyError: --hold-out 'writer:5': no image has writer '5' (there are 101 to 110)\n"
    )
    assert "Note: test images: writer 109-110\n" in run(*words, "writer:109-110").err
    assert run(*words, "writer:101-110").err == (
        "DataError: class '0' (10 in all) has no image to train on beside --hold-out writer:101-110, as have 8 of 8 "
        "classes; add some, or choose others with --classes\n"
    )


def test_a_folder_of_damaged_pictures_says_which(run: Callable[..., SimpleNamespace]) -> None:
    for number in range(24):
        file = Path("photos") / f"class{number % 4}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(32, 32) + np.uint8(number)).save(file)  # no two alike: copies stay together
    words = ["study", "gutstein", "--data", "folder:photos", *TINY, "--dry-run"]
    assert run(*words).code == 0
    broken = Path("photos/class2/2.png")
    broken.write_bytes(broken.read_bytes()[:300])
    assert run(*words).err == (
        f"DataError: {broken} is truncated (its 300 bytes end inside the image); 1 of 24 images unreadable. Remove it "
        "or pass --skip-unreadable\n"
    )
    assert "Note: 1 unreadable image was skipped (the first:" in run(*words, "--skip-unreadable").err
    broken.unlink()
    (broken.parent / "loop").symlink_to(Path("photos").absolute())  # a link that leads back is no endless folder
    assert run(*words).code == 0


def test_where_no_part_is_for_testing_the_validation_part_is() -> None:
    split = np.tile(np.repeat(["train", "validation"], 5), 8)
    data = make("x", pixels(80, 1, 32, 32), LABELS, list("abcdefgh"), {"split": split})
    parts, notes = fit_parts(Request(data), 20, 2)
    assert (parts.by, parts.held_out, available(Request(data), parts)) == ("split", ("validation",), 5)
    assert notes == ["test images: at most 20 a class of the data's validation part; a test part it has not"]


def test_help_is_quick_and_imports_nothing_large() -> None:
    code = (
        "LARGE = 'torch', 'pandas', 'pyarrow', 'matplotlib'\n"
        "import sys, time; start = time.perf_counter(); sys.argv = ['layerwise', '--help']\n"
        "from layerwise import cli\n"
        "from layerwise.cli import options\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "options.data_names(''), options.net_names(''), options.study_names('')\n"
        "print(time.perf_counter() - start, [m for m in LARGE if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, large = found.stdout.splitlines()[-1].split(" ", 1)
    assert large == "[]"
    assert float(seconds) < 2  # 0.2 s where nothing else runs


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("layerwise study gut", ["gutstein"]),
        ("layerwise study gutstein --data n", ["npz:"]),
        ("layerwise study gutstein --net lenet5r", ["lenet5relu"]),
        ("layerwise study gutstein --scale p", ["paper"]),
        ("layerwise study gutstein --executor c", ["cluster"]),
        ("layerwise study gutstein --address r", ["ray://"]),
    ],
)
def test_the_shell_completes_names(words: str, completed: list[str]) -> None:
    asked = {"_LAYERWISE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert process(env={**os.environ, **asked}).stdout.split() == completed


def test_names_for_completion_are_the_nets_there_are() -> None:
    assert set(NET_NAMES) == set(NETS)


def test_lists_fit_eighty_columns(run: Callable[..., SimpleNamespace]) -> None:
    assert run("data").out.splitlines()[0] == "--data                  what it is"
    for words in (["data"], ["nets", "lenet5"], ["--help"], ["study", "--help"], ["runs", "--help"]):
        found = run(*words)
        assert (found.code, found.err) == (0, "")
        assert max(map(len, found.out.splitlines())) <= 85
    assert "in all  52,256" in run("nets", "lenet5").out


def rows(folder: str) -> pd.DataFrame:
    return pd.read_parquet(Path(folder) / "rows.parquet")


def test_damaged_runs_are_said_set_aside_and_computed_again(run: Callable[..., SimpleNamespace]) -> None:
    words = ["study", "gutstein", *GOOD, "--executor", "serial", "--store", "st"]
    assert run(*words, "--out", "first").code == 0
    places = sorted(Path("st/runs").glob("*/*"))
    source = next(place for place in places if (place / "weights.safetensors").exists())
    flipped, cut, bare = [place for place in places if place != source][:3]
    for file in (flipped / "result.json", source / "weights.safetensors"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    (cut / "spec.json").write_text((cut / "spec.json").read_text()[:20])
    (bare / "SHA256SUMS").unlink()

    checked = run("runs", "verify", "--store", "st")
    assert checked.code == 1
    for place, file in ((flipped, "result.json"), (source, "weights.safetensors"), (cut, "spec.json")):
        assert f"run {place.name}: {file} is not what was written\n" in checked.out

    found = run(*words, "--out", "second")
    assert found.code == 0
    for place, file in ((flipped, "result.json"), (cut, "spec.json")):
        assert f"run {place.name}: {file} is not what was written; set aside as st/damaged/{place.name}-" in found.err
    assert f"run {bare.name} has no readable SHA256SUMS" in found.err
    pd.testing.assert_frame_equal(rows("first"), rows("second"), check_exact=True)
    assert len(list(Path("st/damaged").iterdir())) >= 2
    assert run("runs", "gc", "--store", "st", "--dry-run").out.endswith("finished runs are untouched\n")
    assert run("runs", "gc", "--store", "st").code == 0
    assert not list(Path("st/damaged").iterdir())


def test_a_store_of_a_newer_version_is_left_alone(run: Callable[..., SimpleNamespace]) -> None:
    Path("st").mkdir()
    Path("st/layerwise.json").write_text('{"store_version": 99}')
    message = (
        "StoreError: store st has version 99, this layerwise reads version 1; "
        "upgrade layerwise or pass another --store\n"
    )
    assert run("study", "gutstein", *GOOD, "--store", "st").err == message
    assert run("runs", "ls", "--store", "st").err == message
    assert Path("st/layerwise.json").read_text() == '{"store_version": 99}'


@pytest.fixture
def small_disk(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A folder with room for 400 kB; skips where mounting is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", place], capture_output=True).returncode
    ):
        pytest.skip("no right to mount a small disk here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_store_is_one_line_and_the_rest_is_done_once_there_is_room(
    run: Callable[..., SimpleNamespace], small_disk: Path
) -> None:
    words = ["study", "gutstein", *GOOD, "--executor", "serial", "--store", f"{small_disk}/st"]
    assert run(*words, "--dry-run").code == 0  # the data set fits
    (small_disk / "ballast").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096 - 60_000))
    found = run(*words)
    assert (found.code, found.err.splitlines()[-1]) == (2, (
        f"StoreError: store {small_disk}/st is full; free some space or pass another --store. Finished runs are safe, "
        "and the same command does the rest"
    ))  # fmt: skip
    subprocess.run(["mount", "-o", "remount,size=9m", small_disk], check=True)
    assert run(*words).code == 0
    assert run("study", "gutstein", *GOOD, "--executor", "serial", "--store", "other", "--out", "other").code == 0
    pd.testing.assert_frame_equal(rows("layerwise-out/gutstein"), rows("other"), check_exact=True)


def test_what_a_study_prints_and_leaves(run: Callable[..., SimpleNamespace]) -> None:
    found = run("study", "gutstein", *GOOD, "--executor", "serial")
    assert found.code == 0
    assert "\nPlan: 13 runs wanted, 0 stored, 13 missing; forecast " in found.err
    lines = found.out.splitlines()
    assert lines[-1] == "Report: layerwise-out/gutstein/report.html"
    assert next(x for x in lines if x.startswith("G1 ")).split()[:4] == ["G1", "reproduced", "52,256", "parameters"]
    left = {path.name for path in Path("layerwise-out/gutstein").iterdir()}
    assert left == {"report.html", "rows.parquet", "rows.csv", "claims.json", "plan.json"}
    before = rows("layerwise-out/gutstein")
    again = run("study", "gutstein", *GOOD)
    assert "Plan: 13 runs wanted, 13 stored, 0 missing; nothing to train\n" in again.err
    pd.testing.assert_frame_equal(before, rows("layerwise-out/gutstein"), check_exact=True)

    assert run("report", "layerwise-out/gutstein").out == again.out
    listed = run("runs", "ls").out.splitlines()
    assert listed[0].split() == ["key", "net", "treatment", "task", "shots", "seed", "test", "time", "weights"]
    assert listed[1].endswith("kept")
    assert listed[-1] == "13 runs in layerwise-store"
    key = listed[1].split()[0]
    assert json.loads(run("runs", "show", key[:9]).out)["key"] == key
    assert run("runs", "show", "x").err == (
        "StudyError: no run in layerwise-store begins with 'x'; see `layerwise runs ls`\n"
    )
    assert run("runs", "verify").out == "13 of 13 runs are whole\n"
    (Path("layerwise-out/gutstein") / "rows.parquet").write_bytes(b"x")
    assert run("report", "layerwise-out/gutstein").err.count("\n") == 1


@pytest.fixture
def three_runs() -> list[Run]:
    """Three finished runs in the store `st`, in the order in which they finished; the first has its weights."""
    store, runs = Store(Path("st")), []
    for seed in (2, 0, 1):
        run = Run("lenet5", Task("d", (0, 1), 1 + seed), Treatment.parse("R6"), None, (Recipe(1, 1),), seed)
        curve = [[1, "train", "accuracy", 1.0], [1, "test", "accuracy", 0.25 * seed], [1, "test", "loss", 3.0]]
        store.put(run, {"curve": curve, "seconds": 0.5 + seed}, {} if runs else {"weights": b"w"})
        os.utime(store.path(key(run)) / "result.json", (1e9 + len(runs),) * 2)
        runs.append(run)
    return runs


def test_runs_are_listed_in_their_order_and_the_newest_by_number(
    run: Callable[..., SimpleNamespace], three_runs: list[Run]
) -> None:
    keys, task = [key(one) for one in three_runs], three_runs[0].task.name
    whole = run("runs", "ls", "--store", "st").out
    assert whole.splitlines() == [
        "key               net     treatment  task      shots  seed  test   time   weights",
        f"{keys[0]}  lenet5  R6         {task}  3      2     50.0%  2.5 s  kept",
        f"{keys[1]}  lenet5  R6         {task}  1      0     0.0%   0.5 s",
        f"{keys[2]}  lenet5  R6         {task}  2      1     25.0%  1.5 s",
        "3 runs in st",
    ]
    assert run("runs", "ls", "--store", "st").out == whole
    for limit in ("0", "3", "99"):
        assert run("runs", "ls", "--store", "st", "--limit", limit).out == whole
    *_, first, second, last = run("runs", "ls", "--store", "st", "--limit", "2").out.splitlines()
    assert [first.split()[0], second.split()[0]] == keys[1:]
    assert last == "the 2 that finished last of 3 runs in st; --limit 0 lists all"


def test_a_terminal_shows_what_fits_and_a_pipe_takes_all(
    run: Callable[..., SimpleNamespace], three_runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerwise.cli.runs.ON_A_TERMINAL", 1)
    assert run("runs", "ls", "--store", "st").out.endswith("\n3 runs in st\n")
    monkeypatch.setattr("layerwise.cli.runs.is_terminal", lambda: True)
    _, shown, last = run("runs", "ls", "--store", "st").out.splitlines()
    assert shown.startswith(key(three_runs[2]))
    assert last == "the 1 that finished last of 3 runs in st; --limit 0 lists all"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "-1"], "StudyError: --limit -1 is not possible; write 0 for all\n"),
        (["--limit", "few"],
         "UsageError: Invalid value for '--limit': 'few' is not a whole number (see `layerwise runs ls --help`)\n"),
        (["--store", "nowhere"],
         "StudyError: there is no store nowhere; name the folder that runs were trained into\n"),
    ],
)  # fmt: skip
def test_mistakes_in_listing_runs(
    run: Callable[..., SimpleNamespace], three_runs: list[Run], words: list[str], message: str
) -> None:
    found = run("runs", "ls", "--store", "st", *words)
    assert (found.code, found.err, found.out) == (2, message, "")


def test_damaged_runs_and_those_of_a_newer_version_are_told_below_the_list(
    run: Callable[..., SimpleNamespace], three_runs: list[Run]
) -> None:
    store, (flawed, newer, good) = Store(Path("st")), [key(one) for one in three_runs]
    (store.path(flawed) / "result.json").write_text("{}")
    values = canonical({**json.loads((store.path(newer) / "spec.json").read_text()), "version": 99})
    place = store.path(key_of(values))
    place.parent.mkdir(exist_ok=True)
    store.path(newer).rename(place)
    (place / "spec.json").write_text(values)
    summed = subprocess.run("sha256sum *.json", shell=True, cwd=place, capture_output=True, check=True)
    (place / "SHA256SUMS").write_bytes(summed.stdout)
    for words in ([], ["--limit", "0"]):
        found = run("runs", "ls", "--store", "st", *words)
        assert found.code == 0
        assert [line.split()[0] for line in found.out.splitlines()[1:2]] == [good]
        assert found.out.splitlines()[2:] == [
            f"damaged: run {flawed}: result.json is not what was written",
            f"not listed: {place.name}: a run of version 99 cannot be read by this layerwise, which knows up to 2; "
            "upgrade layerwise",
            "3 runs in st",
        ]
    assert json.loads(run("runs", "show", place.name, "--store", "st").out)["spec"]["version"] == 99
    verified = run("runs", "verify", "--store", "st")
    assert (verified.code, "2 of 3 runs are whole\n" in verified.out) == (1, True)


def test_damaged_weights_are_told(run: Callable[..., SimpleNamespace], three_runs: list[Run]) -> None:
    digest = Store(Path("st")).put_weights(b"weights")
    assert run("runs", "verify", "--store", "st").out == "3 of 3 runs are whole\n"
    Path(f"st/weights/{digest}.safetensors").write_bytes(b"wrights")
    found = run("runs", "verify", "--store", "st")
    assert (found.code, found.out) == (1, (
        f"weights {digest} are not what was written\n3 of 3 runs are whole\n"
        "The studies that need damaged weights take them from their file again\n"
    ))  # fmt: skip
    assert run("runs", "gc", "--store", "st").out.endswith("finished runs are untouched\n")
    assert Path(f"st/weights/{digest}.safetensors").exists()


def test_an_empty_store_is_listed(run: Callable[..., SimpleNamespace]) -> None:
    Store(Path("st"))
    assert run("runs", "ls", "--store", "st").out.splitlines()[1:] == ["0 runs in st"]
    assert run("runs", "verify", "--store", "st").out == "0 of 0 runs are whole\n"


@pytest.mark.parametrize("executor", ["local", "serial"])
def test_a_store_removed_during_a_study_is_said_and_the_same_command_does_it_all(
    run: Callable[..., SimpleNamespace], executor: str
) -> None:
    words = ["study", "gutstein", *GOOD[:-4], "--steps", "60", "--source-steps", "20", "--store", "st"]
    started = subprocess.Popen(
        [COMMAND, *words, "--executor", executor, "--out", "out"], stderr=subprocess.PIPE, text=True
    )
    while not list(Path("st/runs").glob("*/*/SHA256SUMS")):
        assert started.poll() is None
        time.sleep(0.02)
    Path("st").rename("removed")
    told = started.communicate(timeout=60)[1]
    assert (started.returncode, told.splitlines()[-1]) == (
        2,
        f"StoreError: store {Path('st').absolute()} is no longer there; the same command makes it anew",
    )
    assert not Path("st").exists()
    kept = Store(Path("removed"))
    assert [kept.verify(name) for name in kept.keys()] == [None] * len(list(kept.keys()))  # noqa: SIM118
    assert run(*words, "--executor", "serial", "--out", "out").code == 0
    assert run(*words[:-1], "other", "--executor", "serial", "--out", "other").code == 0
    pd.testing.assert_frame_equal(rows("out"), rows("other"), check_exact=True)


def test_names_of_classes_and_paths_are_text_in_the_report(run: Callable[..., SimpleNamespace]) -> None:
    folder = Path('it\'s a "<b>folder"')
    folder.mkdir()
    save(f"{folder}/x y.npz", class_names=np.array(HOSTILE))
    words = ["--data", f"npz:{folder}/x y.npz", *TINY, "--executor", "serial", "--store", f"{folder}/st"]
    found = run("study", "gutstein", *words, "--out", f"{folder}/out")
    assert (found.code, found.out.splitlines()[-1]) == (0, f"Report: {folder}/out/report.html")
    page = (folder / "out" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<b>folder" not in page
    assert run("report", f"{folder}/out").code == 0


def test_the_package_is_the_command() -> None:
    as_package = subprocess.run([sys.executable, "-m", "layerwise", "studies"], capture_output=True, text=True)
    as_command = process("studies")
    assert (as_package.returncode, as_package.stderr, as_package.stdout) == (0, "", as_command.stdout)


def test_a_reader_that_goes_away_is_no_error() -> None:
    assert process("studies").returncode == 0
    found = subprocess.run(f"{COMMAND} data | true", shell=True, capture_output=True, text=True)
    assert found.stderr == ""


def test_interrupted_says_what_is_stored_and_the_same_command_does_the_rest(
    run: Callable[..., SimpleNamespace],
) -> None:
    words = [str(COMMAND), "study", "gutstein", *GOOD[:-4], "--steps", "100", "--source-steps", "20"]
    started = subprocess.Popen(
        [*words, "--store", "st", "--out", "out"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    store = Path("st/runs")
    while not (store.exists() and len(list(store.glob("*/*/SHA256SUMS"))) >= 3):
        assert started.poll() is None
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGINT)
    time.sleep(0.05)
    os.killpg(started.pid, signal.SIGINT)  # impatient
    told = started.communicate(timeout=30)[1]
    assert started.returncode == 130
    stored = sum(1 for _ in Store(Path("st")).keys())  # noqa: SIM118
    assert 3 <= stored < 13
    assert told.splitlines()[-1] == f"Interrupted: {stored} of 13 runs are stored; the same command does the rest"
    rest = subprocess.run([*words, "--store", "st", "--out", "out"], capture_output=True, text=True)
    assert rest.returncode == 0
    assert f"Plan: 13 runs wanted, {stored} stored, {13 - stored} missing; forecast " in rest.stderr
    assert run(*words[1:], "--executor", "serial", "--store", "whole", "--out", "whole").code == 0
    pd.testing.assert_frame_equal(rows("out"), rows("whole"), check_exact=True)


CALL = (
    "import layerwise\n"
    "options = dict(experiments='levels', seeds=1, shots=[1], steps=5, source_steps=5, quiet=True)\n"
    "found = layerwise.study('gutstein', data='npz:good.npz', **options)\n"
    "print(len(found.rows) > 0, [claim.id for claim in found.claims], found.report('page.html'))\n"
)


@pytest.mark.parametrize("how", ["script", "exec"])
def test_a_call_needs_no_main_guard(how: str) -> None:
    Path("mine.py").write_text(CALL)
    words = {"script": ["mine.py"], "exec": ["-c", f"exec({CALL!r}, {{}})"]}[how]
    found = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == "True ['G1', 'G2', 'G3', 'G4', 'G5', 'G6', 'G7'] page.html\n"


def test_a_study_in_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    options = {"data": "npz:good.npz", "seeds": 1, "steps": 5, "source_steps": 5, "executor": "serial", "quiet": True}
    options |= {"experiments": "levels"}
    planned = layerwise.study("gutstein", **options, shots=(1,), dry_run=True)
    assert (len(planned.rows), planned.claims, len(planned.plan["runs"])) == (0, (), 7)
    assert planned._repr_html_()
    found = layerwise.study("gutstein", **options, shots=(1,), out="out")
    assert capsys.readouterr() == ("", "")
    assert Path("out/report.html").is_file()
    assert "<table" in found._repr_html_()
    with pytest.raises(StudyError, match="--shots of no numbers is not possible; the least is 1"):
        layerwise.study("gutstein", **options, shots=[])


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("chars74k/chars74k_hnd.npz", [], "writer 40 to 54 are tested on, so that every test writer is unseen"),
        ("chars74k/chars74k_hnd.npz", ["--hold-out", "writer:40-54"], "writer 40-54"),
        ("mnist", ["--resize", "32"], "at most 80 a class of the data's own test part"),
        (
            "tiny_imagenet",
            ["--resize", "32", "--grey", "--split", "column:kind"],
            "validation part",
        ),
    ],
)
def test_real_data_are_parted_as_they_should(
    run: Callable[..., SimpleNamespace], shared: Callable[[str], Path], name: str, words: list[str], told: str
) -> None:
    kind = {"chars74k/chars74k_hnd.npz": "npz", "mnist": "mnist", "tiny_imagenet": "parquet"}[name]
    found = run("study", "gutstein", "--data", f"{kind}:{shared(name)}", *words, *TINY[:2], *TINY[4:], "--dry-run")
    assert found.code == 0
    assert told in found.err


def test_mnist_needs_resize(run: Callable[..., SimpleNamespace], shared: Callable[[str], Path]) -> None:
    found = run("study", "gutstein", "--data", f"mnist:{shared('mnist')}")
    assert (found.code, found.err) == (
        2,
        "LayersError: net 'lenet5' takes 32x32 grey images, not 28x28 images of 1 channel; pass --resize 32\n",
    )
