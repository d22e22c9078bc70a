"""A library's own weights for its nets, as safetensors files in the user's cache: downloaded only where asked for."""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from safetensors.torch import save_file

from layerwise.errors import LayersError, LayerwiseError, StudyError
from layerwise.nets import LIBRARIES, named

PRETRAINED = "pretrained"  # what follows the @, and the folder
CONFIGURATION = ["*.json", "*.safetensors"]  # of what the hub has of a model: no code, and nothing pickled


def fetched(asked: str, *, download: bool) -> tuple[str, Path | None]:
    """The name that runs have for a net of a library, and the file of its library's weights.

    Without `download` only a folder of transformers has any. Raises StudyError for nets that no library has, and
    LayersError where the weights cannot be downloaded.
    """
    library, _, rest = asked.partition(":")
    if library not in LIBRARIES:
        if download:
            raise StudyError(
                f"'{asked}' is no net of a library, so it has no pretrained weights; name a file after '@'"
            )
        return named(asked), None
    if library == "transformers":
        return _of_transformers(rest, download=download)
    return named(asked), _kept(library, rest, rest) if download else None


def cache_folder() -> Path:
    """Where this user's programs keep what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "layerwise"


def _of_transformers(text: str, *, download: bool) -> tuple[str, Path | None]:
    """A folder's net with its weights; a net of the hub is such a folder once it is downloaded."""
    from layerwise.nets import from_transformers

    name = named(f"transformers:{text}")
    if download and "#" not in name:
        name = named(f"transformers:{_from_hub(text)}")
    file = from_transformers.weights_of(name)
    if download and file is None:
        raise StudyError(f"'{text}' has no {from_transformers.WEIGHTS}; save the model again, as safetensors")
    if file is None:
        return name, None
    content = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return name, _kept("transformers", name.partition(":")[2], f"{name.partition(':')[2]}-{content}")


def _from_hub(text: str) -> Path:
    from layerwise.nets.from_torchvision import imported

    imported("transformers")
    from huggingface_hub import snapshot_download

    with _told(f"transformers:{text}"):
        return Path(snapshot_download(text, allow_patterns=CONFIGURATION))


def _kept(library: str, name: str, title: str) -> Path:
    """The file of a library's weights for a net; made now, where this version of the library has not made it yet."""
    from layerwise.nets.outside import LIBRARIES as MODULES

    module = MODULES[library]
    module.architecture_of(name)  # raises where there is no such net
    slug = re.sub(r"[^\w.-]", "_", title)
    path = cache_folder() / PRETRAINED / f"{library}-{metadata.version(library)}-{slug}.safetensors"
    if not path.is_file():
        with _told(f"{library}:{name}"), _tensors_only():
            state = module.pretrained(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}-{os.getpid()}")
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, aside)
        aside.replace(path)
    return path


@contextmanager
def _told(net: str) -> Iterator[None]:
    """What goes wrong with a download, on one line: not what the hub's library says of each of its attempts."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    except LayerwiseError:
        raise
    except Exception as error:  # of the network, the hub, the disk
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise LayersError(
            f"pretrained weights of '{net}' cannot be had ({why}); connect to the network, or name a file: "
            f"{net}@FILE.safetensors"
        ) from error
    finally:
        log.setLevel(level)


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Have PyTorch read tensors and nothing else while this lasts, whatever a library asks for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
