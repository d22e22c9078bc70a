"""The cluster executor on a real cluster of several processes, whose nodes and workers are killed in the middle."""

import math
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
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import psutil
import pytest

from layerwise.data.dataset import DataSet
from layerwise.errors import StoreError, StudyError
from layerwise.execute import cluster, connection, nodes, serial
from layerwise.execute.connection import connected, import_ray
from layerwise.execute.nodes import CUDA_BYTES, Node, look, request
from layerwise.execute.work import Outcome, Setting
from layerwise.run import Run, key
from layerwise.store import Store

from making import RECIPE, assert_close, contents, grid, planned, setting

ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'layerwise[cluster]')")

pytestmark = [  # all of them ray's own
    pytest.mark.filterwarnings("ignore:unclosed file <_io:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:subprocess \\d+ is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
LONG = replace(RECIPE, precision="float64", steps=50, evaluate_every=25)
SMALL = {"object_store_memory": 80 * 2**20}
GB = 2**30
Reference = Callable[[DataSet, list[Run]], dict[str, Any]]


class Machines:
    """A head that does no work, and nodes of one processor each: all on this machine, each with its own address."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

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
    node, processes = wait_for(
        lambda: next(((node, found) for node in machines.nodes if (found := at_work(node, store))), None), "work"
    )
    if whole_node:
        machines.kill(node)
    else:
        for process in processes:
            process.kill()


@pytest.mark.parametrize("whole_node", [False, True], ids=["process", "node"])
def test_what_was_lost_in_the_middle_is_done_again(
    machines: Machines,
    blobs: DataSet,
    tmp_path: Path,
    reference: Reference,
    capfd: pytest.CaptureFixture[str],
    whole_node: bool,
) -> None:
    runs = grid(blobs, recipe=LONG)
    here = setting(tmp_path / "cluster", blobs, runs, "cluster")
    execution = cluster.execute(planned(runs, here.store, width=2), here, machines.address)
    outcomes = [next(execution)]
    lose(machines, here.store, whole_node)
    capfd.readouterr()
    outcomes += execution
    assert capfd.readouterr() == ("", "")
    assert sorted(outcome.key for outcome in outcomes) == sorted(map(key, runs))
    assert all(outcome.is_stored for outcome in outcomes), outcomes
    told = [note for outcome in outcomes for note in outcome.notes]
    assert len(told) == 1
    assert told[0].partition(" was done again: ")[2] in (
        {f"node 127.0.0.{k} was lost" for k in range(3, machines.made)}
        if whole_node
        else {"its process died (killed, or out of memory)"}
    )
    assert_close(contents(here.store), reference(blobs, runs))


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(10))
def test_lost_again_and_again(
    machines: Machines, blobs: DataSet, tmp_path: Path, reference: Reference, attempt: int
) -> None:
    draw = random.Random(attempt)
    runs = grid(blobs, sources=3, recipe=LONG)
    here = setting(tmp_path / "cluster", blobs, runs, "cluster")
    outcomes = []
    for outcome in cluster.execute(planned(runs, here.store, width=2), here, machines.address):
        outcomes.append(outcome)
        if len(outcomes) in {1, 4, 7}:
            time.sleep(draw.uniform(0, 0.5))
            if len(outcomes) < len(runs) - 2:
                lose(machines, here.store, draw.random() < 0.5)
    assert sorted(outcome.key for outcome in outcomes) == sorted(map(key, runs))
    assert all(outcome.is_stored for outcome in outcomes), outcomes
    assert_close(contents(here.store), reference(blobs, runs))


DRIVER = """
import sys
from pathlib import Path
from layerwise.data.dataset import load
from layerwise.execute import cluster
from test_cluster import LONG, grid, planned, setting
store, address = Path(sys.argv[1]), sys.argv[2]
data = load(store / "data" / "blobs")
runs = grid(data, recipe=LONG)
here = setting(store, data, runs, "cluster")
try:
    for outcome in cluster.execute(planned(runs, here.store, width=2), here, address, workers=2):
        print(outcome.state, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def drive(store: Path, address: str) -> subprocess.Popen[str]:
    """A study in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", DRIVER, str(store), address],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_an_interrupt_kills_the_tasks_and_leaves_the_cluster(
    machines: Machines, blobs: DataSet, tmp_path: Path, reference: Reference
) -> None:
    runs = grid(blobs, recipe=LONG)
    here = setting(tmp_path / "cluster", blobs, runs, "cluster")
    driver = drive(here.store, machines.address)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "done\n"
    wait_for(lambda: [process for node in machines.nodes for process in at_work(node, here.store)], "work")
    driver.send_signal(signal.SIGINT)
    words, errors = driver.communicate(timeout=15)
    assert (words.splitlines()[-1], errors, driver.returncode) == ("interrupted", "", 0)
    busy = [process for node in machines.nodes for process in family(node) if process.name().startswith("ray::run ")]
    assert psutil.wait_procs(busy, timeout=10)[1] == []
    left = planned(runs, here.store, width=2)
    assert 0 < len(left.missing) < len(runs)
    outcomes = list(cluster.execute(left, here, machines.address))
    assert sorted(outcome.key for outcome in outcomes) == sorted(map(key, left.missing))
    assert_close(contents(here.store), reference(blobs, runs))


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
    node = "127.0.0.3"
    with pytest.raises(StoreError) as caught:
        list(cluster.execute(planned(runs, here.store), moved, machines.address))
    assert str(caught.value).startswith(f"node {socket.gethostname()} (127.0.0.")
    assert str(caught.value).endswith(
        f" does not see the store {seen}; pass a --store that all nodes share, at the same path, such as a folder on NFS"
    )
    assert node
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
