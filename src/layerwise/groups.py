"""Blocks and stages of a net: coarser partitions of its layers, found in how its modules are nested.

A *list* holds modules one after the other: an `nn.Sequential`, `ModuleList` or `ModuleDict`; or, in a net that has
none with blocks, a module with several children of one class under numbered names. A *block* is an element of a list
that has two layers or more, and is neither a list itself nor made of such elements: a residual or inverted residual
block, a transformer block, a dense layer, an inception module. A *stage* is a list of blocks with what leads into it;
where all blocks are in one list, a run of blocks of one resolution. What is before the first block is the stem (a patch
embedding, say), and the last layer is the head: both are groups of their own.
"""

import re
from collections.abc import Mapping, Sequence

from torch import nn

GRANULARITIES = ("layer", "block", "stage")
LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

Groups = list[list[int]]  # positions of layers, in order, neighbours throughout


def blocks(net: nn.Module, layers: Sequence[str]) -> Groups:
    """Layers, given by their names in forward order, in blocks; a group for each layer where there are no blocks."""
    found = _blocks(net, layers)
    return _joined([_home(name, layers, found) for name in layers] if found else layers)


def stages(net: nn.Module, layers: Sequence[str], sides: Mapping[str, tuple[int, ...]]) -> Groups:
    """Layers in stages; `sides` are the height and width of what a layer gives, where it gives maps."""
    found = _blocks(net, layers)
    if not found:
        return _joined([str(sides.get(name)) for name in layers])
    lists = {name.rpartition(".")[0] for name in found}
    # A block beside lists of blocks is a stage of one block.
    lists = {
        name if any(_inner(other, parent) for other in lists) else parent
        for name, parent in ((name, name.rpartition(".")[0]) for name in found)
    }
    if len(lists) > 1:
        roots = [_root(name, lists) for name in sorted(lists)]
        named = [next((root for root in roots if within(name, root)), None) for name in layers]
    else:
        homes = [next((block for block in found if within(name, block)), None) for name in layers]
        last = dict(zip(homes, (str(sides.get(name)) for name in layers), strict=True))  # of each block's layers
        named = [home and last[home] for home in homes]
    return _joined(_filled(named))


def within(name: str, holder: str) -> bool:
    """Is the module or tensor of this name that one, or inside it? Everything is inside the net, whose name is ''."""
    return holder == "" or name == holder or name.startswith(f"{holder}.")


def group_name(members: Sequence[str], others: Sequence[str]) -> str:
    """A name for these layers: the module that holds them and no other layer, else the first and the last of them.

    >>> group_name(["layer1.0.conv1", "layer1.0.conv2"], ["conv1", "layer1.1.conv1", "layer1.1.conv2"])
    'layer1.0'
    >>> group_name(["features.1", "features.3"], ["features.0", "features.5"])
    'features.1..features.3'
    """
    first, last = (_around(name, others) for name in (members[0], members[-1]))
    return first if first == last else f"{first}..{last}"


def _around(layer: str, others: Sequence[str]) -> str:
    """The largest module around a layer that holds none of the others."""
    parts = layer.split(".")
    names = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return next((name for name in names if not any(within(other, name) for other in others)), layer)


def _blocks(net: nn.Module, layers: Sequence[str]) -> list[str]:
    """Names of the blocks: those in proper lists, or else those in numbered ones."""
    return _chosen(net, layers, _listed(net)) or _chosen(net, layers, _numbered(net))


def _chosen(net: nn.Module, layers: Sequence[str], elements: Sequence[str]) -> list[str]:
    """Blocks among elements. Of candidates within each other, the outer, unless some of the inner's class stand free."""
    elements = [name for name in elements if sum(within(layer, name) for layer in layers) > 1]
    repeated = [name for name in elements if _is_repeated(net, name, elements)]
    candidates = [name for name in elements if not any(_inner(other, name) for other in repeated)]
    free = {_kind(net, name) for name in candidates if not any(_inner(name, other) for other in candidates)}
    chosen = [name for name in candidates if _kind(net, name) in free]
    return [name for name in chosen if not any(_inner(other, name) for other in chosen)]


def _listed(net: nn.Module) -> list[str]:
    """Names of the elements of lists that are no plain lists themselves."""
    return [
        f"{name}.{child}" if name else child
        for name, module in net.named_modules()
        if isinstance(module, LISTS)
        for child, inner in module.named_children()
        if type(inner) not in LISTS
    ]


def _numbered(net: nn.Module) -> list[str]:
    """Names of modules that have a number in their name, and another of their class beside them."""
    names = [name for name, module in net.named_modules() if re.search(r"\d[^.]*$", name) and type(module) not in LISTS]
    return [name for name in names if _is_repeated(net, name, names)]


def _is_repeated(net: nn.Module, name: str, elements: Sequence[str]) -> bool:
    """Has an element another of its class beside it?"""
    beside = [other for other in elements if other.rpartition(".")[0] == name.rpartition(".")[0]]
    return sum(_kind(net, other) is _kind(net, name) for other in beside) > 1


def _kind(net: nn.Module, name: str) -> type[nn.Module]:
    return type(net.get_submodule(name))


def _inner(name: str, holder: str) -> bool:
    return name != holder and within(name, holder)


def _home(layer: str, layers: Sequence[str], found: Sequence[str]) -> str:
    """The block that a layer is in; else the largest module around it without any block, whose layers are neighbours."""
    for block in found:
        if within(layer, block):
            return block
    parts = layer.split(".")
    around = (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    free = (name for name in around if not any(within(block, name) for block in found))
    return next(name for name in free if _are_neighbours([within(other, name) for other in layers]))


def _are_neighbours(inside: Sequence[bool]) -> bool:
    return not any(inside[inside.index(True) + sum(inside) :])


def _root(name: str, lists: set[str]) -> str:
    """The largest module around a list of blocks that holds no other such list."""
    while "." in name and not any(within(other, name.rpartition(".")[0]) for other in lists - {name}):
        name = name.rpartition(".")[0]
    return name


def _filled(named: Sequence[str | None]) -> list[str]:
    """What is between stages belongs to the one after it; what is before the first and after the last is by itself."""
    known = [k for k, name in enumerate(named) if name is not None]
    filled = []
    for k in range(len(named)):
        after = next((named[j] for j in known if j >= k), None)
        filled.append(" before" if k < known[0] else after or " behind")
    return filled


def _joined(labels: Sequence[str]) -> Groups:
    """Groups of equal labels, the last layer by itself; groups that interleave are one."""
    last = {label: k for k, label in enumerate(labels[:-1])}
    groups: Groups = []
    reach = -1  # the last layer of the present group
    for k, label in enumerate(labels[:-1]):
        if k > reach:
            groups.append([])
        groups[-1].append(k)
        reach = max(reach, last[label])
    return [*groups, [len(labels) - 1]]
