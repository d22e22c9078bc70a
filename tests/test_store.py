"""The store: there whole or not at all, said when it is not, and never in the way."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import layerwise.writing
from layerwise import index
from layerwise.errors import StoreError, StudyError
from layerwise.randomness import canonical
from layerwise.run import Recipe, Run, key, key_of, spec
from layerwise.store import Damaged, Store
from layerwise.tasks import Task
from layerwise.treatment import Treatment

RUN = Run("lenet5", Task("d", (0, 1), 1), Treatment.parse("R6"), None, (Recipe(1, 1),))
OTHER = Run("lenet5", Task("d", (0, 1), 2), Treatment.parse("R6"), None, (Recipe(1, 1),))
RESULT: dict[str, Any] = {"curve": [[1, "test", "accuracy", 0.5]], "seconds": 0.25}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_is_put_is_got(store: Store) -> None:
    store.put(RUN, RESULT, {"weights": b"w", "initial": b"i"})
    found = store.get(key(RUN))
    assert (found.run, found.result) == (RUN, RESULT)
    assert (store.tensors(key(RUN), "weights"), store.tensors(key(RUN), "initial")) == (b"w", b"i")
    assert list(store.keys()) == [key(RUN)]
    assert store.verify(key(RUN)) is None
    assert not store.has(key(OTHER))


@given(
    st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.integers())
)
def test_any_result_comes_back_equal(result: dict[str, Any]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.put(RUN, result, {})
        assert store.get(key(RUN)).result == result


def test_sums_are_those_of_the_usual_tool(store: Store) -> None:
    store.put(RUN, RESULT, {"weights": b"w"})
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=store.path(key(RUN)), capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count("OK") == 3


@pytest.mark.parametrize("name", ["spec.json", "result.json", "weights.safetensors"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_every_harm_is_seen(store: Store, name: str, harm: str) -> None:
    store.put(RUN, RESULT, {"weights": b"weights"})
    path = store.path(key(RUN)) / name
    content = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if harm == "cut" else bytes([content[0] ^ 1]) + content[1:])
    wrong = store.verify(key(RUN))
    assert wrong is not None
    assert name in wrong
    assert key(RUN) in wrong


def test_shortened_sums_are_seen(store: Store) -> None:
    """Bug: only the files that SHA256SUMS still named were checked."""
    store.put(RUN, RESULT, {"weights": b"weights"})
    sums = store.path(key(RUN)) / "SHA256SUMS"
    sums.write_text("".join(sums.read_text().splitlines(keepends=True)[:2]))
    assert store.verify(key(RUN)) == f"run {key(RUN)}: SHA256SUMS does not name weights.safetensors"
    told = store.mend(key(RUN))
    assert told is not None
    assert not store.has(key(RUN))
    assert store.mend(key(RUN)) is None


def test_cleaning_leaves_alone_what_is_being_written(store: Store) -> None:
    """Bug: `runs gc` beside a study removed the run that was being written, and the lock that was held."""
    writing = store.folder / "writing" / f"{key(RUN)}-1"
    with store.lock(key(RUN), wait=True):
        writing.mkdir()
        assert store.clean() == []
        assert writing.exists()
    assert store.clean() == [writing, store.folder / "locks" / key(RUN)]
    assert store.clean() == []


def test_cleaning_leaves_alone_weights_and_measurements_that_are_being_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: `runs gc` beside a study removed them, and the study ended with a store that could not be written."""
    write = layerwise.writing.write_through

    def written(path: Path, content: bytes) -> None:
        write(path, content)
        assert store.clean() == []

    monkeypatch.setattr(layerwise.writing, "write_through", written)
    digest = store.put_weights(b"some")
    store.put_measured("0" * 16, b"{}")
    assert (store.weights(digest), store.measured("0" * 16).read_bytes()) == (b"some", b"{}")


def test_a_lock_whose_file_was_removed_holds_nobody(store: Store) -> None:
    """Bug: a lock taken while its file was being removed was held by two."""
    with store.lock("a", wait=True):
        (store.folder / "locks" / "a").unlink()
        with store.lock("a", wait=False) as other:
            assert other
            with store.lock("a", wait=False) as third:
                assert not third


def test_what_goes_wrong_under_a_lock_is_not_the_stores(store: Store) -> None:
    """Bug: any OSError while a run was trained became "store cannot be written", and ended the study."""
    with pytest.raises(FileNotFoundError), store.lock("a", wait=True):
        raise FileNotFoundError("the user's own")


