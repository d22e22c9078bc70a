"""The layers of a net: an ordered partition of all that it has learnt or keeps, and cutting the net between them.

A layer is a module with weights (convolution, linear, attention, ...) together with the norms, activations and dropouts
that run after it. The order is that of the forward pass, found by running it once, not that of definition. Every
parameter and every buffer is in exactly one layer.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from layerwise.errors import LayersError
from layerwise.treatment import Treatment

ATTACHED = re.compile(r"Norm|LayerScale|PReLU")  # classes with parameters that belong to the layer before them
ATOMIC = re.compile(r"Attention")  # classes that are one layer with all that is inside them


@dataclass(frozen=True)
class Layer:
    """One layer: its name in the net, its number from 1 in forward order, and what belongs to it."""

    name: str
    number: int
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    modules: tuple[str, ...]  # in the order of the forward pass, activations and dropouts too


@dataclass
class _Open:
    """A layer while it is being found."""

    modules: list[str] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)


def layers(net: nn.Module, example: Tensor) -> tuple[Layer, ...]:
    """The ordered partition of a net; `example` is any input (examples, channels, height, width) that it takes.

    Raises LayersError, by name, for shared parameters, for modules with parameters that the forward pass never calls,
    and for dropout modules that several layers share.
    """
    _refuse_shared(net)
    atoms = dict(_atoms(net))
    called = _called(net, atoms, example)
    if never := [name for name, module in atoms.items() if name not in called and _tensors(net, name, module)]:
        raise LayersError(f"module '{never[0]}' has parameters, and the forward pass never calls it; remove it")
    opened: list[_Open] = [_Open()]
    for name in called:
        tensors = _tensors(net, name, atoms.get(name))
        if name in atoms and tensors and not ATTACHED.search(type(atoms[name]).__name__) and _has_opener(opened, atoms):
            opened.append(_Open())
        elif name not in atoms and tensors and _has_opener(opened, atoms):
            opened.append(_Open())  # a container's own tensors go to the first layer inside it
        opened[-1].tensors.extend(tensors)
        if name in atoms:
            opened[-1].modules.append(name)
    if not any(layer.tensors for layer in opened):
        raise LayersError("the net has no parameters, so it has no layers")
    buffers = {name for name, _ in net.named_buffers()}
    names = _names(net, opened)
    return tuple(
        Layer(
            name=name,
            number=number,
            parameters=tuple(t for t in layer.tensors if t not in buffers),
            buffers=tuple(t for t in layer.tensors if t in buffers),
            modules=tuple(layer.modules),
        )
        for number, (name, layer) in enumerate(zip(names, opened, strict=True), 1)
    )


def fit(treatment: Treatment, net: str, found: Sequence[Layer]) -> Treatment:
    """The treatment for just these layers, without `*`; raises LayersError, naming them, where it does not fit."""
    if not treatment.fits(len(found)):
        wants = f"at least {treatment.at_least}" if treatment.depth is None else str(treatment.depth)
        names = " ".join(layer.name for layer in found)
        raise LayersError(f"treatment '{treatment}' is for {wants} layers; net '{net}' has {len(found)}: {names}")
    return treatment.resolve(len(found))


def set_modes(net: nn.Module, found: Sequence[Layer], trained: Sequence[bool], *, frozen_dropout: bool = False) -> None:
    """Put trained layers into train mode and frozen ones, dropout and batch norm included, into eval mode.

    A module that holds layers is in train mode if any of them is. With `frozen_dropout` dropouts stay on everywhere.
    """
    mode = {name: on for layer, on in zip(found, trained, strict=True) for name in layer.modules}
    for name, module in net.named_modules():
        inside = [on for other, on in mode.items() if name == "" or other == name or other.startswith(f"{name}.")]
        module.training = any(inside) or (frozen_dropout and _is_dropout(module))


def cut(net: nn.Module, found: Sequence[Layer], n: int) -> tuple[nn.Module, nn.Module]:
    """The net as two: up to layer n with the activations after it, and the rest; `rest(first(x)) == net(x)`.

    The halves share the net's parameters. Raises LayersError where more than one tensor crosses, as inside a residual
    block, or where the net's forward pass cannot be traced.
    """
    where = f"after layer {n} '{found[n - 1].name}'"
    try:
        graph = _Tracer({name for layer in found for name in layer.modules}).trace(net)
    except Exception as error:  # tracing runs the user's forward pass: anything may come
        raise LayersError(f"the net cannot be cut {where}: its forward pass cannot be traced ({error})") from error
    nodes = [node for node in graph.nodes if node.op != "output"]
    place = {node: position for position, node in enumerate(graph.nodes)}
    numbers = [_number(node, found) for node in nodes]
    first = max((i for i, number in enumerate(numbers) if number and number <= n), default=-1) + 1
    last = min((i for i, number in enumerate(numbers) if number and number > n), default=len(nodes))
    for position in range(last, first - 1, -1):
        later = list(graph.nodes)[position:]
        crossing = {value for node in later for value in node.all_input_nodes if place[value] < position}
        if len(crossing) == 1:
            return _halves(net, graph, nodes, position, crossing.pop())
    raise LayersError(f"the net cannot be cut {where}: more than one tensor crosses there")


def _atoms(net: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules that run as one: those without children, and attention with all that is inside it."""
    for name, child in net.named_children():
        path = f"{prefix}{name}"
        if ATOMIC.search(type(child).__name__) or not any(True for _ in child.children()):
            yield path, child
        else:
            yield from _atoms(child, f"{path}.")


