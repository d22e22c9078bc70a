"""The images that a net takes, and what cures the others."""

from collections.abc import Sequence

from layerwise.errors import LayersError

SIDE = 32


def takes_grey(name: str, channels: int, size: int) -> None:
    """The net takes 32x32 images of 1 channel; raises LayersError, with the options that cure it, for others."""
    options = ["--resize 32"] * (size != SIDE) + ["--grey"] * (channels != 1)
    _refuse(name, f"{SIDE}x{SIDE} grey", channels, size, [f"pass {' '.join(options)}"] * bool(options))


def takes_colour(name: str, channels: int, size: int, side: int = SIDE) -> None:
    """The net takes images of 3 channels and this side; raises LayersError, with what cures it, for others."""
    cures = [f"pass --resize {side}"] * (size != side) + ["give colour images without --grey"] * (channels != 3)
    _refuse(name, f"{side}x{side} colour", channels, size, cures)


def takes_both(name: str, channels: int, size: int, sides: Sequence[int]) -> None:
    """The net takes grey and colour images of these sides; raises LayersError, with what cures it, for others."""
    cures = [f"pass --resize {sides[0]}"] * (size not in sides) + ["pass --grey"] * (channels not in {1, 3})
    _refuse(name, f"grey and colour {' or '.join(f'{side}x{side}' for side in sides)}", channels, size, cures)


def _refuse(name: str, kind: str, channels: int, size: int, cures: list[str]) -> None:
    if cures:
        images = f"{size}x{size} images of {channels} channel{'s' * (channels != 1)}"
        raise LayersError(f"net '{name}' takes {kind} images, not {images}; {' and '.join(cures)}")
