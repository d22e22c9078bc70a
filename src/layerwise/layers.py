"""The layers of a net: an ordered partition of all that it has learnt or keeps, and cutting the net between them.

A layer is a module with weights (convolution, linear, attention, ...) together with the norms, activations and dropouts
that run after it. The order is that of the forward pass, found by running it once, not that of definition. Every
parameter and every buffer is in exactly one layer.
"""

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized

from layerwise.errors import LayersError, unknown
from layerwise.groups import GRANULARITIES, blocks, group_name, stages, within
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

    name: str  # of the module that opened it
    modules: list[str] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)


def layers(net: nn.Module, example: Tensor, granularity: str = "layer") -> tuple[Layer, ...]:
    """The ordered partition of a net; `example` is any input (examples, channels, height, width) that it takes.

    At granularity `block` or `stage` (see `layerwise.groups`) it is a coarser one, whose parts are layers joined.
    Raises LayersError, by name, for shared parameters, for modules with weights or buffers that are never called,
    and for dropout modules that several layers share.
    """
    if granularity not in GRANULARITIES:
        raise LayersError(unknown("granularity", granularity, GRANULARITIES))
    _refuse_shared(net)
    atoms = dict(_atoms(net))
    calls, sides = _calls(net, atoms, example)
    _refuse_shared_dropout(atoms, calls)
    opened = _open(net, atoms, list(dict.fromkeys(calls)))
    parameters = dict(net.named_parameters())
    placed = {tensor for layer in opened for tensor in layer.tensors}
    if never := [name for name in [*parameters, *dict(net.named_buffers())] if name not in placed]:
        module = never[0].rpartition(".")[0]
        raise LayersError(f"module '{module}' has weights or buffers, and the forward pass never calls it; remove it")
    if not parameters:
        raise LayersError("the net has no parameters, so it has no layers")
    names = _names(net, opened)
    found = tuple(
        Layer(
            name=name,
            number=number,
            parameters=tuple(t for t in layer.tensors if t in parameters),
            buffers=tuple(t for t in layer.tensors if t not in parameters),
            modules=tuple(layer.modules),
        )
        for number, (name, layer) in enumerate(zip(names, opened, strict=True), 1)
    )
    if granularity == "layer":
        return found
    its_sides = {name: sides[layer.name] for name, layer in zip(names, opened, strict=True) if layer.name in sides}
    groups = blocks(net, names) if granularity == "block" else stages(net, names, its_sides)
    return tuple(_joined([found[k] for k in group], found, number) for number, group in enumerate(groups, 1))


def _joined(members: Sequence[Layer], found: Sequence[Layer], number: int) -> Layer:
    """Neighbouring layers as one."""
    others = [layer.name for layer in found if layer not in members]
    return Layer(
        name=group_name([layer.name for layer in members], others),
        number=number,
        parameters=tuple(name for layer in members for name in layer.parameters),
        buffers=tuple(name for layer in members for name in layer.buffers),
        modules=tuple(name for layer in members for name in layer.modules),
    )


def spread(
    treatment: Treatment, net: str, coarse: Sequence[Layer], found: Sequence[Layer], granularity: str = "block"
) -> Treatment:
    """The treatment over blocks or stages as one over layers: `F2R` over blocks of 3, 3 and 1 layers is `F6R`.

    `coarse` and `found` are partitions of the same net. Raises LayersError, naming the blocks, where it does not fit.
    """
    symbols = fit(treatment, net, coarse, granularity).letters()
    sizes = [sum(layer.parameters[0] in group.parameters for layer in found) for group in coarse]
    letters = ["".join(symbol * size for symbol, size in zip(stage, sizes, strict=True)) for stage in symbols]
    return Treatment.parse(" > ".join(letters))


def fit(treatment: Treatment, net: str, found: Sequence[Layer], granularity: str = "layer") -> Treatment:
    """The treatment for just these layers, without `*`; raises LayersError, naming them, where it does not fit."""
    if not treatment.fits(len(found)):
        wants = f"at least {treatment.at_least}" if treatment.depth is None else str(treatment.depth)
        names = " ".join(layer.name for layer in found)
        what = f"{granularity}s"
        raise LayersError(f"treatment '{treatment}' is for {wants} {what}; net '{net}' has {len(found)}: {names}")
    return treatment.resolve(len(found))


