"""The treatment language: spelling is the inverse of reading, and every wrong text says what to write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerwise import treatment
from layerwise.errors import TreatmentError
from layerwise.treatment import CRITERIA, Part, Treatment

shares = st.integers(1, 999).map(lambda thousandths: thousandths / 1000)
parts = st.builds(lambda s, c, k: str(Part(s, c, k)), shares, st.sampled_from(CRITERIA), st.sampled_from("FT"))
symbols = st.sampled_from("FTRXMW") | parts


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, int]:
    """A treatment as somebody may write it, and a depth it is for."""
    depth = draw(st.integers(1, 12))
    stages = []
    for _ in range(draw(st.integers(1, 3))):
        letters = draw(st.lists(symbols, min_size=depth, max_size=depth))
        fill = draw(st.none() | st.integers(0, depth))
        if fill is not None and fill < depth:
            letters[fill:] = [f"{letters[fill]}*"]
        stages.append(draw(st.sampled_from(["", " "])).join(letters))
    return draw(st.sampled_from([">", " > "])).join(stages), depth


@given(texts())
def test_parse_after_spell_is_the_identity(case: tuple[str, int]) -> None:
    text, depth = case
    once = Treatment.parse(text)
    assert Treatment.parse(str(once)) == once
    assert str(Treatment.parse(str(once))) == str(once)
    resolved = once.resolve(depth)
    assert resolved.letters() == once.letters(depth)
    assert Treatment.parse(resolved.expanded) == resolved
    assert "*" not in str(resolved)


@given(st.lists(symbols, min_size=1, max_size=12))
def test_no_spelling_is_longer_than_the_letters(letters: list[str]) -> None:
    assert len(str(Treatment.parse("".join(letters)))) <= len("".join(letters))


@given(st.text(alphabet="FTRXMWPZf013*>(),. saliency", max_size=14))
def test_any_text_is_a_treatment_or_an_error_that_quotes_it(text: str) -> None:
    try:
        Treatment.parse(text)
    except TreatmentError as error:
        assert str(error).startswith(f"'{text}' ")  # noqa: PT017 (both outcomes are right)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("F3R5", "FFFRRRRR"),
        ("F 3 R 5", "F3R5"),
        ("F1R", "FR"),
        ("F2F*R", "FF*FR"),
        ("P(0.50, saliency, F)R", "P(.5,saliency,F)R"),
        ("F3R>T4", "FFFR > T4"),
    ],
)
def test_equal_treatments(one: str, other: str) -> None:
    assert Treatment.parse(one) == Treatment.parse(other)
    assert hash(Treatment.parse(one)) == hash(Treatment.parse(other))


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("FFFRRRRR", "F3R5"),
        ("TTTRTT", "T3RTT"),
        ("F6RR > F4T*", "F6RR > F4T*"),
        ("F*FFR", "FFF*R"),
        ("P(0.25,random,T)3R", "P(0.25,random,T)3R"),
    ],
)
def test_spelling(text: str, short: str) -> None:
    assert str(Treatment.parse(text)) == short


def test_masks_by_hand() -> None:
    both = Treatment.parse("FTRXMWP(0.5,saliency,F)")
    assert both.copied == ((True, True, False, False, False, False, True),)
    assert both.trained == ((False, True, True, False, True, True, True),)


@pytest.mark.parametrize(
    ("text", "needs"),
    [("R*", False), ("X3R*", False), ("R* > F*R", False), ("R* > WR*", True), ("MR", True), ("F*R", True)],
)
def test_only_r_and_x_need_no_source(text: str, needs: bool) -> None:
    assert Treatment.parse(text).needs_source is needs


@pytest.mark.parametrize(
    ("family", "text"),
    [
        (treatment.transfer(8, 3), "F3R5"),
        (treatment.transfer(8, 0), "R8"),
        (treatment.transfer(8, 3, tuned=True), "T3R5"),
        (treatment.selffer(8, 3), "F3R5"),
        (treatment.random_filters(8, 2), "XXR6"),
        (treatment.preserve(8, 3, 1), "F3TR4"),
        (treatment.lesion("111001"), "T3RRT"),
        (treatment.surgical(8, 3), "FFTF4R"),
        (treatment.surgical(8, 8), "F7T"),
        (treatment.surgical(8, 1, head="F"), "TF7"),
    ],
)
def test_families(family: Treatment, text: str) -> None:
    assert family == Treatment.parse(text)
    assert str(family) == text


LETTER_LIST = "the letters are F T R X M W P (see layerwise.treatment)"
PART_FORM = "a part is P(share,criterion,letter), such as P(0.5,saliency,F)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; write one letter per layer, such as 'F3R5'"),
        ("  ", "is empty; write one letter per layer, such as 'F3R5'"),
        ("FFRZRR", f"has 'Z' for layer 4; {LETTER_LIST}"),
        ("F3?R", f"has '?' for layer 4; {LETTER_LIST}"),
        ("F*Z", f"has 'Z' for a layer after the '*'; {LETTER_LIST}"),
        ("F-3", f"has '-' for layer 2; {LETTER_LIST}"),
        ("Ｆ3", f"has 'Ｆ' for layer 1; {LETTER_LIST}"),
        ("f3r5", "has 'f' for layer 1; the letters are capitals: write 'F'"),
        ("3F", "has '3' without a letter before it; write the letter first, such as 'F3' or 'F*'"),
        ("*R", "has '*' without a letter before it; write the letter first, such as 'F3' or 'F*'"),
        ("F*R*", "has two '*' in one stage; only one can fill"),
        ("F3*R", "has 'F3*'; a letter takes a count or a '*', not both"),
        ("F*3R", "has 'F*3'; a letter takes a count or a '*', not both"),
        ("F**R", "has 'F**'; a letter takes a count or a '*', not both"),
        ("F0R8", "has the count 0 behind 'F'; a count is a number from 1 to 9999"),
        ("F99999", "has the count 99999 behind 'F'; a count is a number from 1 to 9999"),
        ("F9999999999R", "has the count 9999999999 behind 'F'; a count is a number from 1 to 9999"),
        ("F3R >", "has nothing in stage 2"),
        ("F3R >> T4", "has nothing in stage 2"),
        ("> T4", "is empty; write one letter per layer, such as 'F3R5'"),
        ("F3R5 > T6", "has stages for different nets: stage 1 is for 8 layers, stage 2 for 6"),
        ("F*R > T3 > T4", "has stages for different nets: stage 2 is for 3 layers, stage 3 for 4"),
        ("F5F*R > T4", "has stages for different nets: stage 1 is for at least 6 layers, others for 4"),
        ("PR", f"has 'P' for layer 1; {PART_FORM}"),
        ("P(0.5", f"has 'P' for layer 1; {PART_FORM}"),
        ("P()R", f"has 'P()'; {PART_FORM}"),
        ("P(0.5,saliency)R", f"has 'P(0.5,saliency)'; {PART_FORM}"),
        ("P(0,random,F)", "has the share '0' in 'P(0,random,F)'; it lies between 0 and 1 (for 0 write R)"),
        ("P(1.5,random,F)", "has the share '1.5' in 'P(1.5,random,F)'; it lies between 0 and 1 (for 0 write R)"),
        (
            "P(0.0000000000001,random,F)",
            "has the share '0.0000000000001' in 'P(0.0000000000001,random,F)'; it lies between 0 and 1 (for 0 write R)",
        ),
        ("P(nan,random,F)", "has the share 'nan' in 'P(nan,random,F)'; it lies between 0 and 1 (for 0 write R)"),
        (
            "P(0.5,magic,F)",
            "has the criterion 'magic' in 'P(0.5,magic,F)'; known: saliency taylor information random",
        ),
        (
            "P(0.5,random,R)",
            "has the letter 'R' in 'P(0.5,random,R)'; copied units are F (frozen) or T (tuned)",
        ),
    ],
)
def test_every_invalid_text_gets_its_message(text: str, message: str) -> None:
    with pytest.raises(TreatmentError) as caught:
        Treatment.parse(text)
    assert str(caught.value) == f"'{text}' {message}"


@pytest.mark.parametrize(
    ("text", "depth", "message"),
    [
        ("F3R5", 6, "'F3R5' is for 8 layers, not for 6"),
        ("F4F*R", 3, "'F4F*R' is for at least 5 layers, not for 3"),
        ("F*R", None, "'F*R' fits nets of any depth; say how many layers"),
    ],
)
def test_wrong_depth(text: str, depth: int | None, message: str) -> None:
    with pytest.raises(TreatmentError) as caught:
        Treatment.parse(text).letters(depth)
    assert str(caught.value) == message


@pytest.mark.parametrize("make", [lambda: treatment.transfer(3, 4), lambda: treatment.preserve(5, 3, 3)])
def test_a_family_cannot_ask_for_more_than_the_net_has(make: object) -> None:
    with pytest.raises(TreatmentError, match="layers, not for"):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("bits", ["", "1121", "T"])
def test_a_lesion_is_made_of_bits(bits: str) -> None:
    with pytest.raises(TreatmentError, match="is not made of 0 and 1"):
        treatment.lesion(bits)


@pytest.mark.parametrize("layer", [0, 9])
def test_surgery_needs_a_layer_that_is_there(layer: int) -> None:
    with pytest.raises(TreatmentError, match=f"there is no layer {layer} in a net of 8 layers"):
        treatment.surgical(8, layer)