def test_stray_files_are_no_runs(store: Store) -> None:
    store.put(RUN, RESULT, {})
    (store.folder / "runs" / ".DS_Store").write_text("")
    (store.path(key(RUN)).parent / "notes.txt").write_text("")
    assert list(store.keys()) == [key(RUN)]


def test_a_spec_under_another_key_is_damage(store: Store) -> None:
    store.put(RUN, RESULT, {})
    store.path(key(OTHER)).parent.mkdir(exist_ok=True)
    store.path(key(RUN)).rename(store.path(key(OTHER)))
    with pytest.raises(Damaged, match=f"run {key(OTHER)} holds the spec of {key(RUN)}"):
        store.get(key(OTHER))


def test_what_is_set_aside_is_missing_and_kept_for_a_look(store: Store) -> None:
    store.put(RUN, RESULT, {})
    aside = store.set_aside(key(RUN))
    assert not store.has(key(RUN))
    assert (aside / "result.json").exists()
    assert store.clean(dry_run=True) == [aside]
    assert aside.exists()
    assert store.clean() == [aside]
    assert not aside.exists()


def test_a_second_put_changes_nothing_but_may_add_weights(store: Store) -> None:
    store.put(RUN, RESULT, {})
    store.put(RUN, {**RESULT, "seconds": 9.0}, {})
    assert store.get(key(RUN)).result == RESULT
    store.put(RUN, RESULT, {"weights": b"w"})
    store.put(RUN, RESULT, {})
    assert store.tensors(key(RUN), "weights") == b"w"
    assert not list((store.folder / "writing").iterdir())


def test_a_run_half_written_is_not_there(store: Store) -> None:
    store.put(RUN, RESULT, {})
    half = store.folder / "writing" / f"{key(OTHER)}-1"
    store.path(key(RUN)).rename(half)
    (half / "SHA256SUMS").unlink()
    assert list(store.keys()) == []
    assert half in store.clean()
    assert not half.exists()


