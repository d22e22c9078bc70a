"""Watching a store that others train into, and the curves for TensorBoard."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import save_file

import layerwise
from layerwise import running, scalars
from layerwise.cli.watch import shown, span
from layerwise.data.dataset import DataSet
from layerwise.errors import StudyError
from layerwise.execute.forecast import Forecast
from layerwise.execute.work import Outcome
from layerwise.listening import Several
from layerwise.nets import build
from layerwise.noting import Noting
from layerwise.progress import Quiet, Terminal
from layerwise.run import key
from layerwise.scalars import Scalars
from layerwise.store import Store
from layerwise.watching import Best, Command, Group, Picture, Seen, Watch

from making import done_by, grid, planned, setting

MAIN = [sys.executable, "-c", "from layerwise.cli import main; main()"]
STUDY = [
    *MAIN, "study", "gutstein", "--experiments", "levels", "--data", "digits", "--resize", "32", "--seeds", "1",
    "--trials", "2", "--shots", "1", "--steps", "60", "--source-steps", "80", "--workers", "1", "--store", "st",
]  # fmt: skip
FORECAST = Forecast({}, {}, 40.0, 0, 0)


def text(picture: Picture) -> str:
    """What is printed of a picture where the output is no terminal."""
    out = StringIO()
    Console(file=out, width=100).print(shown(picture))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_a_plan_half_done(blobs: DataSet, tmp_path: Path) -> None:
    """Four runs of a source, forecast at ten seconds each, of which two are done, one is trained, and one diverges."""
    runs = grid(blobs, sources=1)
    here = setting(tmp_path / "store", blobs, runs)
    plan = replace(planned(runs, here.store), seconds={key(run): 10.0 for run in runs})
    note, store = Noting(here.store, "layerwise study"), Store(here.store)
    note.say("hello")
    note.planned(plan, FORECAST, 2)
    assert all(outcome.is_stored for outcome in done_by(runs, here, choose=lambda run: run.source is None))
    note.ended(Outcome(key(runs[2]), "diverged", "loss nan"))
    with store.lock(key(runs[3]), wait=False):
        picture = Watch(store).picture()
    (command,) = picture.commands
    assert (command.done, command.total, picture.runs) == (2, 4, 2)
    assert command.training == (key(runs[3]),)
    assert command.left == pytest.approx(command.passed)
    assert command.per_minute == pytest.approx(2 * 60 / command.passed)
    assert (command.plan.said, command.plan.workers, command.plan.is_alive) == ("hello", 2, True)
    assert command.plan.failures == (running.Failure(key(runs[2]), "loss nan"),)
    accuracies = {name: store.get(name).result["curve"] for name in store.keys()}  # noqa: SIM118
    tested = {name: [p[3] for p in curve if p[1:3] == ["test", "accuracy"]][-1] for name, curve in accuracies.items()}
    (best,) = command.best  # both are of four classes, with four images each
    assert (str(best.group), best.done) == ("lenet5, 4 classes, 4 a class", 2)
    assert best.run.accuracy == max(tested.values()) == tested[best.run.key]
    assert Watch(store).picture().commands[0].training == ()

    note.close()
    (ended,) = Watch(store).picture().commands
    assert (ended.left, ended.plan.is_alive, ended.plan.ended is None) == (None, False, False)
    again = Noting(here.store, "layerwise advise")
    again.planned(planned(runs, here.store), FORECAST, 1)
    (other,) = Watch(store).picture().commands  # what has ended makes room
    assert (other.plan.command, other.done, other.total, len(other.plan.stored)) == ("layerwise advise", 0, 2, 2)
    assert again.file is not None
    again.file.close()  # as the system does when a process is killed
    (killed,) = Watch(store).picture().commands
    assert (killed.plan.is_alive, killed.plan.ended) == (False, None)


def test_runs_of_which_no_command_tells(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, sources=1)
    here = setting(tmp_path / "store", blobs, runs)
    store = Store(here.store)
    assert "nothing is being trained" in text(Watch(store).picture())
    done_by(runs[:1], here)
    with store.lock(key(runs[1]), wait=False):
        picture = Watch(store).picture()
        assert picture.strangers == (key(runs[1]),)
        assert (picture.commands, picture.recent) == ((), 1)
        assert "1 run of which no command tells; of how many is not known" in text(picture)
    assert Watch(store).picture().strangers == ()
    assert "nothing is being trained; last run finished 0:00:0" in text(Watch(store).picture())


@pytest.mark.parametrize(
    "content", ["", "{", '{"command": 1}\n', '["a"]\n{"ended": 1}\n', '{"stored": 3}\n', "\x00\xff", '{"a": 1}']
)
def test_a_harmed_note_is_as_if_it_were_not_there(tmp_path: Path, content: str) -> None:
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "1-a.jsonl").write_bytes(content.encode("latin-1"))
    assert running.running(tmp_path) == ()


def test_a_store_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    assert running.begin(tmp_path / "gone", {}) is None
    running.add(None, {"said": "x"})
    running.end(None, 0.0)
    assert not (tmp_path / "gone").exists()


def test_what_is_printed() -> None:
    at = time.mktime((2026, 1, 2, 3, 4, 5, 0, 0, -1))
    group = Group("lenet5", 20, 5)
    plan = running.Running(
        "layerwise study gutstein --data npz:\x1b[31mred.npz", 4711, "here", at - 60, 2, 130.0, ("a",),
        {"b": 1.0, "c": 1.0}, (running.Failure("c", "loss nan\nat step 3"),), "said it", None, True,
    )  # fmt: skip
    best = Best(group, 2, Seen("0123456789abcdef", group, "F3R3", 4, 0.612))
    found = Picture(Path("st"), at, 1234, (Command(plan, 1, ("c",), 60.0, 60.0, 1.0, (best,)),), (), 0, None)
    assert text(found) == (
        "st: 1,234 runs at 03:04:05\n"
        "\n"
        "layerwise study gutstein --data npz:\\x1b[31mred.npz\n"
        "━━━━━━━━━━━━━━━━                 1 of 2 runs, 1 stored before\n"
        "training 1 run (process 4711 on here, 2 workers)\n"
        "forecast 0:02:10, passed 0:01:00, 0:01:00 left; 1.0 runs a minute\n"
        "said: said it\n"
        "best so far                    test accuracy  treatment  seed  run               of\n"
        "lenet5, 20 classes, 5 a class  61.2%          F3R3       4     0123456789abcdef  2\n"
        "1 run failed\n"
        "  c: loss nan\\nat step 3"
    )
    assert span(7300.4) == "2:01:40"


def test_a_study_is_watched_from_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., SimpleNamespace]
) -> None:
    """A study of 13 runs: seen at work, seen killed, and seen at its end; its curves are there for TensorBoard."""
    monkeypatch.chdir(tmp_path)
    words = [*STUDY, "--tensorboard", "tb"]
    study = subprocess.Popen(words, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        command = _when(lambda found: found.done >= 1, study)
    finally:
        os.killpg(study.pid, signal.SIGKILL)
        study.communicate()
    assert (command.plan.process, command.plan.is_alive, command.total) == (study.pid, True, 13)
    assert command.plan.command.startswith("layerwise study gutstein --experiments levels")
    assert 1 <= command.done <= 13
    assert command.plan.forecast > 0
    assert command.best
    told = run("watch", "st", "--once")
    assert (told.code, told.err) == (0, "")
    assert "it was killed; the same command does the rest" in told.out

    stored = len(list(Store(Path("st")).keys()))
    assert subprocess.run(words, capture_output=True).returncode == 0
    (ended,) = Watch(Store(Path("st"))).picture().commands
    assert (ended.total, ended.done, len(ended.plan.stored)) == (13 - stored, 13 - stored, stored)
    assert ended.plan.ended is not None
    store = Store(Path("st"))
    whole = [path.name.partition(" ")[0] for path in Path("tb").iterdir() if not path.name.startswith(".")]
    assert sorted(whole) == list(store.keys())  # what the kill may have left half, a later command removes


def _when(so: Callable[[Command], bool], study: "subprocess.Popen[bytes]") -> Command:
    """The command in the store `st`, once it is so."""
    while study.poll() is None:
        if Path("st/layerwise.json").exists():
            for found in Watch(Store(Path("st"))).picture().commands:
                if so(found):
                    return found
        time.sleep(0.02)
    raise AssertionError(study.communicate())


def test_ctrl_c_ends_the_looking_with_130(tmp_path: Path) -> None:
    Store(tmp_path / "st")
    ours, theirs = pty.openpty()
    words = [*MAIN, "watch", str(tmp_path / "st"), "--every", "0.1"]
    looking = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, start_new_session=True)
    os.close(theirs)
    seen = b""
    while seen.count(b"nothing is being trained") < 2:  # it looks again
        seen += os.read(ours, 4096)
    looking.send_signal(signal.SIGINT)
    assert looking.wait(20) == 130
    assert looking.communicate()[1] == b""
    os.close(ours)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothere"], "StudyError: there is no store nothere; name the folder that runs were trained into"),
        (["--every", "0"], "StudyError: --every 0 is not possible; give a number of seconds, such as 1"),
    ],
)
def test_mistakes(
    run: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run("watch", *words)
    assert (found.code, found.err.strip()) == (2, told)
    assert not list(tmp_path.iterdir())


def test_watching_imports_no_torch(tmp_path: Path) -> None:
    Store(tmp_path / "st")
    code = (
        "import sys; sys.argv = ['layerwise', 'watch', sys.argv[1]]\n"
        "from layerwise import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "st")], check=True, stdout=subprocess.DEVNULL)


def test_curves_for_tensorboard_are_those_of_the_runs_and_written_once(blobs: DataSet, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs = grid(blobs, sources=1)
    here = setting(tmp_path / "store", blobs, runs)
    store = Store(here.store)
    done_by(runs[:1], here)
    plan = planned(runs, here.store)
    writer = Scalars(tmp_path / "tb", store)
    writer.planned(plan, FORECAST, 1)  # what is stored already
    for outcome in done_by(runs[:2], here):
        writer.ended(outcome)
    writer.ended(Outcome(key(runs[2]), "diverged", "loss nan"))
    folders = {path.name for path in (tmp_path / "tb").iterdir()}
    assert folders == {f"{key(run)} {run.treatment}" for run in runs[:2]}
    for run in runs[:2]:
        place = tmp_path / "tb" / f"{key(run)} {run.treatment}"
        events = EventAccumulator(str(place)).Reload()
        read = {(e.step, *tag.split("/")): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
        curve = store.get(key(run)).result["curve"]
        assert read == {(step, split, what): pytest.approx(value, rel=1e-6) for step, split, what, value in curve}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tb").rglob("*")}
    half, fresh = (tmp_path / "tb" / f".{key(runs[0])}-{process}" for process in (1, 2))
    half.mkdir()
    fresh.mkdir()
    os.utime(half, (0, 0))
    Scalars(tmp_path / "tb", store).planned(planned(runs, here.store), FORECAST, 1)
    assert not half.exists()  # left by one that was killed
    fresh.rmdir()  # it is there still: perhaps it was being written
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tb").rglob("*")} == before


def test_without_tensorboard_the_cure_is_told_before_anything_is_trained(
    run: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scalars, "find_spec", lambda name: None)
    found = run(*STUDY[3:], "--executor", "serial", "--tensorboard", "tb")
    cure = "StudyError: --tensorboard needs tensorboard, which is not installed; pip install 'layerwise[tensorboard]'"
    assert (found.code, found.err.strip()) == (2, cure)
    assert not Path("tb").exists()


def test_a_folder_for_tensorboard_that_cannot_be_written(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, sources=1)
    here = setting(tmp_path / "store", blobs, runs)
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"^--tensorboard .*/file cannot be written \(File exists\); pass another$"):
        Scalars(tmp_path / "file", Store(here.store))
    said: list[str] = []
    writer = Scalars(tmp_path / "tb", Store(here.store), said.append)
    (tmp_path / "tb").rmdir()
    (tmp_path / "tb").write_text("")  # as a disk that fails on the way
    for outcome in done_by(runs[:1], here):
        writer.ended(outcome)
        writer.ended(outcome)
    assert said == [f"--tensorboard {tmp_path / 'tb'} cannot be written (Not a directory); runs go on without it"]


def test_an_adaptation_is_heard_too(blobs: DataSet, tmp_path: Path) -> None:
    save_file(build("lenet5relu", (1, 32, 32), 10, 7).state_dict(), tmp_path / "w.safetensors")
    np.savez(tmp_path / "blobs.npz", images=blobs.images[:, 0], labels=blobs.labels)
    net = layerwise.adapt(
        f"lenet5relu@{tmp_path / 'w.safetensors'}", f"npz:{tmp_path / 'blobs.npz'}", treatment="F*R", rates=(0.01,),
        steps=3, batch_size=8, quiet=True, executor="serial", store=tmp_path / "st", out=tmp_path / "out",
        tensorboard=tmp_path / "tb",
    )  # fmt: skip
    (folder,) = (tmp_path / "tb").iterdir()
    assert folder.name.partition(" ")[0] == net.task.run
    (note,) = running.running(tmp_path / "st")
    assert note.command.startswith("layerwise.adapt(")
    assert (list(note.missing), note.ended is None) == ([net.task.run], False)


class Hearing(Quiet):
    """Remembers what it is told."""

    def __init__(self, heard: list[str], name: str) -> None:
        self.heard, self.name = heard, name

    def say(self, line: str) -> None:
        self.heard.append(f"{self.name} {line}")

    def probing(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: self.heard.append(f"{self.name} {name} {done}/{total}")


class User(Hearing, Terminal):
    """Hears what the user is told."""


def test_several_hear_in_their_order_and_the_user_only_what_is_for_the_user() -> None:
    heard: list[str] = []
    both = Several(User(heard, "user"), Hearing(heard, "other"))
    both.say("a")
    both.probing("spread")(1, 2)
    both.aside.say("b")
    assert heard == ["user a", "other a", "user spread 1/2", "other spread 1/2", "other b"]


def test_lines_are_json(tmp_path: Path) -> None:
    file = running.begin(tmp_path, {"a": 'b"\n'})
    running.end(file, 1.5)
    (path,) = (tmp_path / "running").iterdir()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 'b"\n'}, {"ended": 1.5}]
