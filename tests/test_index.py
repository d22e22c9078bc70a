"""The index: records as reading every file gives them, whatever became of the index or of the files."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layerwise import index
from layerwise.run import Recipe, Run, key
from layerwise.store import Damaged, Store
from layerwise.tasks import Task
from layerwise.treatment import Treatment

RUN = Run("lenet5", Task("d", (0, 1), 1), Treatment.parse("R6"), None, (Recipe(1, 1),))
RUNS = [replace(RUN, seed=seed) for seed in range(12)]
KEYS = [key(run) for run in RUNS]


def result(seed: int) -> dict[str, Any]:
    return {"curve": [[1, "test", "accuracy", seed / 7]], "seconds": 0.25, "note": "tab\t, line\n, é"}


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what was written a moment ago be indexed: no test changes a file within the tick in which it was written."""
    monkeypatch.setattr(index, "SETTLED", 0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Twelve runs, the first with weights; a tick of the clock old."""
    store = Store(tmp_path / "store")
    for run in RUNS:
        store.put(run, result(run.seed), {"weights": b"w"} if run is RUNS[0] else {})
    time.sleep(0.02)
    return store


def read_anew(store: Store) -> dict[str, Any]:
    """What is true: every file read."""
    found = {}
    for name in KEYS:
        try:
            found[name] = store.get(name)
        except (Damaged, KeyError):
            continue
    return found


def indexed(store: Store) -> dict[str, index.Entry]:
    return {name: entry for path in (store.folder / "index").iterdir() for name, entry in index.read(path).items()}


def test_records_are_those_that_get_gives_in_the_order_asked_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [*reversed(KEYS), "0123456789abcdef", KEYS[3]]
    first = store.records(asked)
    assert first == read_anew(store)
    assert list(first) == [*reversed(KEYS)]
    assert [first[name].result for name in KEYS] == [result(seed) for seed in range(12)]
    assert [first[name].run for name in KEYS] == RUNS
    assert [first[name].has_weights for name in KEYS] == [True] + [False] * 11
    monkeypatch.delattr(Store, "get")  # from here on nothing is read but the index
    assert store.records(KEYS) == first
    assert list(store.records(KEYS[2:5])) == KEYS[2:5]
    assert store.records([]) == {}


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file in its place, and have it look as if nothing had happened, as far as a user can do that."""
    before = path.stat()
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


HARMS: dict[str, Callable[[Path], object]] = {
    "a flipped byte of the result": lambda place: rewrite(place / "result.json", lambda b: b.replace(b"0.25", b"0.24")),
    "a flipped byte of the spec": lambda place: rewrite(place / "spec.json", lambda b: b.replace(b"lenet5", b"lenet6")),
    "a shorter result": lambda place: rewrite(place / "result.json", lambda b: b[:-1]),
    "no result": lambda place: (place / "result.json").unlink(),
    "no spec": lambda place: (place / "spec.json").unlink(),
    "no sums": lambda place: (place / "SHA256SUMS").unlink(),
    "another run's result": lambda place: shutil.copy2(
        place.parents[1] / KEYS[2][:2] / KEYS[2] / "result.json", place / "result.json"
    ),
    "no run": lambda place: shutil.rmtree(place),
    "a file instead of the run": lambda place: (shutil.rmtree(place), place.write_text("")),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_run_that_is_not_what_was_written_is_never_served(store: Store, harm: Callable[[Path], object]) -> None:
    store.records(KEYS)
    assert set(indexed(store)) == set(KEYS)
    harm(store.path(KEYS[1]))
    for _ in range(2):
        assert set(store.records(KEYS)) == set(KEYS) - {KEYS[1]}
        assert store.records(KEYS) == read_anew(store)
    with pytest.raises((Damaged, KeyError)):
        store.get(KEYS[1])


def test_a_run_that_was_done_again_is_served_as_it_is_now(store: Store) -> None:
    store.records(KEYS)
    store.set_aside(KEYS[1])
    assert set(store.records(KEYS)) == set(KEYS) - {KEYS[1]}
    store.put(RUNS[1], result(99), {})
    assert store.records(KEYS)[KEYS[1]].result == result(99)
    store.put(RUNS[2], result(2), {"weights": b"w"})
    assert [store.records(KEYS)[name].has_weights for name in KEYS[:4]] == [True, False, True, False]
    assert store.records(KEYS) == read_anew(store)


def test_an_index_that_is_lost_is_made_anew(store: Store) -> None:
    store.records(KEYS)
    before = indexed(store)
    shutil.rmtree(store.folder / "index")
    assert store.records(KEYS) == read_anew(store)
    assert indexed(store) == before


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "only a head": lambda text: text.split(b"\n")[0],
    "one line twice": lambda text: text + text.split(b"\n")[1] + b"\n",
    "a later format": lambda text: text.replace(b"layerwise index 1", b"layerwise index 2"),
    "zeros": lambda text: bytes(len(text)),
    "no line breaks": lambda text: text.replace(b"\n", b" "),
    "another result": lambda text: text.replace(b"0.25", b"0.99"),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_spoilt_index_is_no_index(store: Store, spoil: Callable[[bytes], bytes]) -> None:
    truth = store.records(KEYS)
    for path in (store.folder / "index").iterdir():
        path.write_bytes(spoil(path.read_bytes()))
    assert indexed(store) == {}
    assert store.records(KEYS) == truth
    assert set(indexed(store)) == set(KEYS)


def test_no_flipped_bit_and_no_torn_end_of_an_index_is_ever_believed(store: Store) -> None:
    truth = store.records(KEYS)
    path = store.folder / "index" / KEYS[0][:2]
    content, draw = path.read_bytes(), random.Random(seed := random.SystemRandom().randrange(10**6))
    print(f"places drawn from seed {seed}")  # shown where the test fails
    for place in [*range(90), *draw.sample(range(len(content)), 200)]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :])
        assert index.read(path) == {}
        path.write_bytes(content[:place])
        assert index.read(path) == {}
    assert store.records(KEYS) == truth


