"""`layerwise runs`: the finished runs in a store."""

from typing import Annotated, Any

import typer

from layerwise.cli.options import STORE, StoreOption, open_store
from layerwise.cli.printing import print_table
from layerwise.errors import StudyError

app = typer.Typer(no_args_is_help=True, help="The finished runs in a store: list, show, verify, clean up.")


@app.command("ls")
def runs_ls(store: StoreOption = STORE) -> None:
    """List the finished runs: those with weights first, then by task, samples, seed and treatment."""
    from layerwise.store import Damaged

    shelf, damaged, listed = open_store(store), [], []
    for run_key in shelf.keys():  # noqa: SIM118 (not a dict)
        try:
            record = shelf.get(run_key)
        except Damaged as error:
            damaged.append(f"damaged: {error}")
            continue
        run, result = record.run, record.result
        kept = shelf.has(run_key, weights=True)
        about = (run.net, not kept, run.task.name, run.task.shots or 0, run.seed, str(run.treatment))
        listed.append((about, [
            run_key, run.net, about[-1], run.task.name, "all" if run.task.shots is None else str(run.task.shots),
            str(run.seed), _test_accuracy(result), f"{result['seconds']:.1f} s",
            "kept" if kept else "",
        ]))  # fmt: skip
    rows = [row for _, row in sorted(listed)]
    print_table(["key", "net", "treatment", "task", "shots", "seed", "test", "time", "weights"], rows)
    for line in [*damaged, f"{len(rows) + len(damaged)} runs in {store}"]:
        typer.echo(line)


@app.command("show")
def runs_show(
    run_key: Annotated[str, typer.Argument(metavar="KEY", help="A run's key, or how it begins.")],
    store: StoreOption = STORE,
) -> None:
    """Print a run whole: what it was, its learning curve, its cost, where it was made."""
    import json

    from layerwise.run import spec
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
    typer.echo(json.dumps({"key": record.key, "spec": spec(record.run), "result": record.result}, indent=1))


@app.command("verify")
def runs_verify(store: StoreOption = STORE) -> None:
    """Check every file of every run against its checksum; exit code 1 if any is damaged."""
    shelf = open_store(store)
    names = list(shelf.keys())
    damaged = [wrong for wrong in map(shelf.verify, names) if wrong]
    for wrong in damaged:
        typer.echo(wrong)
    typer.echo(f"{len(names) - len(damaged)} of {len(names)} runs are whole")
    if damaged:
        typer.echo("The studies that need the damaged ones set them aside and compute them again")
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


def _test_accuracy(result: dict[str, Any]) -> str:
    """The last one of a run, in per cent."""
    measured = [value for _, split, what, value in result["curve"] if (split, what) == ("test", "accuracy")]
    return f"{measured[-1]:.1%}" if measured else ""
