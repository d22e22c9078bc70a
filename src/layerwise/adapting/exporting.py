"""Export to ONNX: the adapted net as other programs run it, with any number of images at once.

The input `images` is (batch, channels, height, width) in float32, preprocessed as the metadata say: `(pixel / 255 -
mean) / std` per channel. The outputs are `logits` and `probabilities`, both (batch, classes).
"""

import json
import warnings
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layerwise.adapting import described
from layerwise.adapting.adapted import AdaptedNet, load_adapted
from layerwise.adapting.card import card
from layerwise.errors import LayersError, StoreError, StudyError

OPSET = 20
LARGEST = 2**31  # bytes of a file, as protocol buffers count them


class _WithProbabilities(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> tuple[Tensor, Tensor]:
        logits = self.net(images)
        return logits, logits.softmax(1)


def check_can_export() -> None:
    """Raise StudyError where the libraries that write ONNX are not installed."""
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise StudyError(f"to write ONNX {' and '.join(missing)} is needed; pip install 'layerwise[onnx]'")


def exported(net: AdaptedNet) -> bytes:
    """The net as the bytes of an ONNX file; raises LayersError where PyTorch cannot export it."""
    check_can_export()
    import onnx

    example = torch.zeros(2, *net.preprocessing.shape)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own, about what it calls
            made = torch.onnx.export(
                _WithProbabilities(net.net).eval(),
                (example,),
                input_names=["images"],
                output_names=["logits", "probabilities"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter traces the user's forward pass: anything may come
        why = str(error).partition("\n")[0]
        raise LayersError(f"net '{net.described.net}' cannot be exported to ONNX ({why})") from error
    assert made is not None
    model = made.model_proto
    told = {"classes": list(net.classes), "task": net.task.name, "preprocessing": asdict(net.preprocessing)}
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in told.items()}
    onnx.helper.set_model_props(model, {name: _as_text(text) for name, text in texts.items()})
    if model.ByteSize() >= LARGEST:
        raise LayersError(f"net '{net.described.net}' takes {model.ByteSize():,} bytes, and one ONNX file holds 2 GiB")
    return model.SerializeToString()


def _as_text(value: str) -> str:
    """What names of files that are no text are in JSON: an escape each."""
    return value.encode(errors="backslashreplace").decode()


def export(
    folder: str | Path, *, task: str | None = None, out: str | Path | None = None, net: str | None = None
) -> Path:
    """Write the adapted net in a folder as ONNX, into the folder itself or to `out`; gives the file's path."""
    folder = Path(folder)
    loaded = load_adapted(folder, task, net=net)
    if out is None:
        described.attach(folder, {loaded.task.onnx: exported(loaded)}, card)
        return folder / loaded.task.onnx
    path = Path(out)
    if path.is_dir() or not path.parent.is_dir():  # told before minutes of exporting
        raise StoreError(f"--out {path} is no file in a folder that is there; name one, such as net.onnx")
    described.write_whole(path, exported(loaded))
    return path