def set_modes(net: nn.Module, found: Sequence[Layer], trained: Sequence[bool], *, frozen_dropout: bool = False) -> None:
    """Put trained layers into train mode and frozen ones, dropout and batch norm included, into eval mode.

    A module with tensors of its own is in the mode of their layer; one that only holds layers is in train mode if any
    of them is. With `frozen_dropout` dropouts stay on everywhere.
    """
    mode = {name: on for layer, on in zip(found, trained, strict=True) for name in layer.modules}
    owner = {t: on for layer, on in zip(found, trained, strict=True) for t in layer.parameters + layer.buffers}
    for name, module in net.named_modules():
        own = [owner[tensor] for tensor in _tensors(net, name, recurse=False) if tensor in owner]
        inside = [on for other, on in mode.items() if within(other, name) or within(name, other)]
        module.training = any(own or inside) or (frozen_dropout and _is_dropout(module))


@contextmanager
def in_eval(net: nn.Module, *, training: bool = False) -> Iterator[None]:
    """The net in eval mode (or train mode) while this lasts, and afterwards each module in its own again."""
    modes = {module: module.training for module in net.modules()}
    net.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def cut(net: nn.Module, found: Sequence[Layer], n: int) -> tuple[nn.Module, nn.Module]:
    """The net as two: up to layer n with the activations after it, and the rest; `rest(first(x)) == net(x)`.

    The halves share the net's parameters. Raises LayersError where more than one tensor crosses, as inside a residual
    block, or where the net's forward pass cannot be traced, or goes another way in training.
    """
    where = f"after layer {n} '{found[n - 1].name}'"
    owners = _owners(net, found)
    tracer = _Tracer({name for layer in found for name in layer.modules} | _one_sided(net, owners, n), _dtype(net))
    try:
        graph = tracer.trace(net)
        with in_eval(net, training=not net.training):
            other = tracer.trace(net)
    except Exception as error:  # tracing runs the user's forward pass: anything may come
        why = str(error).partition("\n")[0]
        raise LayersError(f"the net cannot be cut {where}: its forward pass cannot be traced ({why})") from error
    if str(graph) != str(other):
        why = "its forward pass is another in training; use modules such as nn.Dropout in place of functions"
        raise LayersError(f"the net cannot be cut {where}: {why}")
    nodes = [node for node in graph.nodes if node.op != "output"]
    place = {node: position for position, node in enumerate(graph.nodes)}
    numbers = [max(_numbers(node, owners), default=None) for node in nodes]
    first = max((i for i, number in enumerate(numbers) if number and number <= n), default=-1) + 1
    last = min((i for i, number in enumerate(numbers) if number and number > n), default=len(nodes))
    for position in range(last, first - 1, -1):
        later = list(graph.nodes)[position:]
        crossing = {value for node in later for value in node.all_input_nodes if place[value] < position}
        crossing -= _options(graph)
        if len(crossing) == 1:
            return _halves(net, graph, nodes, position, crossing.pop())
    raise LayersError(f"the net cannot be cut {where}: more than one tensor crosses there")


