"""The store: there whole or not at all, said when it is not, and never in the way."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise.errors import StoreError
from layerwise.run import Recipe, Run, key
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
    assert store.clean() == [store.folder / "locks" / key(RUN), writing]


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


def test_a_store_that_vanished_is_said(store: Store) -> None:
    import shutil

    shutil.rmtree(store.folder)
    with pytest.raises(StoreError, match="is no longer there; the same command makes it anew"):
        store.put(RUN, RESULT, {})


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
