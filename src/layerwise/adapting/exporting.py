"""Export to ONNX: the adapted net as other programs run it, with any number of images at once.

The input `images` is (batch, channels, height, width) in float32, preprocessed as the metadata say: `(pixel / 255 -
mean) / std` per channel. The outputs are `logits` and `probabilities`, both (batch, classes).
"""

import io
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
from layerwise.errors import LayersError, StudyError

OPSET = 20


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
    onnx.helper.set_model_props(model, {name: json.dumps(value, ensure_ascii=False) for name, value in told.items()})
    buffer = io.BytesIO()
    onnx.save(model, buffer)
    return buffer.getvalue()


def export(
    folder: str | Path, *, task: str | None = None, out: str | Path | None = None, net: str | None = None
) -> Path:
    """Write the adapted net in a folder as ONNX, into the folder itself or to `out`; gives the file's path."""
    folder = Path(folder)
    loaded = load_adapted(folder, task, net=net)
    content = exported(loaded)
    if out is not None:
        described.write_whole(Path(out), content)
        return Path(out)
    described.attach(folder, {loaded.task.onnx: content}, card)
    return folder / loaded.task.onnx
