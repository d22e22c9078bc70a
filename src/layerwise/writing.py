"""Files that are there whole or not at all, and outlast a power cut."""

import os
from pathlib import Path


def write_through(path: Path, content: bytes) -> None:
    """Write a file, and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, content: bytes, aside: Path) -> None:
    """Write a file aside, on the same file system, and put it into its place."""
    try:
        write_through(aside, content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
