"""Words that the author of a report took back."""

from __future__ import annotations

import pytest

from worker.findings.labeller import labels, sentences

Places = list[tuple[str, str]]


def _places(text: str) -> Places:
    return [(label.certainty, label.side) for label in labels(text)]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("Tiny left pneumothorax, sorry, correction: right pneumothorax.", [("present", "right")]),
        ("Left sided, no wait, right sided pleural effusion.", [("present", "right")]),
        ("Right, correction, left lower lobe consolidation.", [("present", "left")]),
        ("There is a pneumothorax on the right - I mean on the left.", [("present", "left")]),
        ("Left-sided, rather right-sided, pleural effusion.", [("present", "right")]),
        ("A nodule in the left upper lobe, correction, right lower lobe.", [("present", "right")]),
        ("No pneumothorax. Correction: small left pneumothorax.", [("present", "left")]),
        ("Left effusion. Addendum: correction, right effusion.", [("present", "right")]),
        ("No effusion, I mean small left effusion.", [("present", "left")]),
        ("Small left effusion, scratch that, right effusion.", [("present", "right")]),
        ("Small left effusion, scratch that, left nodule.", [("present", "left")]),
        ("Left effusion, scratch that, no pneumothorax.", [("absent", "")]),
        ("Left effusion. Correction: no effusion.", [("absent", "")]),
        ("No right pneumothorax. Correction: left pneumothorax.", [("present", "left")]),
        ("Right fracture (strike that, left fracture).", [("present", "left")]),
    ],
)
def test_what_was_taken_back_is_not_read(text: str, places: Places) -> None:
    assert _places(text) == places


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("Small right effusion, tiny left nodule, sorry, right nodule.", [("present", "right"), ("present", "right")]),
        ("After correction of scoliosis, left effusion.", [("present", "left")]),
        ("CT with motion correction, left nodule.", [("present", "left")]),
        ("Sorry for the delay. Left effusion.", [("present", "left")]),
        ("Left effusion, no wait for the drain, right nodule.", [("present", "left"), ("present", "right")]),
        ("Left effusion is, rather, small.", [("present", "left")]),
        ("Left effusion. Correction of the dose.", [("present", "left")]),
        ("Left effusion. Correction: the film was taken at noon.", [("present", "left")]),
        ("Left nodule. Right effusion. Correction: left effusion.", [("present", "left"), ("present", "left")]),
        ("I mean to repeat the film. Right nodule.", [("present", "right")]),
        ("Left effusion, sorry, left nodule.", [("present", "left"), ("present", "left")]),
        ("Left effusion, sorry, no pneumothorax.", [("present", "left"), ("absent", "")]),
        ("Left effusion, apologies, nodule in the right lung.", [("present", "left"), ("present", "right")]),
        ("Effusion, no wait, nodule.", [("present", ""), ("present", "")]),
        ("Left effusion, correction: no pneumothorax.", [("present", "left"), ("absent", "")]),
        ("Left pneumothorax, correction: no right pneumothorax.", [("present", "left"), ("absent", "right")]),
        ("Left effusion - I mean no right effusion.", [("present", "left"), ("absent", "right")]),
        ("Left pneumothorax. Correction: no right pneumothorax.", [("present", "left"), ("absent", "right")]),
    ],
)
def test_words_that_take_nothing_back_leave_the_rest_as_it_is(text: str, places: Places) -> None:
    assert _places(text) == places


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("Right pneumothorax. Left pneumothorax. Correction: right pneumothorax is small.", ["left", "right"]),
        ("Left effusion and right effusion. Correction: right effusion is small.", ["left", "right"]),
        ("Bilateral effusions. Correction: left effusion is small.", ["right", "left"]),
        ("Right effusion and left effusion, sorry, right effusion is small.", ["left", "right"]),
        ("Right effusion and left effusion, correction: right effusion is small.", ["left", "right"]),
        ("Left nodule. Right effusion. Correction: small right effusion.", ["left", "right"]),
        ("Left and right nodule. Correction: the nodule is small.", ["left", "right", ""]),
        ("Left effusion. Correction: bilateral effusions.", ["left", "right"]),
    ],
)
def test_correction_of_one_side_leaves_the_other(text: str, sides: list[str]) -> None:
    assert _places(text) == [("present", side) for side in sides]


def test_correction_of_one_zone_leaves_the_other() -> None:
    text = "Nodule in the left upper lobe and left lower lobe. Correction: left lower lobe nodule is small."

    assert [label.zone for label in labels(text)] == ["upper", "lower"]


def test_offsets_of_a_corrected_sentence_are_those_of_the_text() -> None:
    text = "Left, correction, right effusion."
    (mention,) = sentences(text)[0].mentions

    assert text[mention.start : mention.end] == "effusion"


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("There is a small right pneumothorax (not left as stated in the preliminary report).", "right"),
        ("Right effusion (not on the left).", "right"),
        ("Addendum: the nodule described in the left upper lobe is in the right upper lobe.", "right"),
        ("The effusion reported on the right is actually on the left.", "left"),
        ("The effusion is on the left, not on the right.", "left"),
        ("Left nodule, not right as dictated.", "left"),
        ("The nodule mentioned in the right lower lobe is in the left lower lobe.", "left"),
        ("The bilateral effusions are now confined to the right.", "right"),
        ("Effusions, which had been bilateral, are now limited to the left.", "left"),
        ("Previously on the left, now on the right effusion.", "right"),
    ],
)
def test_side_of_an_earlier_statement_is_not_the_side_of_the_finding(text: str, side: str) -> None:
    assert {label.side for label in labels(text)} == {side}
