"""Weights from a file: `resnet20@weights.safetensors` is a net with the weights that it starts a transfer from.

    >>> parse_net("resnet20@photos/best.safetensors")
    ('resnet20', PosixPath('photos/best.safetensors'))
    >>> parse_net("resnet20")
    ('resnet20', None)

Files are safetensors, or what PyTorch saved: of these the tensors alone are read, and nothing in them is ever executed.
What such weights are is their bytes as safetensors, and their name is the SHA-256 of these, wherever the file lies.
"""

import hashlib
import io
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from layerwise.errors import LayersError, StudyError
from layerwise.nets import architecture, build, head, named
from layerwise.nets.downloads import PRETRAINED, fetched

PICKLES_BEGIN = (b"PK\x03\x04", b"\x80")  # torch.save's zip, and a bare pickle
COUNTER = "num_batches_tracked"  # batch norm's, which old files lack
WRAPPERS = ("module.", "_orig_mod.", "model.")  # before every name that DataParallel, compile or Lightning saved
INSIDE = ("state_dict", "model_state_dict", "model", "net")  # where checkpoints of training keep the weights

State = dict[str, Tensor]


def parse_net(text: str) -> tuple[str, Path | None]:
    """The name that runs have for a net, and the file of its weights where `@` and a path follow.

    After `@pretrained` that is a file with the library's own weights, downloaded if need be; a folder of transformers
    that has weights has them without being asked. Raises StudyError for an unknown net, and where nothing follows the
    `@`; LayersError where weights cannot be downloaded.
    """
    asked, at, path = text.partition("@")
    if at and not path.strip():
        architecture(named(asked))
        raise StudyError(
            f"net '{text}' names no weights after its '@'; write {asked}@FILE.safetensors, or just {asked}"
        )
    if path == PRETRAINED or not at:
        name, file = fetched(asked, download=bool(at))
        architecture(name)
        return name, file
    name = named(asked)
    architecture(name)
    return name, Path(path).expanduser()


def read_weights(path: Path) -> bytes:
    """The weights in a file, as the bytes of a safetensors file; raises LayersError where it holds none.

    Of a file that PyTorch saved the tensors are read, by themselves or as a checkpoint's `state_dict` or `model`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LayersError(f"weights '{path}' cannot be read ({error.strerror}); name a safetensors file") from error
    try:
        _tensors(content, str(path))
    except LayersError:
        if not content.startswith(PICKLES_BEGIN):
            raise
        return save(_saved(content, str(path)))
    return content


def weights_digest(content: bytes) -> str:
    """The name of such weights: 64 hex digits; of a safetensors file as `sha256sum FILE` prints them."""
    return hashlib.sha256(content).hexdigest()


def net_state(content: bytes, net: str, shape: tuple[int, int, int], named: str) -> State:
    """The tensors of a safetensors file by the net's own names, checked against the net; its head may be of any width.

    `shape` is (channels, height, width) of the images, `named` what an error calls the file. Batch norm's counters may
    be absent. Raises LayersError with the first tensor that is missing, unexpected, or of another shape or kind.
    """
    state = _unwrapped(_tensors(content, named), build(net, shape, 2, seed=0).state_dict())
    wanted = build(net, shape, head_width(state, net, shape), seed=0).state_dict()
    if misfit := _misfit(state, wanted):
        size = architecture(net).size
        cure = f"; images of its own size may fit: pass --resize {size}" * (size not in {None, shape[1]})
        raise LayersError(f"weights '{named}' do not fit net '{net}': {misfit}{cure}")
    return state


def wants_colour(content: bytes, net: str, shape: tuple[int, int, int], named: str) -> bool:
    """Are the weights those of a net for colour images, and the images, of this shape, grey?

    Raises LayersError where it is the other way about: what is in a colour image, a net for grey ones cannot see.
    """
    channels, height, width = shape
    try:
        net_state(content, net, shape, named)
    except LayersError:
        other = (3 if channels == 1 else 1, height, width)
        try:
            net_state(content, net, other, named)
        except LayersError:
            return False  # something else is wrong, and will be told
        if channels != 1:
            raise LayersError(f"weights '{named}' are for grey images, and these are in colour; pass --grey") from None
        return True
    return False


def _tensors(content: bytes, named: str) -> State:
    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise LayersError(f"weights '{named}' are not a whole safetensors file ({why}); copy it again") from error


def _saved(content: bytes, named: str) -> State:
    """The tensors in what PyTorch saved; whatever else would have to be made to read it is refused."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of unusual pickles, which are read or refused
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LayersError(
            f"weights '{named}' hold more than tensors, which can run code when read ({_first_reason(error)}); save "
            "them again from where they come from: torch.save(net.state_dict(), FILE)"
        ) from error
    except Exception as error:  # half a zip, or no file of PyTorch's at all
        why = str(error).partition("\n")[0].partition(". ")[0]
        raise LayersError(f"weights '{named}' are not a whole PyTorch file ({why}); copy it again") from error
    return {name: tensor.detach().contiguous().clone() for name, tensor in _state_in(found, named).items()}


def _first_reason(error: Exception) -> str:
    """What PyTorch will not make, without its advice to make it."""
    made = re.search(r"GLOBAL (\S+)", str(error))
    return f"'{made[1]}'" if made else "which, is not told"


def _state_in(found: Any, named: str) -> State:
    """The tensors by name, in a file or in what a training keeps with them."""
    inner = [found[key] for key in INSIDE if isinstance(found, Mapping) and isinstance(found.get(key), Mapping)]
    for state in (*inner, found):
        if isinstance(state, Mapping) and state and all(isinstance(tensor, Tensor) for tensor in state.values()):
            return {str(name): tensor for name, tensor in state.items()}
    known = ", ".join(map(str, list(found)[:5])) if isinstance(found, Mapping) else type(found).__name__
    raise LayersError(
        f"weights '{named}' hold no tensors by name, alone or under {', '.join(INSIDE)}; they hold: {known}"
    )


def _misfit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the first tensor that is missing, unexpected, or of another shape or kind."""
    missing = [name for name in wanted if name not in state and not name.endswith(COUNTER)]
    unexpected = sorted(name for name in state if name not in wanted)
    counts = f" ({len(missing)} missing, {len(unexpected)} unexpected of {len(state)} tensors)"
    if missing:
        return f"'{missing[0]}' {tuple(wanted[missing[0]].shape)} is missing{counts}"
    if unexpected:
        return f"the net has no '{unexpected[0]}'{counts}"
    for name, here in wanted.items():
        there = state.get(name, here)
        if there.shape != here.shape:
            return f"'{name}' is {tuple(there.shape)} there and {tuple(here.shape)} in the net"
        if there.is_floating_point() != here.is_floating_point():
            return f"'{name}' is {_kind(there)} there and {_kind(here)} in the net"
    return None


def _unwrapped(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> State:
    """The same without the prefix of what was wrapped around the net: of every name, and of none that the net has."""
    for prefix in WRAPPERS:
        theirs, ours = (bool(names) and all(n.startswith(prefix) for n in names) for names in (state, wanted))
        if theirs and not ours:
            return _unwrapped({name.removeprefix(prefix): tensor for name, tensor in state.items()}, wanted)
    return dict(state)


def head_width(state: Mapping[str, Tensor], net: str, shape: tuple[int, int, int]) -> int:
    """The width of the head in the weights; 2 where they lack it."""
    for name, axis in head(net, shape).items():
        if name in state and state[name].dim() > axis:
            return max(state[name].shape[axis], 1)
    return 2


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
