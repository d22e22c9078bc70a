"""A training step captured as a list of operations: what PyTorch decides anew at each step is decided once.

For small nets most of a step's time goes into finding out what to do: into modules, `vmap` and the recording of what
the backward pass needs. A captured step has forward and backward pass as one flat program.
"""

from collections.abc import Callable, Sequence
from threading import RLock
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten
SAME = {aten.detach.default, aten.view.default, aten.expand.default, aten._unsafe_view.default, aten.mul.Scalar}


def capture(step: Callable[..., Sequence[Tensor | None]], *example: Tensor) -> Callable[..., Sequence[Tensor]]:
    """The step as a program for tensors of these shapes; it reads no Python variable again.

    The step's control flow must not depend on the values of tensors.
    """
    program = make_fx(lambda *given: step(*given))(*example)
    _lock_within_process()
    with torch.no_grad():
        _Shapes(program).run(*example)
    for node in program.graph.nodes:
        if node.op == "call_function" and _does_nothing(node):
            node.replace_all_uses_with(node.args[0])
    program.graph.eliminate_dead_code()
    program.recompile()
    return torch.no_grad()(program.forward)


def _lock_within_process() -> None:
    """Have the progress bar that `fx.Interpreter` makes, where tqdm is installed, take no semaphore of the machine.

    A worker that is ended would leave it behind, and Python would warn of it in the end.
    """
    if set_lock := getattr(getattr(torch.hub, "tqdm", None), "set_lock", None):
        set_lock(RLock())


class _Shapes(fx.Interpreter):
    """Runs the program once and notes the shape of each tensor in it."""

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        n.meta["shape"] = (made.shape, made.stride(), made.dtype) if isinstance(made, Tensor) else None
        return made


def _does_nothing(node: fx.Node) -> bool:
    """Does the node give its first argument as it is?"""
    if node.target not in SAME or not isinstance(node.args[0], fx.Node) or node.meta["shape"] is None:
        return False
    if node.target is aten.mul.Scalar and node.args[1] != 1:
        return False
    return bool(node.meta["shape"] == node.args[0].meta["shape"])
