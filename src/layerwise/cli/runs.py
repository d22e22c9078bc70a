"""`layerwise runs`: the finished runs in a store."""

import sys
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from layerwise.cli.options import STORE, StoreOption, open_store, whole
from layerwise.cli.printing import print_table
from layerwise.errors import StudyError

if TYPE_CHECKING:
    from layerwise.store import Record
    from layerwise.tasks import Task

ON_A_TERMINAL = 100  # lines, unless --limit says more

app = typer.Typer(no_args_is_help=True, help="The finished runs in a store: list, show, verify, clean up.")


@app.command("ls")
def runs_ls(
    store: StoreOption = STORE,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=whole,
            help=f"Only the N that finished last.  [default: {ON_A_TERMINAL} on a terminal, else all; 0: all]",
        ),
    ] = None,
) -> None:
    """List the finished runs: those with weights first, then by task, samples, seed and treatment."""
    from layerwise.store import Damaged

    if limit is not None and limit < 0:
        raise StudyError(f"--limit {limit} is not possible; write 0 for all")
    most = (ON_A_TERMINAL if is_terminal() else 0) if limit is None else limit
    shelf = open_store(store)
    names, unread = list(shelf.keys()), []
    shown = shelf.newest(most) if 0 < most < len(names) else names
    found = shelf.records(shown)
    for name in shown:
        if name not in found:
            try:
                found[name] = shelf.get(name)
            except KeyError:
                names.remove(name)  # somebody has just set it aside
            except Damaged as error:
                unread.append(f"damaged: {error}")
    listed = []
    for name, record in found.items():
        try:
            listed.append(_listed(record))
        except StudyError as error:  # a newer layerwise wrote it
            unread.append(f"not listed: {name}: {error}")
    rows = [cells for _, cells in sorted(listed)]
    print_table(["key", "net", "treatment", "task", "shots", "seed", "test", "time", "weights"], rows)
    kind = f"the {len(shown):,} that finished last of " if len(shown) < len(names) else ""
    more = "; --limit 0 lists all" if kind else ""
    for line in [*unread, f"{kind}{len(names):,} runs in {store}{more}"]:
        typer.echo(line)


def _listed(record: "Record") -> tuple[tuple[Any, ...], list[str]]:
    """Where a run stands in the list, and its line."""
    run, result = record.run, record.result
    shots = "all" if run.task.shots is None else str(run.task.shots)
    treatment, task = str(run.treatment), _name(replace(run.task, shots=None, seed=0))
    place = (run.net, not record.has_weights, task, run.task.shots or 0, run.seed, treatment, record.key)
    return place, [
        record.key, run.net, treatment, task, shots, str(run.seed), _test_accuracy(result),
        f"{result['seconds']:.1f} s", "kept" * record.has_weights,
    ]  # fmt: skip


@app.command("show")
def runs_show(
    run_key: Annotated[str, typer.Argument(metavar="KEY", help="A run's key, or how it begins.")],
    store: StoreOption = STORE,
) -> None:
    """Print a run whole: what it was, its learning curve, its cost, where it was made."""
    import json

    from layerwise.store import Damaged

    shelf = open_store(store)
    found = [name for name in shelf.keys() if name.startswith(run_key)]  # noqa: SIM118
    if len(found) != 1:
        which = "no run" if not found else f"{len(found)} runs, {', '.join(found[:4])} among them,"
        raise StudyError(f"{which} in {store} begin{'s' * (not found)} with '{run_key}'; see `layerwise runs ls`")
    try:
        record = shelf.get(found[0])
    except Damaged as error:
        raise StudyError(f"{error}; the study that needs it sets it aside and computes it again") from error
    typer.echo(json.dumps({"key": record.key, "spec": json.loads(record.spec), "result": record.result}, indent=1))


@app.command("verify")
def runs_verify(store: StoreOption = STORE) -> None:
    """Check every file of every run, and all weights, against their checksums; exit code 1 if any is damaged."""
    shelf = open_store(store)
    names = list(shelf.keys())
    damaged = [wrong for wrong in map(shelf.verify, names) if wrong]
    weights = [wrong for wrong in map(shelf.verify_weights, shelf.weights_kept()) if wrong]
    for wrong in [*damaged, *weights]:
        typer.echo(wrong)
    typer.echo(f"{len(names) - len(damaged)} of {len(names)} runs are whole")
    if damaged:
        typer.echo("The studies that need the damaged ones set them aside and compute them again")
    if weights:
        typer.echo("The studies that need damaged weights take them from their file again")
    if damaged or weights:
        raise typer.Exit(1)


@app.command("gc")
def runs_gc(
    store: StoreOption = STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove what no run needs: half-written runs, damaged ones set aside, locks that nobody holds."""
    found = open_store(store).clean(dry_run=dry_run)
    for path in found:
        typer.echo(f"{'would remove' if dry_run else 'removed'} {path}")
    typer.echo(f"{len(found)} things {'to remove' if dry_run else 'removed'}; finished runs are untouched")


def is_terminal() -> bool:
    """Does somebody look at what is printed?"""
    return sys.stdout.isatty()


@lru_cache(maxsize=4096)
def _name(task: "Task") -> str:
    """Its name; tasks that differ in samples and seed only have the same, and there are thousands."""
    return task.name


def _test_accuracy(result: dict[str, Any]) -> str:
    """The last one of a run, in per cent."""
    measured = [value for _, split, what, value in result["curve"] if (split, what) == ("test", "accuracy")]
    return f"{measured[-1]:.1%}" if measured else ""
