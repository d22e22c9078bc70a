"""The cluster executor on a real cluster of several processes, whose nodes and workers are killed in the middle."""

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from layerwise.data.dataset import DataSet
from layerwise.errors import LayerwiseError, StoreError, StudyError
from layerwise.execute import cluster, connection, nodes, serial
from layerwise.execute.connection import import_ray
from layerwise.execute.forecast import Size, unit_bytes
from layerwise.execute.nodes import CUDA_BYTES, Node, look, request
from layerwise.execute.speeds import step_bytes
from layerwise.execute.work import Outcome
from layerwise.job import Means
from layerwise.nets import build
from layerwise.run import Run, key
from layerwise.store import Store

from making import RECIPE, assert_close, contents, done_by, grid, planned, setting

ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'layerwise[cluster]')")

pytestmark = [  # all of them ray's own
    pytest.mark.filterwarnings("ignore:unclosed file <_io:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:subprocess \\d+ is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
LONG = replace(RECIPE, precision="float64", steps=50, evaluate_every=25)
LONGER = replace(LONG, steps=400, evaluate_every=200)
SMALL = {"object_store_memory": 80 * 2**20}
GB = 2**30
Reference = Callable[[DataSet, list[Run]], dict[str, Any]]


class Machines:
    """A head that does no work, and nodes of one processor each: all on this machine, each with its own address."""

    def __init__(self) -> None:
        from ray._common.utils import get_default_ray_temp_dir
        from ray.cluster_utils import Cluster

        Path(get_default_ray_temp_dir()).mkdir(exist_ok=True)  # where ray writes the address, whatever the folder
        self.folder = mkdtemp(prefix="ray-", dir="/tmp")  # a socket's path has at most 107 characters
        self.client_port = free_port()
        self.made = 2
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0, "node_ip_address": "127.0.0.2", "include_dashboard": False, "temp_dir": self.folder,
                "ray_client_server_port": self.client_port, **SMALL,
            },
        )  # fmt: skip
        self.nodes = [self.add(), self.add()]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self, **options: Any) -> Any:
        self.made += 1
        return self.cluster.add_node(**{"num_cpus": 1, "node_ip_address": f"127.0.0.{self.made}", **SMALL, **options})

    def remove(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)

    def kill(self, node: Any) -> None:
        """kill -9 of everything that runs on the node; another takes its place."""
        for process in family(node):
            process.kill()
        self.remove(node)
        self.nodes[self.nodes.index(node)] = self.add()

    def close(self) -> None:
        self.cluster.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def family(node: Any) -> list[psutil.Process]:
    """All processes of a node."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [raylet, *raylet.children(recursive=True)]


def at_work(node: Any, store: Path) -> list[psutil.Process]:
    """The node's processes that hold a run of the store."""
    found = []
    for process in family(node):
        try:
            if any(file.path.startswith(str(store / "locks")) for file in process.open_files()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(found: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    ends = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < ends, f"{what} has not happened in {seconds} s"
        time.sleep(0.02)
    return result


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")  # nobody else on this network is to run code here
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S", "120")  # this machine may be busy
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        connection._reread_token()
        made = Machines()
        yield made
        made.close()
    connection._reread_token()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """What the serial executor makes of runs of LONG; it does them once for all tests."""
    folder = tmp_path_factory.mktemp("serial")

    def found(data: DataSet, runs: list[Run]) -> dict[str, Any]:
        here = setting(folder, data, runs)
        assert all(outcome.is_stored for outcome in serial.execute(planned(runs, folder), here))
        return {name: content for name, content in contents(folder).items() if name in set(map(key, runs))}

    return found


# On a real cluster


def test_two_nodes_give_what_the_serial_executor_gives_and_ray_says_nothing(
    machines: Machines, blobs: DataSet, tmp_path: Path, reference: Reference, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = grid(blobs, recipe=LONG)
    here = setting(tmp_path / "cluster", blobs, runs, "cluster")
    answers_sigterm = signal.getsignal(signal.SIGTERM)
    capfd.readouterr()
    outcomes = list(cluster.execute(planned(runs, here.store, width=2), here, machines.address))
    assert capfd.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGTERM) is answers_sigterm
    assert not ray.is_initialized()
    assert sorted(outcome.key for outcome in outcomes) == sorted(map(key, runs))
    assert {(outcome.state, outcome.notes) for outcome in outcomes} == {("done", ())}
    assert_close(contents(here.store), reference(blobs, runs))
    assert list(cluster.execute(planned(runs, here.store, width=2), here, machines.address)) == []


def test_a_client_outside_the_cluster_does_the_same(
    machines: Machines, blobs: DataSet, tmp_path: Path, reference: Reference
) -> None:
    runs = grid(blobs, sources=1, recipe=LONG)
    here = setting(tmp_path / "cluster", blobs, runs, "cluster")
    outcomes = list(
        cluster.execute(planned(runs, here.store, width=2), here, f"ray://127.0.0.2:{machines.client_port}")
    )
    assert [outcome.state for outcome in outcomes] == ["done"] * len(runs)
    assert_close(contents(here.store), reference(blobs, runs))


def lose(machines: Machines, store: Path, whole_node: bool) -> None:
    """Kill a process that trains a run, or all of its node."""

    def working() -> tuple[Any, list[psutil.Process]] | None:
        return next(((node, found) for node in machines.nodes if (found := at_work(node, store))), None)

    node, processes = wait_for(working, "work", seconds=15)
    if whole_node:
        machines.kill(node)
    else:
        for process in processes:
            process.kill()


def test_what_a_process_and_then_a_node_lost_in_the_middle_is_done_again(
    machines: Machines, blobs: DataSet, tmp_path: Path, capfd: pytest.CaptureFixture[str], reference: Reference
) -> None:
    runs = grid(blobs, sources=3, recipe=LONG)
    here = setting(tmp_path / "cluster", blobs, runs, "cluster")
    execution = cluster.execute(planned(runs, here.store, width=2), here, machines.address)
    outcomes = [next(execution)]
    lose(machines, here.store, whole_node=False)
    outcomes += (next(execution) for _ in range(4))
    lose(machines, here.store, whole_node=True)
    capfd.readouterr()
    outcomes += execution
    assert capfd.readouterr() == ("", "")
    assert sorted(outcome.key for outcome in outcomes) == sorted(map(key, runs))
    assert all(outcome.is_stored for outcome in outcomes), outcomes
    notes = [note.partition(" was done again: ")[2] for outcome in outcomes for note in outcome.notes]
    process, node = sorted(how for note in notes for how in note.split("; "))
    assert process == "its process died (killed, or out of memory)"
    assert node in {f"node 127.0.0.{k} was lost" for k in range(3, machines.made)}
    assert_close(contents(here.store), reference(blobs, runs))


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(10))
def test_lost_again_and_again(
    machines: Machines, blobs: DataSet, tmp_path: Path, reference: Reference, attempt: int
) -> None:
    """An executor that nobody asks for more hands out no work: a loss may find that all it had is done.

    Three losses may all hit one unit, which is then reported, with what needs it; the same command does these.
    """
    draw = random.Random(attempt)
    runs = grid(blobs, sources=3, recipe=LONGER)
    here = setting(tmp_path / "cluster", blobs, runs, "cluster")
    outcomes, lost = [], 0
    for outcome in cluster.execute(planned(runs, here.store, width=2), here, machines.address):
        outcomes.append(outcome)
        if len(outcomes) in {1, 4, 7}:
            time.sleep(draw.uniform(0, 0.5))
            with suppress(AssertionError):
                lose(machines, here.store, draw.random() < 0.5)
                lost += 1
    assert lost
    assert sorted(outcome.key for outcome in outcomes) == sorted(map(key, runs))
    failed = [outcome for outcome in outcomes if not outcome.is_stored]
    if failed:
        assert lost == cluster.TRIES
        assert any("tried 3 times, and each time" in outcome.message for outcome in failed), failed
        left = planned(runs, here.store, width=2)
        assert {key(run) for run in left.missing} == {outcome.key for outcome in failed}
        assert all(outcome.is_stored for outcome in cluster.execute(left, here, machines.address))
    assert_close(contents(here.store), reference(blobs, runs))


DRIVER = """
import faulthandler
import signal
import sys
from pathlib import Path
from layerwise.data.dataset import load
from layerwise.execute import cluster
from test_cluster import endless, planned, setting
faulthandler.register(signal.SIGUSR1, all_threads=True)
store, address = Path(sys.argv[1]), sys.argv[2]
data = load(store / "data" / "blobs")
runs = endless(data)
here = setting(store, data, runs, "cluster")
try:
    for outcome in cluster.execute(planned(runs, here.store, width=2), here, address, workers=2):
        print(outcome.state, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def endless(data: DataSet) -> list[Run]:
    """A grid whose sources are soon there, and whose other runs would take minutes."""
    long = (replace(LONG, steps=50_000, evaluate_every=50_000),)
    return [replace(run, recipes=long) if run.source else run for run in grid(data, recipe=LONG)]


def drive(store: Path, address: str) -> subprocess.Popen[str]:
    """A study in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", DRIVER, str(store), address],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def end(driver: subprocess.Popen[str]) -> tuple[str, str]:
    """What it said until it ended; where it does not end, with where it hangs."""
    try:
        return driver.communicate(timeout=15)
    except subprocess.TimeoutExpired:
        driver.send_signal(signal.SIGUSR1)
        with suppress(subprocess.TimeoutExpired):
            driver.communicate(timeout=2)
        driver.kill()
        return driver.communicate()


def test_an_interrupt_kills_the_tasks_and_leaves_the_cluster(
    machines: Machines, blobs: DataSet, tmp_path: Path
) -> None:
    runs = endless(blobs)
    here = setting(tmp_path / "cluster", blobs, runs, "cluster")
    driver = drive(here.store, machines.address)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "done\n"
    wait_for(lambda: [process for node in machines.nodes for process in at_work(node, here.store)], "work")
    driver.send_signal(signal.SIGINT)
    words, errors = end(driver)
    assert errors == "", errors
    assert (words.splitlines()[-1:], driver.returncode) == (["interrupted"], 0)
    busy = [process for node in machines.nodes for process in family(node) if process.name().startswith("ray::run ")]
    assert psutil.wait_procs(busy, timeout=10)[1] == []
    assert 0 < len(planned(runs, here.store).missing) < len(runs)


def test_work_for_an_execution_that_is_over_ends(tmp_path: Path) -> None:
    """Whoever stays connected to the cluster leaves no process of it at work for nothing."""
    store = Store(tmp_path).folder
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom layerwise.execute import cluster\n"
        "from layerwise.store import Store\ncluster.WAKE_EVERY = 0.05\n"
        "with cluster._while_wanted(Store(Path(sys.argv[1])), 'mark'):\n"
        "    print('at work', flush=True)\n    time.sleep(60)\n"
    )
    with cluster._path(store, "mark").open("w"), subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as working:  # fmt: skip
        assert working.stdout is not None
        assert working.stdout.readline() == "at work\n"
        time.sleep(0.3)
        assert working.poll() is None
        cluster._path(store, "mark").unlink()
        assert working.wait(timeout=10) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_others_swallow_is_heard(number: signal.Signals) -> None:
    def interrupt(*_signal: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    try:
        with cluster._interrupts() as check:
            check()
            with suppress(KeyboardInterrupt):  # as ray's own code does now and then
                signal.raise_signal(number)
            with pytest.raises(KeyboardInterrupt):
                check()
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)