def _called(net: nn.Module, atoms: dict[str, nn.Module], example: Tensor) -> list[str]:
    """Names of atoms, and of the modules that hold them, in the order in which the forward pass calls them."""
    order: dict[str, None] = {}
    watched = atoms | {n: m for n, m in net.named_modules() if n not in atoms and not _inside(n, atoms)}
    handles = [
        module.register_forward_pre_hook(lambda _module, _args, name=name: order.setdefault(name))
        for name, module in watched.items()
    ]
    modes = {module: module.training for module in net.modules()}
    try:
        with torch.no_grad():
            net.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return list(order)


def _inside(name: str, atoms: dict[str, nn.Module]) -> bool:
    return any(name.startswith(f"{atom}.") for atom in atoms)


def _tensors(net: nn.Module, name: str, atom: nn.Module | None) -> list[str]:
    """Names of the parameters and buffers of an atom, or of a container's own."""
    module = atom if atom is not None else net.get_submodule(name)
    start = f"{name}." if name else ""
    own = list(module.named_parameters(recurse=atom is not None)) + list(module.named_buffers(recurse=atom is not None))
    return [start + tensor for tensor, _ in own]


def _has_opener(opened: list[_Open], atoms: dict[str, nn.Module]) -> bool:
    """Has the last layer got the module with weights that it is named for?"""
    return any(
        not ATTACHED.search(type(atoms[name]).__name__) and any(t.startswith(f"{name}.") for t in opened[-1].tensors)
        for name in opened[-1].modules
    )


def _names(net: nn.Module, opened: list[_Open]) -> list[str]:
    """Layers are called after their first module with weights, or what holds that and no other layer: C1, not C1.0."""
    owner = {tensor: k for k, layer in enumerate(opened) for tensor in layer.tensors}
    names = []
    for k, layer in enumerate(opened):
        weighty = [m for m in layer.modules if any(t.startswith(f"{m}.") for t in layer.tensors)]
        name = next((m for m in weighty if not ATTACHED.search(type(net.get_submodule(m)).__name__)), weighty[0])
        while "." in name:
            parent = name.rpartition(".")[0]
            if any(owner[tensor] != k for tensor in owner if tensor.startswith(f"{parent}.")):
                break
            name = parent
        names.append(name)
    return names


def _refuse_shared(net: nn.Module) -> None:
    seen: dict[int, str] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        if (other := seen.setdefault(id(parameter), name)) != name:
            raise LayersError(f"parameter '{name}' is shared with '{other}'; a layer's weights must be its own")


def _is_dropout(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.dropout._DropoutNd)


class _Tracer(fx.Tracer):
    """Traces containers only: the modules that run as one stay whole."""

    def __init__(self, atoms: set[str]) -> None:
        super().__init__()
        self.atoms = atoms

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.atoms or super().is_leaf_module(m, module_qualified_name)


def _number(node: fx.Node, found: Sequence[Layer]) -> int | None:
    """The layer whose weights a node uses, if any."""
    if node.op not in {"call_module", "get_attr"}:
        return None
    target = str(node.target)
    for layer in found:
        if any(tensor == target or tensor.startswith(f"{target}.") for tensor in layer.parameters + layer.buffers):
            return layer.number
    return None


def _halves(
    net: nn.Module, graph: fx.Graph, nodes: list[fx.Node], position: int, crossing: fx.Node
) -> tuple[nn.Module, nn.Module]:
    head, tail = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes[:position]:
        copies[node] = head.node_copy(node, copies.__getitem__)
    head.output(copies[crossing])
    copies = {crossing: tail.placeholder("activations")}
    for node in list(graph.nodes)[position:]:
        if node.op == "output":
            tail.output(fx.map_arg(node.args[0], copies.__getitem__))
        else:
            copies[node] = tail.node_copy(node, copies.__getitem__)
    return fx.GraphModule(net, head), fx.GraphModule(net, tail)
