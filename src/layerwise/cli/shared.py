"""Options that commands have in common, each told once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from layerwise.cli.options import DEVICES, DUPLICATES_HELP, GROUPS_HELP, among, whole

HERE = {"local": "a process per core", "serial": "this process alone"}  # executors that need no cluster


def of_data(*names: str, **option: Any) -> Any:
    """An option of the images."""
    return typer.Option(*names, rich_help_panel="Data", **option)


def of_running(*names: str, **option: Any) -> Any:
    """An option of how the work is done, which no result depends on."""
    return typer.Option(*names, rich_help_panel="Running", **option)


def one_of(words: Mapping[str, str]) -> dict[str, Any]:
    """What an option has that is one of these words, each with what it means."""
    return {
        "metavar": "|".join(words),
        "autocompletion": among(words),
        "help": "; ".join(f"{word}: {meaning}" for word, meaning in words.items()),
    }


ClassesOption = Annotated[
    str | None, of_data(metavar="LIST", help="Only these classes, by name or number from 0, such as 0-4,7,cat.")
]
ResizeOption = Annotated[int | None, of_data(metavar="N", parser=whole, help="Make all images N x N pixels.")]
GreyOption = Annotated[bool, of_data("--grey", help="Make all images grey.")]
UnreadableOption = Annotated[
    bool, of_data("--skip-unreadable", help="Leave out images that cannot be read, and say so.")
]
GroupsOption = Annotated[str | None, of_data(metavar="COLUMN", help=GROUPS_HELP)]
HoldOutOption = Annotated[
    str | None,
    of_data(metavar="COLUMN:VALUES", help="Keep the images with these values back to test on, such as writer:40-54."),
]
ShareOption = Annotated[
    float,
    of_data(
        metavar="X",
        help="Share of each class that is kept back to test on, and of the rest to choose the rate by, where the data "
        "have no such parts.",
    ),
]
DuplicatesOption = Annotated[bool, of_data("--drop-duplicates", help=DUPLICATES_HELP)]
HereOption = Annotated[str, of_running("--executor", **one_of(HERE))]
WorkersOption = Annotated[
    int | None, of_running(metavar="K", parser=whole, help="Processes at once.  [default: one per core]")
]
DeviceOption = Annotated[str, of_running(**one_of(DEVICES))]
DeterministicOption = Annotated[
    bool, of_running("--deterministic", help="Have a GPU give the same bits each time; a CPU always does.")
]
TensorboardOption = Annotated[
    Path | None,
    of_running(metavar="DIR", help="Write the curves of finished runs there, for `tensorboard --logdir DIR`."),
]
DryRunOption = Annotated[bool, of_running("--dry-run", help="Print the plan and its forecast, and stop.")]
