"""What may be asked of the probes that reconstruct images: which layers they look at, and priors of inversions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

from layerwise.errors import StudyError, unknown

PROBES = ("inversion", "decoder")
EVERY = "all"  # layers


@dataclass(frozen=True)
class Reconstruction:
    """As it stands, the papers' inversion, of some layers where the net is deep."""

    layers: str | None = None  # their names with commas between them, or all
    total_variation: float = 0.0  # weights of the priors; 0 is none
    norm: float = 0.0

    def __post_init__(self) -> None:
        for name in ("total_variation", "norm"):
            if not (isfinite(value := getattr(self, name)) and value >= 0):
                raise StudyError(f"--{name.replace('_', '-')} {value} is not possible; it is a number from 0 up")

    def check(self, probes: Sequence[str]) -> None:
        """Raise StudyError where none of these probes would make anything of it."""
        for option, (_, users) in _USES.items():
            if getattr(self, option) and not set(users) & set(probes):
                raise StudyError(
                    f"--{option.replace('_', '-')} is for {' and '.join(users)}, which --probes does not name"
                )

    def numbers(self, names: Sequence[str]) -> list[int] | None:
        """Numbers from 1 of the layers asked for, where the net's are these; null where it was not said.

        Raises StudyError where there is no such layer.

        >>> Reconstruction("conv3, conv1").numbers(["conv1", "conv2", "conv3"])
        [1, 3]
        """
        if self.layers is None:
            return None
        wanted = {name.strip() for name in self.layers.split(",") if name.strip()}
        if strange := sorted(wanted - {*names, EVERY}):
            raise StudyError(unknown("layer", strange[0], [*names, EVERY]))
        if not wanted:
            raise StudyError("--layers names none; write a list such as conv1,conv2, or all")
        return [number for number, name in enumerate(names, 1) if EVERY in wanted or name in wanted]

    def facts(self) -> Iterator[tuple[str, str]]:
        """What was asked for beyond what is usual, as the report shows it."""
        for option, (told, _) in _USES.items():
            if value := getattr(self, option):
                yield told, str(value)


_USES = {  # option: what it is in the report, and the probes that it is for
    "layers": ("layers inverted and decoded", PROBES),
    "total_variation": ("weight of total variation in inversions", PROBES[:1]),
    "norm": ("weight of the norm in inversions", PROBES[:1]),
}
