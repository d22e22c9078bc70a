"""The images that a net takes, and what cures the others."""

from layerwise.errors import LayersError

SIDE = 32


def takes_grey(name: str, channels: int, size: int) -> None:
    """The net takes 32x32 images of 1 channel; raises LayersError, with the options that cure it, for others."""
    options = ["--resize 32"] * (size != SIDE) + ["--grey"] * (channels != 1)
    _refuse(name, "grey", channels, size, [f"pass {' '.join(options)}"] * bool(options))


def takes_colour(name: str, channels: int, size: int) -> None:
    """The net takes 32x32 images of 3 channels; raises LayersError, with what cures it, for others."""
    cures = ["pass --resize 32"] * (size != SIDE) + ["give colour images without --grey"] * (channels != 3)
    _refuse(name, "colour", channels, size, cures)


def _refuse(name: str, kind: str, channels: int, size: int, cures: list[str]) -> None:
    if cures:
        images = f"{size}x{size} images of {channels} channel{'s' * (channels != 1)}"
        raise LayersError(f"net '{name}' takes {SIDE}x{SIDE} {kind} images, not {images}; {' and '.join(cures)}")
