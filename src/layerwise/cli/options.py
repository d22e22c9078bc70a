"""Options that commands share: how they are completed and read. Nothing here imports torch."""

from pathlib import Path
from typing import Annotated, Any

import typer

from layerwise.errors import StudyError

StoreOption = Annotated[
    Path, typer.Option("--store", metavar="DIR", help="Folder of finished runs.", rich_help_panel="Running")
]
STORE = Path("layerwise-store")
NET_NAMES = ("lenet5", "lenet5relu")  # for completion, without torch; a test holds them to layerwise.nets
SCALES = {"demo": "minutes", "paper": "the paper's own design"}
EXECUTORS = {"local": "a process per core", "serial": "this process alone"}


def study_names(incomplete: str) -> list[str]:
    from layerwise.studies import STUDIES

    return [name for name in STUDIES if name.startswith(incomplete)]


def data_names(incomplete: str) -> list[str]:
    from layerwise.data import READERS

    return [name + ":" * reader.takes_path for name, reader in READERS.items() if name.startswith(incomplete)]


def net_names(incomplete: str) -> list[str]:
    return [name for name in NET_NAMES if name.startswith(incomplete)]


def scales(incomplete: str) -> list[str]:
    return [name for name in SCALES if name.startswith(incomplete)]


def executors(incomplete: str) -> list[str]:
    return [name for name in EXECUTORS if name.startswith(incomplete)]


def whole(text: str) -> int:
    """The number in an option; typer names the option."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a whole number") from None


def numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(sorted(int(number) for number in text.split(",")))
    except ValueError:
        raise StudyError(f"{option} '{text}' is not a list of whole numbers such as 1,5,10") from None


def open_store(store: Path) -> Any:
    from layerwise.store import Store

    if not store.is_dir():
        raise StudyError(f"there is no store {store}; name one with --store")
    return Store(store)
