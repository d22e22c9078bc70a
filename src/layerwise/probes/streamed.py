"""HSIC of all pairs of layers at once: what a loop of pairs computes anew for each pair is computed once.

With Z the centred units of all layers side by side, linear CKA needs the squares of Z'Z added up over the block of each
pair of layers; or, which is the same, the inner products of the layers' Gram matrices. `from_units` adds up strips of
Z'Z while examples stream by; `from_examples` takes the Gram matrices of all layers one block at a time. Products are
made in the features' own precision (float32 at least), and added up in float64. Either keeps to a budget of bytes, that
of the features not counted: they may lie in memory-mapped files.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from layerwise.errors import RepresentationError
from layerwise.probes.cka import batches
from layerwise.probes.stack import Stack, blocks

Progress = Callable[[int, int], None]
ByLayers = Float[Tensor, "layers layers"]
Strip = tuple[slice, slice]  # units, and the units with which their products are taken

STRIP = 128  # units: narrower strips are slower, wider ones compute more of Z'Z twice
ROWS = 1024  # examples at a time: more bring no more speed
CHUNK = 1 << 16  # pairs of examples whose products are added up in one call


@dataclass(frozen=True)
class Sums:
    """For all pairs of layers, sums over Gram matrices K, L of centred features of the same n examples."""

    examples: int
    products: ByLayers  # sum_ij K_ij L_ij
    diagonals: ByLayers  # sum_i K_ii L_ii
    traces: Float[Tensor, " layers"]  # sum_i K_ii

    def hsic(self, debiased: bool) -> ByLayers:
        """Of all pairs of layers, as in `layerwise.probes.cka.hsic_of_features`."""
        n = self.examples
        if not debiased:
            return self.products / (n - 1) ** 2
        traces = torch.outer(self.traces, self.traces) / ((n - 1) * (n - 2))
        return (self.products - n / (n - 2) * self.diagonals + traces) / (n * (n - 3))


def from_all(stack: Stack, first: int | None, memory: int, progress: Progress | None = None) -> Sums:
    """The sums of all pairs of layers, or where `first` is given of the first so many with the others, and selves.

    Takes the form that needs fewer operations. What is in the other places is left open.
    """
    n, layers = stack.examples, len(stack.layers)
    by_units = sum(2 * n * _width(left) * _width(right) for left, right in strips(stack.edges, first))
    by_examples = n * n * (sum(stack.widths) + layers**2)
    if by_units <= by_examples:
        return from_units(stack, first, memory, progress)
    return from_examples(stack, memory, progress)


def from_units(stack: Stack, first: int | None, memory: int, progress: Progress | None = None) -> Sums:
    """The sums from products of units, for few units of many examples.

    The examples stream by once where all strips of Z'Z have room together, else once for each group that has.
    """
    layers, edges = len(stack.layers), stack.edges
    wide, rows, room = _room_of_strips(stack, memory)
    groups, parts = list(_groups(strips(edges, first, wide), room)), blocks(stack.examples, rows)
    products, diagonals, traces = _zeros(layers, layers), _zeros(layers, layers), _zeros(layers)
    for at, group in enumerate(groups):
        held = [_zeros(_width(left), _width(right)).to(stack.layers[0].device) for left, right in group]
        for done, part in enumerate(parts, 1):
            z = stack.side_by_side(part)
            for strip, (left, right) in zip(held, group, strict=True):
                strip += z[:, left].T @ z[:, right]
            if at == 0:
                norms = torch.stack([x.square().sum(1) for x in torch.split(z, stack.widths, 1)]).double().cpu()
                diagonals += norms @ norms.T
                traces += norms.sum(1)
            if progress:
                progress(at * len(parts) + done, len(groups) * len(parts))
        for strip, (left, right) in zip(held, group, strict=True):
            products += by_layer(strip.square_().cpu(), left, right, edges)
    return Sums(stack.examples, products, diagonals, traces)


def strips(edges: Sequence[int], first: int | None, wide: int = STRIP) -> list[Strip]:
    """Rectangles of Z'Z in which every wanted pair of layers lies, itself or its mirror image, and that once.

    The right side of each begins with the left side, or has nothing of it.
    """
    if first is None:
        return [(left, slice(left.start, edges[-1])) for left in _cut(0, edges[-1], wide)]
    selves = [(left, slice(left.start, end)) for begin, end in pairwise(edges) for left in _cut(begin, end, wide)]
    return selves + [(left, slice(edges[first], edges[-1])) for left in _cut(0, edges[first], wide)]


def _cut(begin: int, end: int, wide: int) -> list[slice]:
    return [slice(at, min(at + wide, end)) for at in range(begin, end, wide)]


def _width(part: slice) -> int:
    return part.stop - part.start


def _zeros(*shape: int) -> Float[Tensor, "..."]:
    return torch.zeros(shape, dtype=torch.float64)


def _room_of_strips(stack: Stack, memory: int) -> tuple[int, int, int]:
    """How many units a strip may have, how many examples may be there at a time, and bytes for strips held together."""
    units, size = sum(stack.widths), stack.precision.itemsize
    fixed = 16 * units * (1 + len(stack.layers))  # means, and whose the units are
    one_unit, one_example = 24 * units, 2 * size * units  # a strip and its product; rows as they are made and used
    room = memory - fixed
    if room < 4 * max(one_unit, one_example):
        raise too_little(memory, fixed + 4 * max(one_unit, one_example))
    return min(STRIP, room // 4 // one_unit), min(ROWS, room // 4 // one_example), room // 2


def _groups(wanted: Sequence[Strip], room: int) -> Iterator[list[Strip]]:
    """The strips in groups that have room together."""
    group: list[Strip] = []
    held = 0
    for left, right in wanted:
        size = 8 * _width(left) * _width(right)
        if group and held + size > room:
            yield group
            group, held = [], 0
        group.append((left, right))
        held += size
    yield group


def by_layer(squares: Float[Tensor, "left right"], left: slice, right: slice, edges: Sequence[int]) -> ByLayers:
    """A strip's squares added up by pairs of layers, those that have a mirror image in both places."""
    mine, theirs = _membership(left, edges), _membership(right, edges)
    found = mine.T @ squares @ theirs
    found = found + found.T
    if left.start == right.start:  # the products of the left side with itself are their own mirror image
        found -= mine.T @ squares[:, : _width(left)] @ mine
    return found


