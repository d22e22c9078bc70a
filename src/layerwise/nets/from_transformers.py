"""Image classification nets of transformers: `transformers:resnet`, or `transformers:DIR` of a saved one.

A name is that of a configuration, whose defaults the net has. A folder holds `config.json`, and may hold
`preprocessor_config.json` and `model.safetensors`; the net's name in runs is its kind with a digest of the two
configurations, wherever the folder lies. No code in a folder is run, and nothing is downloaded.
"""

import json
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from layerwise.errors import StudyError
from layerwise.nets.from_torchvision import imported
from layerwise.nets.kind import Architecture
from layerwise.nets.places import digest, place, remember

CONFIG, PIXELS, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
HALF = (0.5, 0.5, 0.5)  # mean and deviation where there is no preprocessor
SIDE = 224  # of images where neither the preprocessor nor the configuration has one


def named(text: str) -> str:
    """The name in runs of what the user calls NAME or DIR (without the library's), whose place is remembered."""
    folder = Path(text).expanduser()
    if not (folder / CONFIG).is_file():
        return f"transformers:{text}"
    values = _values(folder / CONFIG)
    contents = [(folder / file).read_bytes() if (folder / file).is_file() else b"" for file in (CONFIG, PIXELS)]
    name = f"transformers:{values.get('model_type')}#{digest(*contents)}"
    remember({name: folder})
    return name


@lru_cache(maxsize=64)
def architecture_of(name: str) -> Architecture:
    """The net of this name (without the library's); raises StudyError where there is none."""
    kind, hashed, _ = name.partition("#")
    folder = place(f"transformers:{name}")
    if hashed and folder is None:
        raise StudyError(
            f"net 'transformers:{name}' is made by a folder that is not named here; name it: transformers:DIR"
        )
    if folder and named(str(folder)) != f"transformers:{name}":
        raise StudyError(f"net 'transformers:{name}': {folder} has changed since; name the net anew")
    values = _values(folder / CONFIG) if folder else {}
    preprocessor = folder if folder and (folder / PIXELS).is_file() else None
    pixels = _values(preprocessor / PIXELS) if preprocessor else {}
    of_net, configured = _classes(kind, values)

    def build(channels: int, size: int, outputs: int) -> nn.Module:
        changed = configured.from_dict({**values, "num_labels": outputs, "id2label": None, "label2id": None})
        changed.num_labels = outputs
        for field, value in (("num_channels", channels), ("image_size", size)):
            if hasattr(changed, field):
                setattr(changed, field, value)
        return (_of_flipped(of_net) if is_flipped else of_net)(changed)

    build.__doc__ = f"transformers' {kind}{' of a folder' * bool(folder)}."
    try:
        own = _own_size(pixels) or getattr(configured.from_dict(values), "image_size", None) or SIDE
    except Exception as error:  # what transformers finds amiss with a value has many kinds
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise StudyError(f"the configuration in '{folder}' is not one of '{kind}' ({why}); save it again") from error
    mean, std, is_flipped = _scaling(preprocessor, pixels) if preprocessor else (HALF, HALF, False)
    return Architecture(build, mean, std, own if isinstance(own, int) else own[0])


def weights_of(name: str) -> Path | None:
    """The file of weights in the folder of this net, if it has one."""
    folder = place(name)
    return folder / WEIGHTS if folder and (folder / WEIGHTS).is_file() else None


def pretrained(name: str) -> dict[str, Tensor]:
    """The weights in the net's folder, by the names that this version of transformers has for them."""
    folder = place(f"transformers:{name}")
    assert folder is not None
    of_net, _ = _classes(name.partition("#")[0], _values(folder / CONFIG))
    net = of_net.from_pretrained(str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False)
    return net.state_dict()


def _values(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StudyError(f"'{path}' cannot be read ({error}); save the model again") from error
    if not isinstance(values, dict):
        raise StudyError(f"'{path}' holds no configuration; save the model again")
    return values


def _classes(kind: str, values: dict[str, Any]) -> tuple[Any, Any]:
    """The class of the net, made to give its logits alone, and that of its configuration."""
    imported("transformers")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    )

    if values and "model_type" not in values:
        raise StudyError(f"the {CONFIG} has no 'model_type', so it is no net of transformers; save the model again")
    if kind not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        near = get_close_matches(kind, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, n=1)
        cure = f"did you mean '{near[0]}'?" if near else "such as resnet or vit"
        raise StudyError(
            f"transformers has no image classification net '{kind}', and there is no folder of this name with a "
            f"{CONFIG}; {cure} (one on the hub is downloaded if you ask: transformers:NAME@pretrained)"
        )
    configured = CONFIG_MAPPING[kind]
    found: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[configured]
    several = found if isinstance(found, tuple) else (found,)
    saved = values.get("architectures") or []
    return _logits_alone(next((one for one in several if one.__name__ in saved), several[0])), configured


@lru_cache(maxsize=64)
def _logits_alone(model: Any) -> Any:
    """A class of nets that take images alone, and give a row of outputs for each."""

    def forward(self: Any, pixel_values: Any) -> Any:  # tensors, or proxies where the net is traced, to be cut
        return model.forward(self, pixel_values=pixel_values).logits

    return type(model.__name__, (model,), {"forward": forward, "__module__": model.__module__})


@lru_cache(maxsize=64)
def _of_flipped(of_net: Any) -> Any:
    """The class of nets that take red, green and blue, and see blue, green and red: some were trained on such."""

    def forward(self: Any, pixel_values: Any) -> Any:
        return of_net.forward(self, pixel_values.flip(1))

    return type(of_net.__name__, (of_net,), {"forward": forward, "__module__": of_net.__module__})


def _scaling(folder: Path, pixels: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Mean and deviation that a folder's preprocessor takes off, 0 and 1 if none, and does it flip the channels?

    What its file does not say is as the preprocessor's class has it: MobileViT's does not normalise, and gives blue,
    green and red; what it says is null is not done. Raises StudyError where transformers knows no such class, and the
    file leaves it open.
    """
    processors: Any = imported("transformers").AutoImageProcessor
    names = ("do_normalize", "image_mean", "image_std", "do_flip_channel_order")
    try:
        made: Any = processors.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        said: list[Any] = [getattr(made, name, None) for name in names]
    except Exception as error:  # a class of another library, or one that this transformers has not
        said = [pixels.get(name) for name in names]
        if said[0] is None:
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise StudyError(
                f"'{folder / PIXELS}' does not say how pixels are scaled, and its class is not known ({why}); write "
                '"do_normalize": true or false into it, with "image_mean" and "image_std"'
            ) from error
    normalizes, mean, std, flips = said
    if not normalizes:
        return (0.0,) * 3, (1.0,) * 3, bool(flips)
    try:
        return tuple(float(one) for one in mean), tuple(float(one) for one in std), bool(flips)
    except (TypeError, ValueError):
        what = f"image_mean {mean} and image_std {std}; write a number per channel"
        raise StudyError(f"'{folder / PIXELS}' has {what}, such as [0.5, 0.5, 0.5]") from None


def _own_size(pixels: dict[str, Any]) -> int | None:
    """The side of the images that a preprocessor makes."""
    wanted = pixels.get("crop_size") if pixels.get("do_center_crop") else None
    size = wanted or pixels.get("size")
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    return size if isinstance(size, int) else None
