"""Where files that belong to nets lie, by the nets' names. A name tells what is in the files, never where they are.

A process knows the files that its user named, and those that it is told of as a worker. Nothing is looked for.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

_places: dict[str, Path] = {}


def remember(places: Mapping[str, Path]) -> None:
    """Know these files in this process from now on."""
    _places.update({name: path.absolute() for name, path in places.items()})


def place(name: str) -> Path | None:
    """Where the files of this net lie, where that is known."""
    return _places.get(name)


def places(names: Iterable[str]) -> dict[str, Path]:
    """Where the files of those of these nets lie that have any: what another process is to be told."""
    return {name: _places[name] for name in dict.fromkeys(names) if name in _places}


def digest(*contents: bytes) -> str:
    """16 hex digits that name these contents."""
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()[:16]
