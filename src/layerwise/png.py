"""Pictures as PNG files, and as addresses that hold them whole: a page or a row with one needs no file beside it."""

import base64
import io

from jaxtyping import Float
from PIL import Image
from torch import Tensor


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def address(content: bytes) -> str:
    """Where a browser finds this PNG file: in the address itself."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def image_of(pixels: Float[Tensor, "channels height width"]) -> Image.Image:
    """Pixels from 0 to 1, what lies beyond cut off, as an image: grey of one channel, in colour of three."""
    whole = pixels.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(whole[:, :, 0] if whole.shape[2] == 1 else whole)
