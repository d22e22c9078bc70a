"""`layerwise doctor`: what of layerwise is usable here, what is not, why, and what to do."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from layerwise import __version__
from layerwise.cli.checks import BROKEN, CHECKS
from layerwise.cli.options import STORE, StoreOption
from layerwise.cli.printing import print_table, printable

PATIENCE = 60.0  # seconds that a check may take
PROGRAM = (sys.executable, "-P", "-W", "ignore", "-m", "layerwise.cli.checks")  # -P: nothing from the folder we are in


@dataclass(frozen=True)
class Finding:
    """What a check came to."""

    name: str
    part: str  # core, machine, extra
    state: str  # usable, limited, absent, broken
    told: str
    cure: str
    seconds: float


def doctor(
    store: StoreOption = STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what of layerwise is usable here, what is not, why, and what to do; exit code 1 if the core is broken.

    Optional parts are imported in a process of their own: a broken one harms no other. Nothing is downloaded.
    """
    with Console(stderr=True).status("looking") as status:
        found = []
        for one in findings(list(CHECKS), store):
            found.append(one)
            status.update(f"looked at {one.name}")
    broken = [one.name for one in found if one.part == "core" and one.state == BROKEN]
    if as_json:
        told = {"layerwise": __version__, "works": not broken, "checks": [asdict(one) for one in found]}
        typer.echo(json.dumps(told, indent=1))
    else:
        print_table(["part", "what", "state", "seconds", "why, and what to do"], [_row(one) for one in found])
        verdict = f"layerwise cannot work here: {', '.join(broken)}" if broken else "layerwise works here"
        typer.echo(f"\nlayerwise {__version__}: {verdict}")
    if broken:
        raise typer.Exit(1)


def _row(one: Finding) -> list[str]:
    told = f"{one.told}; cure: {one.cure}" if one.cure else one.told
    return [one.part, one.name, one.state, f"{one.seconds:.1f}", printable(told)]


def findings(names: Sequence[str], store: Path, patience: float = PATIENCE) -> Iterator[Finding]:
    """What each check comes to, in their order; one whose process crashes or takes too long is broken."""
    left = list(names)
    while left:
        yield from _together(left, store, patience)


def _together(left: list[str], store: Path, patience: float) -> Iterator[Finding]:
    """The checks in one process, as far as it comes; those that are done are taken from `left`."""
    command = [*PROGRAM, str(store), *left]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(  # unbuffered: a line that lay in a buffer of ours would be waited for in vain
        command, bufsize=0, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout is not None
        at = left[0]
        try:
            while left:
                if not select.select([process.stdout], [], [], patience)[0]:
                    yield _lost(left.pop(0), at, f"took longer than {patience:g} s")
                    return
                line = process.stdout.readline()
                if not line:
                    yield _lost(left.pop(0), at, _end_of(process))
                    return
                told = json.loads(line)
                if "begins" in told:
                    at = told["begins"]
                else:
                    yield Finding(part=CHECKS[told["name"]].part, **told)
                    left.remove(told["name"])
        finally:
            process.kill()  # where it is done it is gone already


def _lost(name: str, at: str, what: str) -> Finding:
    told = f"its process {what}" + (f" at {at}" if at != name else "")
    return Finding(name, CHECKS[name].part, BROKEN, told, CHECKS[name].cure, 0.0)


def _end_of(process: "subprocess.Popen[bytes]") -> str:
    code = process.wait()
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