def _atoms(net: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules that run as one, each with all that is inside it; the net itself where nothing inside has weights."""
    if _is_atom(net) and (name or not any(map(_opens, list(net.modules())[1:]))):
        yield name, net
        return
    for child_name, child in net.named_children():
        yield from _atoms(child, f"{name}.{child_name}" if name else child_name)


def _is_atom(module: nn.Module) -> bool:
    """Without children, attention, with a parametrised weight, or with weights of its own around none that could."""
    return (
        not any(True for _ in module.children())
        or bool(ATOMIC.search(type(module).__name__))
        or is_parametrized(module)
        or (any(True for _ in module.parameters(recurse=False)) and not any(map(_opens, list(module.modules())[1:])))
    )


def _opens(module: nn.Module) -> bool:
    """Has the module weights, its own or inside it, and is no norm or the like: can a layer be named for it?"""
    return not ATTACHED.search(type(module).__name__) and any(True for _ in module.parameters())


def _calls(
    net: nn.Module, atoms: dict[str, nn.Module], example: Tensor
) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """Names of atoms, and of the modules that hold them, as the forward pass calls them, some more than once.

    Beside them the height and width of what atoms give that give maps, (examples, channels, height, width).
    """
    calls: list[str] = []
    sides: dict[str, tuple[int, ...]] = {}

    def look(name: str, made: object) -> None:
        if isinstance(made, Tensor) and made.dim() == 4:
            sides[name] = tuple(made.shape[2:])

    holders = {n: m for n, m in net.named_modules() if not any(within(n, atom) for atom in atoms)}
    handles = [
        module.register_forward_pre_hook(lambda _module, _args, name=name: calls.append(name))
        for name, module in {**atoms, **holders}.items()
    ]
    handles += [
        module.register_forward_hook(lambda _module, _args, made, name=name: look(name, made))
        for name, module in atoms.items()
    ]
    try:
        with in_eval(net), torch.no_grad():
            net(example)
    finally:
        for handle in handles:
            handle.remove()
    return calls, sides


def _open(net: nn.Module, atoms: dict[str, nn.Module], called: Sequence[str]) -> list[_Open]:
    """The layers, each opened by an atom with weights; what has run or been entered before it waits for the next.

    A norm belongs to the layer before it, unless it is nearer to the next, as where a block begins with it.
    """
    opened: list[_Open] = []
    waiting = _Open("")
    for place, name in enumerate(called):
        tensors = _tensors(net, name, recurse=name in atoms)
        if name not in atoms:
            waiting.tensors += tensors  # a container's own tensors go to the first layer inside it
            continue
        if _opens(atoms[name]):
            opened.append(_Open(name, waiting.modules, waiting.tensors))
            waiting = _Open("")
        after = next((other for other in called[place + 1 :] if other in atoms and _opens(atoms[other])), "")
        waits = bool(waiting.tensors) or bool(opened and tensors and _nearer(name, after, opened[-1].name))
        layer = opened[-1] if opened and not waits else waiting
        layer.modules.append(name)
        layer.tensors += tensors
    if opened:
        opened[-1].modules += waiting.modules
        opened[-1].tensors += waiting.tensors
        return opened
    waiting.name = next((m for m in waiting.modules if _tensors(net, m, recurse=True)), "")
    return [waiting]


def _nearer(name: str, one: str, other: str) -> bool:
    """Does a module share more of the modules around it with one than with the other? With itself it shares all."""

    def shared(with_name: str) -> int:
        pairs = zip(name.split("."), with_name.split("."), strict=False)
        return next((k for k, (a, b) in enumerate(pairs) if a != b), name.count(".") + 1)

    return bool(one) and shared(one) > shared(other)


def _tensors(net: nn.Module, name: str, *, recurse: bool) -> list[str]:
    """Names of the parameters and buffers of a module, those of the modules inside it too if `recurse`."""
    module = net.get_submodule(name)
    own = [*module.named_parameters(recurse=recurse), *module.named_buffers(recurse=recurse)]
    return [f"{name}.{tensor}" if name else tensor for tensor, _ in own]


def _names(net: nn.Module, opened: list[_Open]) -> list[str]:
    """Layers are called after their first module with weights, or what holds that and no other layer: C1, not C1.0."""
    owner = {tensor: k for k, layer in enumerate(opened) for tensor in layer.tensors}
    names = []
    for k, layer in enumerate(opened):
        name = layer.name
        while "." in name:
            parent = name.rpartition(".")[0]
            if any(within(tensor, parent) and owner[tensor] != k for tensor in owner):
                break
            name = parent
        names.append(name or type(net).__name__)
    return names


def _refuse_shared(net: nn.Module) -> None:
    seen: dict[int, str] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        if (other := seen.setdefault(id(parameter), name)) != name:
            raise LayersError(f"parameter '{name}' is shared with '{other}'; a layer's weights must be its own")


def _refuse_shared_dropout(atoms: dict[str, nn.Module], calls: Sequence[str]) -> None:
    """One dropout cannot be on in a trained layer and off in a frozen one."""
    numbers: dict[str, int] = {}  # of the atoms that open layers
    homes: dict[str, int] = {}
    number = 0
    for name in calls:
        if name in atoms and _opens(atoms[name]):
            number = numbers.setdefault(name, len(numbers))
        elif name in atoms and _is_dropout(atoms[name]) and homes.setdefault(name, number) != number:
            first, second = (list(numbers)[n] for n in (homes[name], number))
            raise LayersError(
                f"dropout '{name}' runs after '{first}' and again after '{second}'; give each layer its own dropout"
            )


def _is_dropout(module: nn.Module) -> bool:
    """Does the module drop anything? At a rate of 0 it may stand anywhere, as libraries have it."""
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0


class _Tracer(fx.Tracer):
    """Traces only the modules that it must: those that run as one stay whole. Images are of the net's own type."""

    def __init__(self, whole: set[str], dtype: torch.dtype | None) -> None:
        super().__init__()
        self.whole, self.dtype = whole, dtype

    def to_bool(self, obj: fx.Proxy) -> bool:
        node = obj.node
        if node.target in {operator.eq, operator.ne} and _is_type_of_images(node.args[0]):
            return (self.dtype == node.args[1]) == (node.target is operator.eq)
        return super().to_bool(obj)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.whole or not any(True for _ in m.children())


def _is_type_of_images(node: object) -> bool:
    """Is it the dtype of what the net was given?"""
    is_attribute = isinstance(node, fx.Node) and node.target is getattr and node.args[1] == "dtype"
    return is_attribute and isinstance(images := node.args[0], fx.Node) and images.op == "placeholder"


def _dtype(net: nn.Module) -> torch.dtype | None:
    return next((parameter.dtype for parameter in net.parameters()), None)


def _options(graph: fx.Graph) -> set[fx.Node]:
    """What the forward pass may be given beside the images, and is not: both halves take its default."""
    return {node for node in graph.nodes if node.op == "placeholder" and node.args}


def _owners(net: nn.Module, found: Sequence[Layer]) -> dict[str, int]:
    """The number of the layer that each tensor and each dropout belongs to; activations may be used by several."""
    owners = {name: layer.number for layer in found for name in layer.parameters + layer.buffers}
    dropouts = {name for name, module in net.named_modules() if _is_dropout(module)}
    return owners | {name: layer.number for layer in found for name in layer.modules if name in dropouts}


def _one_sided(net: nn.Module, owners: Mapping[str, int], n: int) -> set[str]:
    """Modules whose layers are all up to layer n, or all behind it: how they calculate makes no difference to a cut."""
    sides: dict[str, set[bool]] = {}
    for name, number in owners.items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            sides.setdefault(".".join(parts[:depth]), set()).add(number <= n)
    return {name for name, _ in net.named_modules() if len(sides.get(name, ())) == 1}


def _numbers(node: fx.Node, owners: Mapping[str, int]) -> list[int]:
    """The layers whose weights, buffers or dropouts a node uses."""
    target = str(node.target)
    if node.op == "get_attr":
        return [owners[target]] if target in owners else []
    return [owners[name] for name in owners if within(name, target)] if node.op == "call_module" else []


def _halves(
    net: nn.Module, graph: fx.Graph, nodes: list[fx.Node], position: int, crossing: fx.Node
) -> tuple[nn.Module, nn.Module]:
    head, tail = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes[:position]:
        copies[node] = head.node_copy(node, copies.__getitem__)
    head.output(copies[crossing])
    copies = {crossing: tail.placeholder("activations")}
    copies |= {node: tail.node_copy(node) for node in nodes if node in _options(graph)}
    for node in list(graph.nodes)[position:]:
        if node.op == "output":
            tail.output(fx.map_arg(node.args[0], copies.__getitem__))
        elif node not in copies:
            copies[node] = tail.node_copy(node, copies.__getitem__)
    return fx.GraphModule(net, head), fx.GraphModule(net, tail)
