"""What was seen elsewhere is learnt as it was, and says of a new net and data what it should."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from layerwise.advising.candidates import candidates, options
from layerwise.advising.experience import CANONICAL, Circumstances, Experience, Seen, experience, learn

WHICH = [(one.candidate.policy, one.rate) for one in CANONICAL]
RNG = np.random.default_rng(0)


def test_every_option_of_any_net_is_known() -> None:
    known = set(WHICH)
    for groups in [(1, 1), (1, 1, 1), (1,) * 4, (1,) * 6, (2, 2, 2, 1), (1, *(2,) * 9, 1), (1,) * 14, (3,) * 40]:
        assert {(one.candidate.policy, one.rate) for one in options(candidates(groups))} <= known


@pytest.fixture
def truth() -> np.ndarray:
    """An accuracy for each option, and how it changes with tenfold samples."""
    return RNG.normal(0, 0.05, (2, len(WHICH)))


def seen(truth: np.ndarray, samples: float, level: float) -> Seen:
    values = level + truth[0] + truth[1] * np.log10(samples)
    return Seen(Circumstances(samples, 0.5, 0.0), dict(zip(WHICH, map(float, values), strict=True)))


def test_what_options_do_beside_each_other_is_learnt_whatever_the_level(truth: np.ndarray) -> None:
    found = learn([seen(truth, samples, level) for samples in (1, 10, 100) for level in (0.3, 0.5, 0.9)])
    for samples in (1, 10, 100):
        wanted = truth[0] + truth[1] * np.log10(samples)
        told = found.expected(CANONICAL, Circumstances(samples, 0.5, 0.0))
        assert np.corrcoef(told, wanted)[0, 1] > 0.97
        assert told.mean() == pytest.approx(0, abs=1e-12)
        assert abs(told - (wanted - wanted.mean())).max() < 0.06


def test_nothing_is_said_of_what_was_never_seen_to_differ() -> None:
    found = learn([seen(np.zeros((2, len(WHICH))), samples, 0.6) for samples in (5, 20)])
    assert abs(found.expected(CANONICAL, Circumstances(20, 0.5, 0.0))).max() < 1e-9


def test_an_option_that_was_not_seen_is_taken_to_be_like_those_that_treat_layers_alike() -> None:
    """Full fine-tuning at 0.01 alone was worse; that at 0.002 is taken to be rather bad, scratch less so."""
    values = {which: 0.6 - 0.2 * (which == ("fine-tune", 0.01)) for which in WHICH}
    del values["fine-tune", 0.002], values["scratch", 0.002]
    found = learn([Seen(Circumstances(5, 0.5, 0.0), values)] * 4)
    told = dict(zip(WHICH, found.expected(CANONICAL, Circumstances(5, 0.5, 0.0)), strict=True))
    assert told["fine-tune", 0.01] < told["fine-tune", 0.002] < told["scratch", 0.002]


def test_what_is_not_known_counts_as_usual(truth: np.ndarray) -> None:
    found = learn([seen(truth, samples, 0.5) for samples in (1, 10, 100)])
    usual = Circumstances(10, found.centre[1], found.centre[2])
    told = found.expected(CANONICAL, Circumstances(10)), found.expected(CANONICAL, usual)
    assert told[0] == pytest.approx(told[1])


def test_what_is_lacking_with_few_steps_is_learnt_as_it_is(truth: np.ndarray) -> None:
    """Not beside the others' but as such; and nothing where nothing was seen."""
    short = dict(zip(WHICH, map(float, truth[0] - 0.2), strict=True))
    some = [replace(seen(truth, samples, 0.5), short=short) for samples in (1, 10, 100)]
    told = learn(some).shortfall(CANONICAL, Circumstances(10, 0.5, 0.0))
    assert told.mean() == pytest.approx(-0.2, abs=0.02)
    assert np.corrcoef(told, truth[0])[0, 1] > 0.9
    assert not learn([seen(truth, 10, 0.5)]).shortfall(CANONICAL, Circumstances(10, 0.5, 0.0)).any()


def test_it_is_read_as_it_was_written(truth: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = learn([seen(truth, samples, 0.5) for samples in (1, 10)], "a test")
    found.save(tmp_path / "experience.json")
    monkeypatch.setattr("layerwise.advising.experience.FILE", tmp_path / "experience.json")
    experience.cache_clear()
    try:
        assert experience() == found
    finally:
        experience.cache_clear()


def test_what_came_with_this_version_knows_every_option() -> None:
    found = experience()
    assert isinstance(found, Experience)
    told = found.expected(CANONICAL, Circumstances(5, 0.6, 0.05))
    assert 0.005 < np.ptp(told) < 0.9
    assert "draws" in found.learnt_from
