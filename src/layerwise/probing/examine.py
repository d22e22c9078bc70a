"""From a net and data to an examined net: plan, train if need be, probe after probe, rows."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from layerwise.errors import LayerwiseError, StudyError, unknown
from layerwise.probes.similarity import MEASURES
from layerwise.probing.examined import Examined
from layerwise.probing.look import Look
from layerwise.probing.probes import ALL, PROBES, QUICK, quantities
from layerwise.probing.reconstruction import Reconstruction
from layerwise.probing.subject import Subject
from layerwise.progress import Quiet
from layerwise.rows import frame


def chosen(text: str) -> tuple[str, ...]:
    """The probes that a text such as `knn,linear` names, in the order in which they are made.

    >>> chosen("linear,knn")
    ('knn', 'linear')
    """
    names = {name.strip() for name in text.split(",") if name.strip()}
    if strange := sorted(names - set(PROBES) - {"quick", "all"}):
        raise StudyError(unknown("probe", strange[0], [*PROBES, "quick", "all"]))
    if not names:
        raise StudyError("--probes names none; write a list such as knn,linear,cka, or quick, or all")
    wanted = names | (set(ALL) if "all" in names else set(QUICK) if "quick" in names else set())
    return tuple(name for name in PROBES if name in wanted)


def compares(names: Sequence[str]) -> bool:
    """Does any of these probes compare the net with another one?"""
    return any(name in MEASURES for name in names)


def examine(
    subject: Subject,
    names: Sequence[str],
    *,
    pooling: str,
    memory: int,
    other: Subject | None,
    listener: Quiet,
    plan: dict[str, Any],
    reconstruction: Reconstruction,
) -> Examined:
    """Probe after probe; one that cannot be made at all leaves a row that says why, and harms no other."""
    failures: list[str] = []
    look = Look(subject, pooling, memory, other, reconstruction)
    for name in names:
        start = time.monotonic()
        look.progress = listener.probing(name)
        try:
            PROBES[name].measure(look)
        except LayerwiseError as error:
            look.note(name, None, reason=str(error))
        except (RuntimeError, ValueError, ArithmeticError, IndexError) as error:  # the other probes are not lost by it
            failures.append(f"probe {name}: {type(error).__name__}: {error}")
            look.note(name, None, reason=failures[-1])
        listener.probed(name, time.monotonic() - start)
    told = {
        "quantities": quantities(names),
        "net": subject.name,
        "layers": look.layers,
        "failures": failures,
        "probes": list(names),
        "captions": look.captions,
        "facts": [*_facts(subject, pooling), *reconstruction.facts()],
    }
    return Examined(frame(look.rows), look.pictures, {**plan, **told})


def _facts(subject: Subject, pooling: str) -> list[tuple[str, str]]:
    """The sizes of what was looked at, and what of an activation is a feature, as the report shows them."""
    classes = len(torch.unique(subject.labels))
    known = len(subject.known)
    return [
        ("layers", str(len(subject.found))),
        ("images looked at", f"{len(subject.labels):,}"),
        ("classes" + (f", {known} of them known" if 0 < known < classes else ""), str(classes)),
        ("pooling of activations", pooling),
    ]
