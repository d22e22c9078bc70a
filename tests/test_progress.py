"""What is said of the time left."""

import pytest
from rich.progress import Progress

from layerwise.progress import seconds_left


def test_a_fleet_that_ends_at_one_moment_does_not_hurry_the_rest() -> None:
    """Bug: after four runs had ended within a millisecond, the other twelve were to take one second."""
    now = [0.0]
    bar = Progress(get_time=lambda: now[0])
    task = bar.add_task("training", total=16)
    for k in range(4):
        now[0] = 10 + k / 1000
        bar.update(task, advance=1)
    assert seconds_left(bar.tasks[0]) == pytest.approx(30, abs=0.1)


def test_before_anything_is_done_nothing_is_known() -> None:
    bar = Progress()
    bar.add_task("training", total=16)
    assert seconds_left(bar.tasks[0]) is None
