"""Connecting to a Ray cluster, or starting a private one: without a word from ray, and leaving nothing behind.

Ray is an extra: it is imported when a cluster is asked for, never before.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import psutil

from layerwise.errors import StudyError

ANSWER_SECONDS = 5  # for a cluster's port to take a connection; ray itself would try for minutes
# Ray's agents outlive a driver that is killed by a minute, and its files for ever.
CLEANER = """
import shutil, sys
import psutil
folder, *family = sys.argv[1:]
there = [psutil.Process(int(pid)) for pid in family if psutil.pid_exists(int(pid))]
sys.stdin.read()
for process in filter(psutil.Process.is_running, there):
    process.kill()
psutil.wait_procs(there, timeout=5)
shutil.rmtree(folder, ignore_errors=True)
"""
LOCAL_OBJECTS = 100 * 2**20  # bytes for ray's own object store on a private cluster: only settings pass through it


def import_ray() -> Any:
    """The ray module, told to report nothing to its makers; StudyError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        raise StudyError(
            f"--executor cluster needs ray ({error}); install it with: pip install 'layerwise[cluster]'"
        ) from error


@contextmanager
def connected(ray: Any, address: str, workers: int | None = None) -> Iterator[None]:
    """Be connected to a cluster, without a word from ray; a private one, of so many processes, ends with this.

    A connection that this process had before is used, and left as it was. Raises StudyError where nothing is there.
    """
    with _hushed(ray), _kept_environment():
        if ray.is_initialized():
            if address != "auto":
                raise StudyError(
                    f"--address {address}: this process is already connected to a cluster; "
                    "pass auto to use that one, or call ray.shutdown() first"
                )
            yield
        elif address == "local":
            with _private(ray, workers or len(os.sched_getaffinity(0))):
                yield
        else:
            _connect(ray, address)
            try:
                yield
            finally:
                ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    found = _found(ray, address)
    host, _, port = found.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise StudyError(f"--address '{address}' is none of auto, local, HOST:PORT, ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise StudyError(
            f"--address {address}: no cluster answers at {host}:{port} ({error}); start one with `ray start --head`, "
            "or pass --address local for a private one"
        ) from error
    _begin(ray, address, address=found)


def _found(ray: Any, address: str) -> str:
    """Where the cluster is; `auto` is the one that RAY_ADDRESS names, or that was started on this machine."""
    if address != "auto":
        return address
    try:
        found = ray._private.services.canonicalize_bootstrap_address_or_die("auto")
    except (ConnectionError, ValueError) as error:
        told = os.environ.get("RAY_ADDRESS", "")
        if told.startswith("ray://"):
            return told
        raise StudyError(
            "--address auto: no cluster is running on this machine; start one with `ray start --head`, "
            "name one as HOST:PORT, or pass --address local for a private one"
        ) from error
    return str(found)


@contextmanager
def _private(ray: Any, workers: int) -> Iterator[None]:
    """A cluster of this machine's own, which nobody else can reach, and of which nothing stays."""
    folder = tempfile.mkdtemp(prefix="layerwise-", dir="/tmp")  # a socket's path has at most 107 characters
    constants: Any = import_module("ray._private.ray_constants")
    joined = constants.ENABLE_RAY_CLUSTER
    # Where ray takes the machine for one that can be no part of a cluster, it listens on 127.0.0.1 alone.
    constants.ENABLE_RAY_CLUSTER = False
    # Other users of the machine reach 127.0.0.1 too: the cluster obeys this process alone.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    _reread_token()
    before = set(psutil.Process().children())
    try:
        _begin(
            ray, "local", address="local", num_cpus=workers, include_dashboard=False,
            object_store_memory=LOCAL_OBJECTS, _node_ip_address="127.0.0.1", _temp_dir=folder,
        )  # fmt: skip
        with _cleaned(folder, set(psutil.Process().children()) - before):
            try:
                yield
            finally:
                ray.shutdown()
    finally:
        constants.ENABLE_RAY_CLUSTER = joined
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _cleaned(folder: str, started: set[psutil.Process]) -> Iterator[None]:
    """Have a process wait for the end of this, or of this process however it ends, and put away what ray leaves."""
    family = [str(process.pid) for one in started for process in (one, *one.children(recursive=True))]
    command = [sys.executable, "-c", CLEANER, folder, *family]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):  # leaving it closes the pipe
        yield


def _reread_token() -> None:
    """Have ray forget what it has read of the environment in this process."""
    internals = import_module("ray._raylet")
    internals.AuthenticationTokenLoader.instance().reset_cache()
    internals.Config.initialize("")


def _begin(ray: Any, told: str, **options: Any) -> None:
    """ray.init, which neither talks nor takes the answer to SIGTERM from us."""
    with _kept_handler():
        try:
            ray.init(log_to_driver=False, logging_level="error", **options)
        except (ConnectionError, RuntimeError, ValueError, OSError, ImportError) as error:
            ray.shutdown()
            raise StudyError(f"--address {told}: {_line(error)}") from error


@contextmanager
def _kept_environment() -> Iterator[None]:
    """Undo what is written into the environment for one cluster: a token must not be taken to the next one."""
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("RAY_") and name not in before]:
            del os.environ[name]
        os.environ.update(before)
        _reread_token()


@contextmanager
def _kept_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _hushed(ray: Any) -> Iterator[None]:
    """Have ray print nothing of workers and nodes that die: an outcome's notes say it."""
    printer: Any = import_module("ray._private.worker")
    before = printer.print_to_stdstream
    printer.print_to_stdstream = lambda *_words, **_options: None
    try:
        yield
    finally:
        printer.print_to_stdstream = before


def _line(error: BaseException) -> str:
    """An error of ray's as one line."""
    return " ".join(str(error).split()) or type(error).__name__
