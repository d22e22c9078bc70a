"""A net with weights of the user's own, `NET@FILE`, at which a study looks beside the nets that it trains."""

from dataclasses import dataclass, field
from functools import cached_property

from torch import nn

from layerwise.costs import layer_parameters
from layerwise.errors import StudyError
from layerwise.nets import build
from layerwise.nets.weights import head_width, net_state, parse_net, read_weights, wants_colour, weights_digest

Shape = tuple[int, int, int]  # channels, height, width of images


@dataclass(frozen=True)
class GivenNet:
    """A net and the bytes of its weights, as of a safetensors file."""

    net: str
    content: bytes = field(repr=False)
    called: str  # net and file, without the file's path

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the weights."""
        return weights_digest(self.content)

    def takes(self, shape: Shape) -> Shape:
        """The shape of images as the net takes them: grey ones in three channels where its weights are for colour.

        Raises LayersError where its weights do not fit images of this shape.
        """
        if wants_colour(self.content, self.net, shape, self.called):
            shape = (3, *shape[1:])
        net_state(self.content, self.net, shape, self.called)
        return shape

    def depth(self, shape: Shape) -> int:
        """How many layers it has, its head among them."""
        return len(layer_parameters(self.net, self.takes(shape), 2))

    def loaded(self, shape: Shape) -> nn.Module:
        """The net with its weights, in eval mode, for images that it takes."""
        state = net_state(self.content, self.net, shape, self.called)
        made = self.fresh(shape, 0)
        made.load_state_dict(state, strict=False)  # batch norm's counters may be absent; net_state looked at the rest
        return made

    def fresh(self, shape: Shape, seed: int) -> nn.Module:
        """The same net, its head as wide, with weights drawn from the seed alone, in eval mode."""
        state = net_state(self.content, self.net, shape, self.called)
        return build(self.net, shape, head_width(state, self.net, shape), seed).eval()


def given_net(text: str) -> GivenNet:
    """The net and weights that `NET@FILE` names; raises StudyError without weights, LayersError for none in the file.

    Of a file that PyTorch saved the tensors alone are read.
    """
    net, path = parse_net(text)
    if path is None:
        raise StudyError(f"--deep {text} has no weights; write {text}@FILE, or leave it out: one is then trained here")
    return GivenNet(net, read_weights(path), f"{net}@{path.name}")