def test_something_else_in_the_place_of_the_index_is_in_nobodys_way(store: Store) -> None:
    store.records(KEYS)
    path = store.folder / "index" / KEYS[0][:2]
    path.unlink()
    path.mkdir()
    (path / "more").touch()
    assert store.records(KEYS) == read_anew(store)
    shutil.rmtree(store.folder / "index")
    (store.folder / "index").write_text("")
    assert store.records(KEYS) == read_anew(store)
    assert list((store.folder / "writing").iterdir()) == []


def test_an_index_from_another_store_is_not_believed(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    for run in RUNS:
        other.put(run, result(run.seed + 50), {})
    other.records(KEYS)
    shutil.copytree(other.folder / "index", store.folder / "index")
    assert [record.result for record in store.records(KEYS).values()] == [result(seed) for seed in range(12)]


def test_a_copied_store_is_read_anew_and_is_the_same(store: Store, tmp_path: Path) -> None:
    truth = store.records(KEYS)
    shutil.copytree(store.folder, tmp_path / "copy")
    copied = Store(tmp_path / "copy")
    assert copied.records(KEYS) == truth
    assert indexed(copied).keys() == indexed(store).keys()
    assert indexed(copied) != indexed(store)  # other files bear other marks


@pytest.mark.parametrize("when", [0, 10**9, 4 * 10**9], ids=["1970", "2001", "2096"])
def test_a_clock_that_was_wrong_confuses_nothing(store: Store, when: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SETTLED", 2.0)
    for name in KEYS[1:]:
        for path in (store.path(name), *store.path(name).iterdir()):
            os.utime(path, (when, when))
    truth = read_anew(store)
    assert store.records(KEYS) == truth
    for moment in (0.0, time.time() - 3600, time.time() + 3600, 4e9):  # the clock may jump as it likes
        monkeypatch.setattr(time, "time", lambda moment=moment: moment)
        assert store.records(KEYS) == truth
    monkeypatch.undo()
    path = store.path(KEYS[1]) / "result.json"
    path.write_bytes(path.read_bytes().replace(b"0.25", b"0.24"))
    os.utime(path, (when, when))
    assert set(store.records(KEYS)) == set(KEYS) - {KEYS[1]}


def test_what_was_written_this_moment_is_not_indexed_yet(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change within the same tick of the clock would leave all marks as they were."""
    monkeypatch.setattr(index, "SETTLED", 2.0)
    assert store.records(KEYS) == read_anew(store)
    assert not (store.folder / "index").exists()
    later = time.time() + 3
    monkeypatch.setattr(time, "time", lambda: later)
    store.records(KEYS)
    assert set(indexed(store)) == set(KEYS)


def test_a_shelf_is_written_only_where_much_was_not_in_its_index(tmp_path: Path) -> None:
    """Else a study of three runs in a store of a million would write all of it."""
    store, shelves = Store(tmp_path / "store"), dict[str, list[Run]]()
    for run in (replace(RUN, seed=seed) for seed in range(20_000)):
        shelf = shelves.setdefault(key(run)[:2], [])
        shelf.append(run)
        if len(shelf) == 36:
            break
    names = [key(run) for run in shelf]
    for run in shelf:
        store.put(run, result(0), {})
    time.sleep(0.02)
    for count, written in ((16, 16), (17, 16), (18, 18), (19, 18), (36, 36)):
        assert set(store.records(names[:count])) == set(names[:count])
        assert len(indexed(store)) == written
    store.set_aside(names[0])
    store.path(names[1]).rename(store.path(names[1]).with_suffix(".old"))
    store.records(names)
    assert len(indexed(store)) == 36  # a line of a run that is gone costs nothing
    store.put(shelf[0], result(1), {})
    for name in names[2:6]:
        os.utime(store.path(name))
    time.sleep(0.02)
    assert store.records(names) == {name: store.get(name) for name in names if name != names[1]}
    assert set(indexed(store)) == {*names} - {names[1]}


READER = """
import shutil, sys
from pathlib import Path
from layerwise import index
from layerwise.store import Store
index.SETTLED = 0
store, keys = Store(Path(sys.argv[1])), sys.argv[2:]
print("ready", flush=True)
while True:
    shutil.rmtree(store.folder / "index", ignore_errors=True)
    for _ in range(3):
        assert [record.result["note"] for record in store.records(keys).values()] == ["tab\\t, line\\n, é"] * len(keys)
"""


def reader(store: Store) -> "subprocess.Popen[str]":
    started = subprocess.Popen(
        [sys.executable, "-c", READER, str(store.folder), *KEYS],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def test_two_processes_write_one_index_at_once_and_die_at_any_moment(store: Store) -> None:
    truth, draw = store.records(KEYS), random.Random(seed := random.SystemRandom().randrange(10**6))
    print(f"moments drawn from seed {seed}")  # shown where the test fails
    readers = [reader(store), reader(store)]
    for _ in range(3):
        until = time.monotonic() + draw.uniform(0.05, 0.3)
        while time.monotonic() < until:
            assert store.records(KEYS) == truth
        assert [one.poll() for one in readers] == [None, None]
        readers[0].kill()
        assert readers[0].communicate()[1] == ""
        readers = [readers[1], reader(store)]
    for one in readers:
        one.kill()
        assert one.communicate()[1] == ""
    assert store.records(KEYS) == truth
    for left in store.clean():
        assert left.parent.name in {"writing", "locks"}
    assert store.records(KEYS) == truth
    assert set(indexed(store)) <= set(KEYS)


def test_a_line_is_json_that_anybody_can_read(store: Store) -> None:
    store.records(KEYS)
    head, line, *_ = (store.folder / "index" / KEYS[0][:2]).read_text().splitlines()
    assert head.startswith("layerwise index 1 ")
    name, marks, files, spec, found = line.split("\t")
    assert len(marks.split()) == 9
    record = store.get(name)
    assert (json.loads(files), json.loads(found)) == (list(record.files), record.result)
    assert json.loads(spec)["seed"] == record.run.seed
