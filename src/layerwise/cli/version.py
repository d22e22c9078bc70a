"""`layerwise --version`: what belongs into a report of a fault."""

import os
import platform
from collections.abc import Iterator

from layerwise import __version__
from layerwise.store import STORE_VERSION


def version() -> Iterator[str]:
    """A line each: layerwise, torch and Python, the device and threads, the format of the store."""
    yield f"layerwise {__version__}"
    try:
        import torch
    except Exception as error:  # a broken torch may raise anything, and then this is asked for all the more
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        yield f"torch cannot be imported ({why}); see `layerwise doctor`"
    else:
        yield f"torch {torch.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
        cores = len(os.sched_getaffinity(0))
        here = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        threads = torch.get_num_threads()
        of_one = f"{threads} thread{'s' * (threads != 1)} a process"
        yield f"device {here}; {cores} core{'s' * (cores != 1)}, {of_one}"
    yield f"store format {STORE_VERSION}"
