"""Write anew what the commands of a page print: `python docs/printed.py advise.md`, after they or advice have changed.

Blocks of ours are run one after the other in an empty folder. Where a block of text follows, it becomes what the last
command printed, to both streams as a terminal shows them.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from markdown_it import MarkdownIt

DOCS = Path(__file__).parent
OURS = ("layerwise ", "python examples/")


def printed(block: str, folder: str) -> str:
    """Run the commands of a block; gives what the last one printed."""
    told = ""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in block.splitlines():
        begun = time.perf_counter()
        done = subprocess.run(
            shlex.split(line), cwd=folder, env={**os.environ, "PATH": path, "COLUMNS": "120"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
        )  # fmt: skip
        told = done.stdout
        print(f"{time.perf_counter() - begun:5.1f} s  {line}", flush=True)
    return told.strip("\n")


def main(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    fences = [token for token in MarkdownIt().parse(text) if token.type == "fence"]
    lines, told = text.splitlines(), {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "examples").symlink_to(DOCS.parent / "examples")
        for block, after in zip(fences, [*fences[1:], None], strict=True):
            if block.info == "sh" and block.content.startswith(OURS):
                found = printed(block.content, folder)
                if after is not None and after.info == "text":
                    told[tuple(after.map or ())] = found
    for (first, end), found in sorted(told.items(), reverse=True):
        lines[first + 1 : end - 1] = found.splitlines()
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(DOCS / sys.argv[1])