def _membership(units: slice, edges: Sequence[int]) -> Float[Tensor, "units layers"]:
    """1 where a unit is of a layer."""
    layer = torch.bucketize(torch.arange(units.start, units.stop), torch.tensor(edges[1:]), right=True)
    return torch.nn.functional.one_hot(layer, len(edges) - 1).double()


def from_examples(stack: Stack, memory: int, progress: Progress | None = None) -> Sums:
    """The sums from blocks of Gram matrices, for many units of few examples.

    A block off the diagonal stands for its mirror image too.
    """
    layers = len(stack.layers)
    parts = blocks(stack.examples, _rows_of_grams(stack, memory))
    pairs = [(i, j) for i in range(len(parts)) for j in range(i, len(parts))]
    products, diagonals, traces = _zeros(layers, layers), _zeros(layers, layers), _zeros(layers)
    for done, (i, j) in enumerate(pairs, 1):
        grams = _grams(stack, parts[i], parts[j])
        products += inner_products(grams) * (1 if i == j else 2)
        if i == j:
            found = of_block(grams)
            diagonals += found.diagonals
            traces += found.traces
        if progress:
            progress(done, len(pairs))
    return Sums(stack.examples, products, diagonals, traces)


def _rows_of_grams(stack: Stack, memory: int) -> int:
    """How many examples a block may have: rows^2 products of each layer, and thrice the rows of the widest."""
    layers, size = len(stack.layers), stack.precision.itemsize
    fixed = 8 * sum(stack.widths) + 16 * layers * CHUNK
    one, pair = 3 * size * max(stack.widths), size * layers
    if memory < fixed + one + pair:
        raise too_little(memory, fixed + one + pair)
    return int((math.sqrt(one**2 + 4 * pair * (memory - fixed)) - one) / (2 * pair))


def _grams(stack: Stack, rows: slice, columns: slice) -> Float[Tensor, "layers rows columns"]:
    shape = len(stack.layers), _width(rows), _width(columns)
    grams = torch.empty(shape, dtype=stack.precision, device=stack.layers[0].device)
    for k, gram in enumerate(grams):
        x = stack.centred(k, rows)
        y = x if rows == columns else stack.centred(k, columns)
        torch.mm(x, y.T, out=gram)
    return grams


def inner_products(grams: Float[Tensor, "layers rows columns"]) -> ByLayers:
    """sum_ij K_ij L_ij of all pairs of layers."""
    found = _zeros(len(grams), len(grams))
    for chunk in torch.split(grams.flatten(1), CHUNK, 1):
        exact = chunk.double()
        found += (exact @ exact.T).cpu()
    return found


def of_block(grams: Float[Tensor, "layers some some"]) -> Sums:
    """The sums of Gram matrices that are here as a whole."""
    diagonals = grams.diagonal(dim1=1, dim2=2).double().cpu()
    return Sums(grams.shape[1], inner_products(grams), diagonals @ diagonals.T, diagonals.sum(1))


def from_batches(stack: Stack, batch: int, memory: int, progress: Progress | None = None) -> list[Sums]:
    """The sums of each batch of `layerwise.probes.cka.batches`, centred by itself."""
    layers, size = len(stack.layers), stack.precision.itemsize
    parts = batches(stack.examples, batch)
    most = len(parts[0])
    needed = 8 * sum(stack.widths) + size * most * (layers * most + 3 * max(stack.widths)) + 16 * layers * CHUNK
    if needed > memory:
        raise too_little(memory, needed)
    found = []
    for done, rows in enumerate(parts, 1):
        grams = torch.empty(layers, len(rows), len(rows), dtype=stack.precision, device=stack.layers[0].device)
        for layer, gram in zip(stack.layers, grams, strict=True):
            x = layer[rows].to(stack.precision)
            x = x - x.mean(0)
            torch.mm(x, x.T, out=gram)
        found.append(of_block(grams))
        if progress:
            progress(done, len(parts))
    return found


def too_little(memory: int, least: int) -> RepresentationError:
    """The error, to be raised, of a budget that not even the smallest blocks fit into; both in bytes."""
    return RepresentationError(f"memory={memory} bytes is too little for these layers; the least is {least}")
