"""`layerwise.advise`: what to do with each layer of a pretrained net, on a user's images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from layerwise.advising.advice import Advice
from layerwise.advising.asking import Asking
from layerwise.errors import StudyError
from layerwise.images import Images, open_images, untested_notes
from layerwise.job import Means
from layerwise.listening import listening
from layerwise.nets.weights import parse_net, read_weights
from layerwise.outputs import prepare
from layerwise.plan_file import command_of
from layerwise.store import Store
from layerwise.studies.request import Request, share_out
from layerwise.tasks import Task, choose_classes

SAME = {  # options that adapt must be given too, and what they are where they are not given
    "classes": None, "resize": None, "grey": False, "skip_unreadable": False, "drop_duplicates": False,
    "groups": None, "hold_out": None, "share": 0.2, "seed": 0, "store": "layerwise-store",
}  # fmt: skip


def advise(
    net: str,
    data: str,
    *,
    budget: float = 0.1,
    shots: int | None = None,
    granularity: str = "block",
    classes: str | None = None,
    resize: int | None = None,
    grey: bool = False,
    skip_unreadable: bool = False,
    drop_duplicates: bool = False,
    groups: str | None = None,
    hold_out: str | None = None,
    share: float = 0.2,
    seed: int = 0,
    store: str | Path = "layerwise-store",
    out: str | Path | None = None,
    executor: str = "local",
    workers: int | None = None,
    device: str = "auto",
    deterministic: bool = False,
    tensorboard: str | Path | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    command: Sequence[str] | None = None,
) -> Advice | None:
    """What to do with each layer of a pretrained net on these images; see `layerwise advise --help`.

    >>> found = advise("resnet20@best.safetensors", "folder:pets", resize=32)    # doctest: +SKIP
    >>> found.recommended.treatment, found.interval                              # doctest: +SKIP

    `net` is a name; what builds an `nn.Module` of your own goes into a file: `mine.py:build@mine.pt`, see docs/nets.md.
    `budget` is the share of the arithmetic of trying every option once that may be spent. Images that are kept back to
    test on, as `layerwise.adapt` keeps them back, are not looked at. With `dry_run` the forecast is told, and nothing
    is trained or given. Raises LayerwiseError where an option, the data or the net is not usable.
    """
    asked = {k: v for k, v in locals().items() if k not in {"command", "quiet"} and v not in (None, "")}
    if not 0 < budget <= 1:
        raise StudyError(
            f"--budget {budget:.0%} is not possible; it is a share of the exhaustive search, such as 10%, "
            "and 100% at most"
        )
    name, path = parse_net(net)
    if path is None:
        raise StudyError(f"net '{net}' has no weights, so there is nothing to transfer; write {net}@FILE.safetensors")
    content, shelf, told = read_weights(path), Store(Path(store)), command_of(command, asked, "advise")
    listener = listening(shelf, told, quiet=quiet, dry_run=dry_run, tensorboard=tensorboard)
    images = Images(data, classes, resize, grey, skip_unreadable, drop_duplicates, groups, hold_out)
    opened = open_images(images, shelf.folder / "data", name, content, net).data
    request = Request(opened, name, classes=classes, hold_out=hold_out, groups=images.group_column)
    parts, notes = share_out(request, share)
    names = opened.class_names
    chosen = choose_classes(classes, names)
    task = Task(opened.digest, chosen, shots, parts=replace(parts, validation=0), seed=seed)
    notes += untested_notes(task, opened)
    means = Means(executor, workers, device, deterministic)
    asking = Asking(name, content, net, opened, task, granularity, shelf, means, listener, seed)
    for note in (*opened.notes, *notes, *asking.notes):
        listener.say(f"Note: {note}")
    asking.check()
    if out is not None and not dry_run:
        prepare(Path(out))
    asking.foretold(budget)
    if dry_run:
        return None
    found = asking.advice(budget, (*opened.notes, *notes, *asking.notes), told)
    found = replace(found, adapt=_adapt(net, data, asked))
    if out is not None:
        found.save(out)
    return found


def _adapt(net: str, data: str, asked: Mapping[str, Any]) -> tuple[str, ...]:
    """The command that carries advice out on the same images, but for --advice."""
    words = ["layerwise", "adapt", net, data]
    for name in SAME:
        if name in asked and str(asked[name]) != str(SAME[name]):
            flag = f"--{name.replace('_', '-')}"
            words += [flag] if asked[name] is True else [flag, str(asked[name])]
    return tuple(words)
