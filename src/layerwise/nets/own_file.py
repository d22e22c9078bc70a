"""A net from a function in the user's own file: `nets/mine.py:small`.

    def small(outputs, channels=3, size=32):     # channels and size only if it wants them
        return torch.nn.Sequential(...)          # images (n, channels, size, size) -> (n, outputs)

    MEAN, STD, SIZE = (0.5,), (0.25,), 64        # optional: of the pixels from 0 to 1, and the side of the images

The net's name in runs is the file's without its folders, the function's, and a digest of the file: `mine.py:small#...`.
So a run's key follows what is in the file, wherever it lies. What the file imports is not in the digest, and what lies
beside it cannot be imported: such a file stands by itself, on installed libraries.
"""

import inspect
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from layerwise.errors import LayersError, StudyError
from layerwise.nets.kind import Architecture
from layerwise.nets.places import digest, place, remember

FORM = re.compile(r"(?P<path>.*\.py):(?P<function>[A-Za-z_]\w*)")
NAME = re.compile(r"(?P<file>[^/]*\.py):(?P<function>[A-Za-z_]\w*)#(?P<digest>[0-9a-f]{16})")
CONTRACT = "a function of the number of outputs, and of channels and size if it names them, that gives an nn.Module"


def named(text: str) -> str:
    """The name in runs of the net that the user calls `FILE.py:FUNCTION`, whose place is remembered.

    Raises StudyError where there is no such file.
    """
    if NAME.fullmatch(text):
        return text
    found = FORM.fullmatch(text)
    if found is None:
        raise StudyError(f"net '{text}' names no function; write FILE.py:FUNCTION, {CONTRACT}")
    path = Path(found["path"]).expanduser()
    name = f"{path.name}:{found['function']}#{digest(_content(path))}"
    remember({name: path})
    return name


@lru_cache(maxsize=64)
def architecture_of(name: str) -> Architecture:
    """The net of this name, from the file that this process was told of.

    Raises StudyError where that is not known, or has changed since, or has no such function.
    """
    found = NAME.fullmatch(name)
    assert found is not None
    path = place(name)
    if path is None:
        file, function = found["file"], found["function"]
        raise StudyError(f"net '{name}' is made by a file that is not named here; name it, as DIR/{file}:{function}")
    content = _content(path)
    if digest(content) != found["digest"]:
        raise StudyError(f"net '{name}': {path} has changed since; give it back its content, or name the net anew")
    module = _loaded(path, content, found["digest"])
    function = getattr(module, found["function"], None)
    if not callable(function):
        raise StudyError(f"'{path}' has no function '{found['function']}'; it is to be {CONTRACT}")
    mean, std = _numbers(module, "MEAN", (0.0,), path), _numbers(module, "STD", (1.0,), path)
    size = getattr(module, "SIZE", None)
    if len(mean) != len(std) or min(std) <= 0 or not (size is None or (isinstance(size, int) and size > 0)):
        raise StudyError(f"'{path}' has MEAN {mean}, STD {std}, SIZE {size}; give a number per channel, and a side")
    return Architecture(_builder(function, path), mean, std, size)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StudyError(f"net file '{path}' cannot be read ({error.strerror}); a net is FILE.py:FUNCTION") from error


def _loaded(path: Path, content: bytes, named: str) -> ModuleType:
    """The module that was read, and no other: what lies at the path may change."""
    module = ModuleType(f"layerwise_net_{named}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and the like look their module up
    try:
        exec(compile(content, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:  # the user's own code: anything may come
        del sys.modules[module.__name__]
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise StudyError(f"net file '{path}' cannot be loaded ({why}); it stands by itself, on libraries") from error
    return module


def _numbers(module: ModuleType, name: str, usual: tuple[float, ...], path: Path) -> tuple[float, ...]:
    value = getattr(module, name, usual)
    try:
        return tuple(map(float, value)) or usual
    except (TypeError, ValueError):
        raise StudyError(f"'{path}' has {name} {value!r}; give a number per channel, such as (0.5,)") from None


def _builder(function: Callable[..., Any], path: Path) -> Callable[[int, int, int], nn.Module]:
    try:
        takes = inspect.signature(function).parameters
    except (TypeError, ValueError):
        takes = inspect.signature(lambda outputs: None).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())

    def build(channels: int, size: int, outputs: int) -> nn.Module:
        offered = {"channels": channels, "size": size}
        net = function(outputs, **{name: value for name, value in offered.items() if takes_all or name in takes})
        if not isinstance(net, nn.Module):
            raise LayersError(f"'{path}' gives {type(net).__name__}, not a net; it is to be {CONTRACT}")
        return net

    build.__doc__ = inspect.getdoc(function) or f"The function {function.__name__} in {path.name}."
    return build