def test_one_at_a_time_holds_a_lock_and_death_releases_it(store: Store) -> None:
    with (
        store.lock("a", wait=False) as first,
        store.lock("a", wait=False) as second,
        store.lock("b", wait=False) as other,
    ):
        assert (first, second, other) == (True, False, True)
    script = (
        "import sys, pathlib; from layerwise.store import Store\n"
        "lock = Store(pathlib.Path(sys.argv[1])).lock('a', wait=False); print(lock.__enter__(), flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(store.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    with store.lock("a", wait=False) as ours:
        assert not ours
    assert store.folder / "locks" / "a" not in store.clean()
    holder.kill()
    holder.communicate()
    with store.lock("a", wait=True) as ours:
        assert ours


def test_a_newer_store_is_left_alone(store: Store) -> None:
    (store.folder / "layerwise.json").write_text(json.dumps({"store_version": 2}))
    with pytest.raises(StoreError) as caught:
        Store(store.folder)
    assert str(caught.value) == (
        f"store {store.folder} has version 2, this layerwise reads version 1; upgrade layerwise or pass another --store"
    )


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"store_version'])
def test_an_unreadable_mark_is_said(store: Store, text: str) -> None:
    (store.folder / "layerwise.json").write_text(text)
    with pytest.raises(StoreError, match=r"layerwise.json is not readable; pass another --store"):
        Store(store.folder)


def test_a_file_in_the_place_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    for place in (tmp_path / "store", tmp_path / "store" / "below"):
        with pytest.raises(StoreError, match=r"cannot be written \(.*\); pass another --store"):
            Store(place)


def test_a_store_is_not_made_among_other_things(tmp_path: Path) -> None:
    """Bug: `--store photos` filled the user's photos with folders."""
    (tmp_path / "cat").mkdir()
    with pytest.raises(StoreError, match="is a folder with other things in it; pass another --store"):
        Store(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["cat"]


def test_weights_from_outside_are_kept_by_their_digest(store: Store) -> None:
    content = os.urandom(1000)
    digest = store.put_weights(content)
    assert digest == hashlib.sha256(content).hexdigest() == store.put_weights(content)
    assert store.weights(digest) == content
    assert (store.weights_kept(), store.verify_weights(digest)) == ([digest], None)
    path = store.folder / "weights" / f"{digest}.safetensors"
    assert path.read_bytes() == content
    path.write_bytes(content[:-1])
    with pytest.raises(Damaged, match=f"weights {digest} are not what was written"):
        store.weights(digest)
    assert store.verify_weights(digest) == f"weights {digest} are not what was written"
    assert store.put_weights(content) == digest  # given again, they are whole again
    assert store.weights(digest) == content
    path.unlink()
    path.mkdir()
    with pytest.raises(Damaged, match=f"weights {digest} cannot be read"):
        store.weights(digest)
    assert list((store.folder / "writing").iterdir()) == []


def test_weights_that_are_not_there(store: Store) -> None:
    (store.folder / "secret.safetensors").write_bytes(b"s")
    with pytest.raises(KeyError):
        store.weights("0" * 64)
    with pytest.raises(StudyError, match="are not named by 64 hex digits"):
        store.weights("../secret")
    assert store.weights_kept() == []
    (store.folder / "weights").mkdir()
    (store.folder / "weights" / "notes.safetensors").touch()
    assert store.weights_kept() == []


def test_a_run_of_an_older_version_is_whole_under_its_own_key(store: Store) -> None:
    """Bug: once keys had changed, every run in a store was said to be damaged."""
    older = {**spec(RUN), "version": 1}
    for recipe in older["recipes"]:
        del recipe["channels_last"]
    name = key_of(canonical(older))
    store.put(RUN, RESULT, {})
    place = store.path(name)
    place.parent.mkdir(exist_ok=True)
    store.path(key(RUN)).rename(place)
    (place / "spec.json").write_text(json.dumps(older, indent=1))
    sums = subprocess.run(["sha256sum", "spec.json", "result.json"], cwd=place, capture_output=True, check=True)
    (place / "SHA256SUMS").write_bytes(sums.stdout)
    assert name != key(RUN)
    assert store.verify(name) is None
    assert store.get(name).run == RUN
    assert list(store.records([name, key(RUN)])) == [name]


def test_what_is_no_json_is_damage(store: Store) -> None:
    store.put(RUN, RESULT, {})
    place = store.path(key(RUN))
    (place / "result.json").write_text("{")
    sums = subprocess.run(["sha256sum", "spec.json", "result.json"], cwd=place, capture_output=True, check=True)
    (place / "SHA256SUMS").write_bytes(sums.stdout)
    assert str(store.verify(key(RUN))).startswith(f"run {key(RUN)} holds what is no JSON (")


def test_the_newest_are_those_that_finished_last_as_the_clock_had_it(store: Store) -> None:
    for run, when in ((RUN, 4e9), (OTHER, 0)):
        store.put(run, RESULT, {})
        os.utime(store.path(key(run)) / "result.json", (when, when))
    between = replace(RUN, seed=5)
    store.put(between, RESULT, {})
    assert store.newest(2) == [key(RUN), key(between)]
    assert store.newest(9) == [key(RUN), key(between), key(OTHER)]


PUTTER = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store import RESULT, RUN
from layerwise.store import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
input()
for seed in range(60):
    for kind in range(3):
        store.put(replace(RUN, seed=seed), RESULT, {"weights": b"w" * 5000} if kind == int(sys.argv[3]) else {})
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_two_add_weights_to_one_run_in_the_same_moment(
    store: Store, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: one of them failed with the system's own error."""
    store.put(RUN, RESULT, {})
    place, rename = store.path(key(RUN)), Path.rename
    other = store.folder / "writing" / "other"
    shutil.copytree(place, other)
    (other / "weights.safetensors").write_bytes(b"w")
    summed = subprocess.run("sha256sum *.safetensors *.json", shell=True, cwd=other, capture_output=True, check=True)
    (other / "SHA256SUMS").write_bytes(summed.stdout)

    def with_company(path: Path, target: Path) -> Path:
        if path == place and moment == "before":  # the other has just moved the run away
            rename(place, store.folder / "writing" / "others")
        moved = rename(path, target)
        if path == place and moment == "after":  # the other is the first to put its own there
            rename(other, place)
        return moved

    monkeypatch.setattr(Path, "rename", with_company)
    store.put(RUN, RESULT, {"weights": b"w"})
    assert store.verify(key(RUN)) is None
    assert store.tensors(key(RUN), "weights") == b"w"


def test_two_processes_put_the_same_runs(store: Store) -> None:
    words = [sys.executable, "-c", PUTTER, str(store.folder), str(Path(__file__).parent)]
    putters = [
        subprocess.Popen([*words, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for n in range(2)
    ]
    for one in putters:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in putters:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    assert [one.wait(60) for one in putters] == [0, 0]
    names = [key(replace(RUN, seed=seed)) for seed in range(60)]
    assert sorted(store.keys()) == sorted(names)
    assert {store.verify(name) for name in names} == {None}
    assert all(store.has(name, weights=True) for name in names)
    assert not list((store.folder / "writing").iterdir())
    for one in putters:
        one.communicate()


@pytest.mark.parametrize("when", [0, 4e9], ids=["1970", "2096"])
def test_a_clock_that_was_wrong_has_nothing_cleaned_that_is_in_use(store: Store, when: float) -> None:
    store.put(RUN, RESULT, {})
    weights = store.put_weights(b"w")
    writing, old = store.folder / "writing" / f"{key(OTHER)}-1", store.folder / "writing" / f"{key(RUN)}-1"
    for path in (writing, old):
        path.mkdir()
    for path in sorted(store.folder.rglob("*"), reverse=True):
        os.utime(path, (when, when))
    with store.lock(key(OTHER), wait=True):
        assert store.clean() == [old, store.folder / "locks" / key(RUN)]
        assert writing.exists()
    assert store.verify(key(RUN)) is None
    assert store.weights(weights) == b"w"


def test_a_data_set_being_written_outlives_a_clock_that_jumps_back(store: Store) -> None:
    half = store.folder / "data" / ".half"
    half.mkdir()
    assert store.clean() == []
    os.utime(half, (time.time() + 10**6,) * 2)  # written an hour ago, by a clock that has jumped back since
    assert store.clean() == []
    os.utime(half, (time.time() - 4000,) * 2)
    assert store.clean() == [half]


def test_a_store_that_vanished_is_said(store: Store) -> None:
    shutil.rmtree(store.folder)
    gone = "is no longer there; the same command makes it anew"
    with pytest.raises(StoreError, match=gone):
        store.put(RUN, RESULT, {})
    with pytest.raises(StoreError, match=gone):
        store.put_weights(b"w")
    with pytest.raises(StoreError, match=gone):
        list(store.keys())
    with pytest.raises(StoreError, match=gone), store.lock(key(RUN), wait=False):
        pass
    with pytest.raises(StoreError, match=gone):
        Store(store.folder, make=False)  # Bug: a worker that began after it was gone made it anew
    assert store.records([key(RUN)]) == {}
    assert not store.has(key(RUN))
    assert not store.folder.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 300 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_no_finished_run(small_disk: Path) -> None:
    store = Store(small_disk / "store")
    store.put(RUN, RESULT, {"weights": os.urandom(100_000)})
    with pytest.raises(StoreError) as caught:
        store.put(OTHER, RESULT, {"weights": os.urandom(400_000)})
    assert str(caught.value) == (
        f"store {store.folder} is full; free some space or pass another --store. "
        "Finished runs are safe, and the same command does the rest"
    )
    assert list(store.keys()) == [key(RUN)]
    assert store.verify(key(RUN)) is None
    assert not list((store.folder / "writing").iterdir())
    store.put(OTHER, RESULT, {})
    assert store.has(key(OTHER))


def test_a_full_disk_keeps_no_half_of_weights_and_needs_no_index(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(small_disk / "store")
    store.put(RUN, RESULT, {})
    with pytest.raises(StoreError, match=r"is full; free some space or pass another --store"):
        store.put_weights(os.urandom(400_000))
    assert not list((store.folder / "writing").iterdir())
    assert store.weights_kept() == []
    monkeypatch.setattr(index, "SETTLED", 0)
    filled = subprocess.run(["dd", "if=/dev/zero", f"of={small_disk / 'ballast'}"], capture_output=True, text=True)
    assert "No space left" in filled.stderr
    time.sleep(0.02)
    for _ in range(2):
        assert store.records([key(RUN)])[key(RUN)].result == RESULT
    assert not list((store.folder / "writing").iterdir())
    (small_disk / "ballast").unlink()
    store.records([key(RUN)])
    assert len(list((store.folder / "index").iterdir())) == 1
