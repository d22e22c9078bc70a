"""How long does a whole study take from an empty store, and in how much memory?

    python benchmarks/study.py [all --scale demo]

What follows is for `layerwise study`, which is run as a user runs it, in a folder of its own that is then removed; for
two cores of a larger machine: `taskset -c 0,1 python ...`. Memory is that of the command and of all processes that it
starts, looked at twice a second; what they share is counted once (the sum of their PSS, which Linux tells).
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

PAUSE = 0.5  # seconds between two looks at memory


def main() -> None:
    """Run it, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs=argparse.REMAINDER, help="of `layerwise study`; by default all --scale demo")
    words = parser.parse_args().words or ["all", "--scale", "demo"]
    with tempfile.TemporaryDirectory(prefix="layerwise-study-") as folder:
        print(json.dumps(measured(words, Path(folder)), indent=1))


def measured(words: list[str], folder: Path) -> dict[str, object]:
    """What the study took; the program ends with the command's code where that fails."""
    places = ["--store", str(folder / "store"), "--out", str(folder / "out")]
    start, most = time.perf_counter(), 0
    with subprocess.Popen([sys.executable, "-m", "layerwise", "study", *words, *places], stdout=sys.stderr) as running:
        while running.poll() is None:
            most = max(most, memory(running.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(PAUSE)
    seconds = time.perf_counter() - start
    if running.returncode:
        raise SystemExit(running.returncode)
    return {
        "command": " ".join(["layerwise", "study", *words]),
        "runs": json.loads((folder / "out" / "plan.json").read_text())["totals"]["runs"],
        "seconds": round(seconds, 1),
        "gigabytes": round(most / 1e9, 3),
        "cores": len(os.sched_getaffinity(0)),
    }


def memory(first: int) -> int:
    """Bytes that a process and all that it has started have together now."""
    found = 0
    with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
        parent = psutil.Process(first)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += process.memory_full_info().pss
    return found


if __name__ == "__main__":
    main()
