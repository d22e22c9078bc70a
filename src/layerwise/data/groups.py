"""Groups named by the user: a column of the data, or a regular expression for the paths of its files.

>>> column_of("writer"), column_of("(P[0-9]+)_")
('writer', 'group')
>>> grouped("(P[0-9]+)_", ["cat/P7_1.jpg", "cat/P12_1.jpg", "dog/P7_2.jpg"]).tolist()
['P7', 'P12', 'P7']
"""

import re
from collections.abc import Sequence

import numpy as np

from layerwise.errors import DataError

GROUP = "group"  # the column that a regular expression makes


def is_pattern(groups: str) -> bool:
    """Is it a regular expression, with a part in round brackets?"""
    return "(" in groups


def column_of(groups: str) -> str:
    """The column that holds the groups."""
    return GROUP if is_pattern(groups) else groups


def grouped(pattern: str, paths: Sequence[str]) -> np.ndarray:
    """What the first bracket finds in each path (relative, with /); DataError for a path in which it finds nothing."""
    try:
        search = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--groups '{pattern}' is not a regular expression ({error}); such as '(P[0-9]+)_'") from error
    if not search.groups:
        raise DataError(f"--groups '{pattern}' has no part in round brackets; put those around the group's name")
    found = [search.search(path) for path in paths]
    if lacking := [path for path, one in zip(paths, found, strict=True) if one is None or one[1] is None]:
        count = f"{len(lacking):,} of {len(paths):,} paths"
        raise DataError(f"--groups '{pattern}' finds nothing in {lacking[0]}, as in {count}; correct it, or the names")
    return np.array([one[1] for one in found if one])
