"""Numbers and intervals in sentences: how answers, findings and reports print them."""

from collections.abc import Callable

from layerwise.claims import Claim

MINUS = "\N{MINUS SIGN}"


def signed(value: float, digits: int = 1) -> str:
    """A change with its sign: "+3.2", "−0.4", "0.0".

    >>> signed(3.24), signed(-0.04), signed(-1.0)
    ('+3.2', '0.0', '−1.0')
    """
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def points(fraction: float) -> str:
    """A change of accuracy in percentage points, signed; one that would round to nothing has a digit more.

    >>> points(0.0324), points(-0.00012), points(0.0)
    ('+3.2', '−0.01', '0.0')
    """
    small = 0.005 <= abs(100 * fraction) < 0.05
    return signed(100 * fraction, 2 if small else 1)


def between(claim: Claim, told: Callable[[float], str], *, sign: int = 1) -> str:
    """A claim's interval (times the sign) in words, and what it is given; nothing where there is none."""
    if not claim.interval:
        return ""
    low, high = map(told, sorted(sign * bound for bound in claim.interval))
    given = f", {claim.given}" if claim.given else ""
    return f"{100 * (claim.level or 0):.0f} % interval {low} to {high}{given}"