def test_a_store_that_fails_stops_all_with_its_message(machines: Machines, blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, sources=1, recipe=LONG)
    here = setting(tmp_path / "cluster", blobs, runs, "cluster")
    execution = cluster.execute(planned(runs, here.store, width=2), here, machines.address)
    next(execution)
    here.store.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=f"^store {here.store} is no longer there; the same command makes it anew$"):
        list(execution)
    assert not ray.is_initialized()
    assert not here.store.exists()


def test_a_store_that_a_node_does_not_see_is_refused_by_the_name_of_the_node(
    machines: Machines, blobs: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = grid(blobs, sources=1)
    here = setting(tmp_path / "store", blobs, runs, "cluster")
    monkeypatch.chdir(tmp_path)
    seen = Path("/proc/self/cwd/store")  # another folder for a node that was started elsewhere
    moved = replace(here, store=seen)
    with pytest.raises(StoreError) as caught:
        list(cluster.execute(planned(runs, here.store), moved, machines.address))
    assert str(caught.value).startswith(f"node {socket.gethostname()} (127.0.0.")
    assert str(caught.value).endswith(
        f") does not see the store {seen}; "
        "pass a --store that all nodes share, at the same path, such as a folder on NFS"
    )
    with pytest.raises(StudyError, match=r"does not see the data in .*/nowhere; put them where all nodes see them$"):
        list(
            cluster.execute(
                planned(runs, here.store, width=2), replace(here, data={"d": tmp_path / "nowhere"}), machines.address
            )
        )
    assert contents(here.store) == {}


def test_what_no_node_can_give_is_refused_before_anything_is_trained(
    machines: Machines, blobs: DataSet, tmp_path: Path
) -> None:
    runs = grid(blobs, sources=1)
    here = setting(tmp_path, blobs, runs, "cluster")
    with pytest.raises(StudyError, match=rf"^run {key(runs[0])} \(R6\) needs 90000.0 GB of memory; the most that a"):
        list(cluster.execute(planned(runs, here.store), here, machines.address, memory=lambda _unit: 90_000 * GB))
    there = replace(here, device="cuda")
    with pytest.raises(StudyError, match=r"^--device cuda: no node of the cluster has a GPU \(its nodes: "):
        list(cluster.execute(planned(runs, here.store), there, machines.address))
    assert contents(here.store) == {}


# On a private cluster


def test_a_study_from_the_command_line_on_a_private_cluster(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(8), 10)
    images = np.random.default_rng(0).integers(0, 255, (80, 32, 32), dtype=np.uint8)
    np.savez(tmp_path / "some.npz", images=images, labels=labels)
    words = "study gutstein --experiments levels --data npz:some.npz --seeds 1 --shots 1 --steps 6 --source-steps 6"
    command = [sys.executable, "-W", "error", "-c", "from layerwise.cli import main; main()", *words.split()]
    before = family_of_this_process()
    done = subprocess.run(
        [*command, "--executor", "cluster", "--address", "local", "--workers", "2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Report: layerwise-out/gutstein/report.html\n")
    assert {line.partition(":")[0].partition(" ")[0] for line in done.stderr.splitlines()} <= {
        "Note", "Plan", *(f"{k}/7" for k in range(1, 8)),
    }  # fmt: skip
    assert " on 2 cores, " in done.stderr
    store = Store(tmp_path / "layerwise-store")
    found = [store.get(name).result["provenance"] for name in store.keys()]  # noqa: SIM118
    assert [(one["executor"], one["device"]) for one in found] == [("cluster", "cpu")] * 7
    assert family_of_this_process() <= before  # an earlier test's may just have ended


def family_of_this_process() -> set[int]:
    """Processes that this one, or one that it started, has left."""
    mark = str(Path(__file__).parents[1])
    return {p.pid for p in psutil.process_iter() if names_of_ray(p) and mark in environment(p).get("PYTHONPATH", "")}


def names_of_ray(process: psutil.Process) -> bool:
    try:
        return process.name().startswith(("ray", "gcs_server"))
    except psutil.Error:
        return False


def environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_a_killed_study_takes_its_private_cluster_with_it(blobs: DataSet, tmp_path: Path) -> None:
    runs = grid(blobs, recipe=LONG)
    here = setting(tmp_path / "cluster", blobs, runs, "cluster")
    driver = drive(here.store, "local")
    assert driver.stdout is not None
    assert driver.stdout.readline() == "done\n"
    family = psutil.Process(driver.pid).children(recursive=True)
    assert {process.name() for process in family} >= {"raylet", "gcs_server"}
    driver.kill()
    driver.communicate(timeout=15)
    assert psutil.wait_procs(family, timeout=20)[1] == []


# Without a cluster


A100 = Node("1", "a", cpus=8, memory=64 * GB, gpus=4, gpu_kind="A100", gpu_bytes=80 * GB)
T4 = Node("2", "b", cpus=4, memory=16 * GB, gpus=1, gpu_kind="T4", gpu_bytes=16 * GB)
PLAIN = Node("3", "c", cpus=2, memory=4 * GB)


@pytest.mark.parametrize(
    ("needed", "device", "nodes", "asked"),
    [
        (0, "cpu", [PLAIN], {"num_cpus": 1}),
        (3 * GB, "cpu", [PLAIN], {"num_cpus": 1, "memory": 3 * GB}),
        (0, "cuda", [PLAIN, T4], {"num_cpus": 1, "num_gpus": 1}),
        (4 * GB - CUDA_BYTES, "cuda", [PLAIN, T4], {"num_cpus": 1, "num_gpus": 0.25}),
        (4 * GB - CUDA_BYTES, "cuda", [A100, T4], {"num_cpus": 1, "num_gpus": 0.25}),  # wherever there is room
        (20 * GB - CUDA_BYTES, "cuda", [A100, T4], {"num_cpus": 1, "num_gpus": 0.25, "accelerator_type": "A100"}),
        (4 * GB, "cuda", [replace(T4, gpu_bytes=0)], {"num_cpus": 1, "num_gpus": 1}),
    ],
)
def test_what_a_unit_asks_for(needed: int, device: str, nodes: list[Node], asked: dict[str, Any]) -> None:
    assert request(needed, device, nodes, "run x") == asked


def test_a_gpu_that_is_too_small_is_told() -> None:
    with pytest.raises(StudyError) as caught:
        request(20 * GB, "cuda", [PLAIN, T4], "run x")
    assert str(caught.value) == (
        "run x needs 20.8 GB of a GPU's memory; the largest GPU of the cluster has 16.0 GB, b; "
        "add a larger one, or pass --device cpu"
    )
    with pytest.raises(StudyError, match=r"^the cluster has no node with a processor to give; start one with `ray sta"):
        request(0, "cpu", [], "run x")


def test_a_node_says_what_it_sees(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.lock("mark", wait=False):
        seen = look(str(tmp_path), "mark", [str(tmp_path), str(tmp_path / "nowhere")])
    assert (seen["sees"], seen["locked"], seen["lacks"]) == (True, True, [str(tmp_path / "nowhere")])
    free = look(str(tmp_path), "mark", [])
    assert (free["sees"], free["locked"]) == (True, False)
    assert look(str(tmp_path), "other", [])["sees"] is False
    assert seen["versions"]["torch"] == torch.__version__.partition("+")[0]


GOOD = {
    "versions": {"layerwise": "1", "torch": "2"}, "sees": True, "locked": True, "lacks": [],
    "bfloat16": False, "capability": 7.5, "gpu_bytes": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("theirs", "device", "precision", "message"),
    [
        ({"versions": {"layerwise": "1", "torch": "3"}}, "cpu", "float32",
            "node b has torch 3, and this machine 2; install the same environment on all nodes"),
        ({"locked": "No locks available"}, "cpu", "float32",
            "node b cannot lock files in store s (No locks available); mount its file system writable and with flock"),
        ({"lacks": ["/data"]}, "cpu", "float32",
            "node b does not see the data in /data; put them where all nodes see them"),
        ({}, "cpu", "bfloat16",
            "--precision bfloat16: node b does not calculate in bfloat16; pass float32, or take the node out"),
        ({}, "cuda", "tf32", "--precision tf32: node b would train on an older GPU, and TF32 is for GPUs (Ampere and "
            "later); pass float32"),
        ({}, "cpu", "float32", None),
        ({"capability": 8.0}, "cuda", "tf32", None),
        ({}, "cuda", "bfloat16", None),
    ],
)  # fmt: skip
def test_a_node_that_cannot_do_the_work_is_told(
    theirs: dict[str, Any], device: str, precision: str, message: str | None
) -> None:
    found = {**GOOD, **theirs}
    told = None
    try:
        nodes._check_versions(T4, GOOD["versions"], found["versions"])
        nodes._check_sight(T4, Path("s"), found)
        nodes._check_precisions(T4, {precision}, device, found)
    except LayerwiseError as error:
        told = str(error)
    assert told == message


def test_a_unit_lost_three_times_has_failed_unless_its_run_was_stored(blobs: DataSet, tmp_path: Path) -> None:
    runs = [run for run in grid(blobs) if run.source is None][:2]
    here = setting(tmp_path, blobs, runs, "cluster")
    made = planned(runs, tmp_path, width=2)
    queue = cluster._Queue(made, here)
    unit, _ = queue.take() or (None, None)
    assert unit is not None
    for how in ("its process died", "node n was lost"):
        assert queue.settle(unit, cluster._Lost(how)) == []
        assert queue.take() == (unit, False)
    done_by(runs[:1], here)
    outcomes = {o.key: o for o in queue.settle(unit, cluster._Lost("its process died"))}
    assert outcomes[key(runs[0])].state == "stored"
    assert outcomes[key(runs[1])].message == (
        f"run {key(runs[1])} (R6): tried 3 times, and each time its process or node was lost: "
        "its process died; node n was lost; its process died"
    )
    assert queue.pending == set()


def test_a_unit_done_again_says_so_once(blobs: DataSet, tmp_path: Path) -> None:
    runs = [run for run in grid(blobs) if run.source is None][:2]
    queue = cluster._Queue(planned(runs, tmp_path, width=2), setting(tmp_path, blobs, runs, "cluster"))
    unit, _ = queue.take() or (None, None)
    assert unit is not None
    queue.settle(unit, cluster._Lost("node n was lost"))
    outcomes = queue.settle(unit, [Outcome(key(run), "done") for run in unit.todo])
    first = key(unit.runs[0])
    assert [o.notes for o in outcomes] == [(f"run {first} (R6 and 1 more) was done again: node n was lost",), ()]


def test_memory_that_a_unit_takes_grows_with_its_width(blobs: DataSet, tmp_path: Path) -> None:
    runs = [run for run in grid(blobs, sources=4) if run.source is None][:4]
    one, two = (planned(runs, tmp_path, width=width).units[0] for width in (1, 2))
    size = Size((1, 32, 32), 100, 60, 100)
    step = step_bytes(runs[0], (1, 32, 32))
    weights = sum(p.numel() for p in build("lenet5", (1, 32, 32), 20, seed=0).parameters()) * 8  # of float64
    assert step > 2 * weights  # gradients, momentum, and what the backward pass needs
    images = 160 * 32 * 32 * 4  # those of one pool: the runs' classes are the same
    assert unit_bytes(one, lambda _run: size) == 3 * images + 2 * step
    assert unit_bytes(two, lambda _run: size) == 3 * images + 4 * step


def test_without_ray_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StudyError) as caught:
        import_ray()
    assert str(caught.value).startswith("--executor cluster needs ray (")
    assert str(caught.value).endswith("); install it with: pip install 'layerwise[cluster]'")


def test_means_of_a_cluster_are_the_cluster_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "offer", lambda address: {"auto": (24, 0), "h:1": (16, 4)}[address])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("looked at this machine's GPUs"))
    found = [Means("cluster", address=address) for address in (None, "h:1")]
    assert [(means.place, means.processes) for means in found] == [("cpu", 24), ("cuda", 4)]
    chosen = Means("cluster", 3, "cpu", address="h:1")
    assert (chosen.place, chosen.processes) == ("cpu", 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1})  # of this machine, which measures
    assert [means.processes_here for means in (*found, replace(chosen, workers=1))] == [2, 2, 1]
    with pytest.raises(StudyError, match=r"^--device cuda: no node of the cluster has a GPU; pass --device cpu$"):
        Means("cluster", device="cuda")
