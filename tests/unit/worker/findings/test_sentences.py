"""Reports as sentences and findings, with character offsets and sections."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.findings.labeller import Label, labels, present, sentences
from worker.findings.sections import MAX_SENTENCE
from worker.phantoms import grammar
from worker.phantoms.cases import CATALOGUE, draw_case

FRAGMENTS = (
    "Findings:", "IMPRESSION\n", "Comparison:", "History:", "1.", "2)", "- ", "\n", "\n\n", "  ", ". ", "; ", "? ",
    "vs. ", "No effusion", "small left pleural effusion", "Pneumothorax", "İ", "ß", "\u2022 ", "pneumonia", "3.5 cm",
)  # fmt: skip


@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=20).map("".join))
def test_spans_equal_the_text_and_do_not_overlap(text: str) -> None:
    end = 0
    for sentence in sentences(text):
        assert sentence.start >= end
        assert text[sentence.start : sentence.end] == sentence.text == sentence.text.strip() != ""
        for mention in sentence.mentions:
            assert sentence.start <= mention.start < mention.end <= sentence.end
        end = sentence.end


@pytest.mark.parametrize("family", CATALOGUE)
def test_the_words_of_a_mention_name_its_finding(family: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        text = grammar.write(draw_case(rng, family), rng)
        for sentence in sentences(text):
            for mention in sentence.mentions:
                assert [label.finding for label in labels(text[mention.start : mention.end])] == [mention.label.finding]


def test_headings_number_and_bullets_belong_to_no_sentence() -> None:
    text = (
        "FINDINGS: Small left pleural effusion. Heart normal.\nIMPRESSION:\n1. Effusion.\n2. No PNEUMOTHORAX.\n- Stable"
    )

    assert [(sentence.section, sentence.text) for sentence in sentences(text)] == [
        ("findings", "Small left pleural effusion."),
        ("findings", "Heart normal."),
        ("impression", "Effusion."),
        ("impression", "No PNEUMOTHORAX."),
        ("impression", "Stable"),
    ]


def test_the_section_at_the_beginning_is_the_one_given() -> None:
    assert [sentence.section for sentence in sentences("Nodule. Mass.", "impression")] == ["impression", "impression"]


@pytest.mark.parametrize(
    "text",
    [
        "History: pneumonia. Lungs are clear.",
        "INDICATION: Right pneumothorax, drain removed. Mass.\nCOMPARISON: A nodule.\nFINDINGS: Clear lungs.",
        "Comparison: Left effusion on the film of last week.\n\nIMPRESSION\nNormal study.",
        "Clinical history: known pleural effusion. Impression: Normal.",
    ],
)
def test_history_indication_and_comparison_affirm_and_deny_nothing(text: str) -> None:
    assert {label.certainty for label in labels(text)} <= {"uncertain"}


def test_a_report_without_headings_begins_after_the_sentence_of_its_history() -> None:
    assert present("History: pneumonia. Left nodule.") == {Label("nodule", "left")}
    assert [label.finding for label in labels("Indication: rule out effusion. Right nodule.")] == [
        "pleural effusion",
        "nodule",
    ]


def test_a_wrapped_line_goes_on_in_the_next() -> None:
    assert present("There is a small left\npleural effusion.\nNo nodule") == {
        Label("pleural effusion", "left", "", "small")
    }


def test_an_abbreviation_ends_no_sentence() -> None:
    assert [sentence.text for sentence in sentences("Nodule vs. scar. Approx. 3 cm mass.")] == [
        "Nodule vs. scar.",
        "Approx. 3 cm mass.",
    ]


@pytest.mark.parametrize("words", ["no effusion, ", "left effusion and right nodule or ", "effusion", "nodule? "])
def test_text_without_a_full_stop_is_read_in_a_time_proportional_to_its_length(words: str) -> None:
    text = words * (4_000 // len(words))

    # As one sentence, a text of 20,000 characters takes hours.
    assert max(len(sentence.text) for sentence in sentences(text)) <= MAX_SENTENCE
    assert "".join(sentence.text for sentence in sentences(text)).replace(" ", "") == text.replace(" ", "")


def test_long_sentence_is_divided_at_a_comma() -> None:
    findings = "small right pleural effusion", "left lower lobe consolidation", "large left pneumothorax"
    text = ", ".join(findings * 8)

    assert {(label.finding, label.certainty) for label in labels(text)} == {
        ("pleural effusion", "present"),
        ("consolidation", "present"),
        ("pneumothorax", "present"),
    }
    assert all(sentence.text.strip(",") in text for sentence in sentences(text))
    assert {sentence.text.split()[0] for sentence in sentences(text)} <= {"small", "left", "large"}


def test_denial_before_the_division_of_a_long_sentence_leaves_no_finding_affirmed() -> None:
    text = f"No pleural effusion, {'consolidation, pulmonary oedema, atelectasis, ' * 14}nodule, mass or pneumothorax."

    found = {label.certainty for label in labels(text)}

    assert len(text) > MAX_SENTENCE
    assert found == {"absent", "uncertain"}
    assert {one.finding for one in labels(f"{text} Left rib fracture.") if one.certainty == "present"} == {
        "rib fracture"
    }


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Nodule in the left upper zone beside a mass in the right lower zone.", Label("mass", "right", "lower")),
        ("Large left pleural effusion adjacent to a nodule on the right.", Label("nodule", "right")),
        ("Small nodule in the left upper zone next to a mass.", Label("mass", "left", "upper")),
        ("Small nodule in the left upper zone next to a large mass.", Label("mass", "left", "upper", "large")),
    ],
)
def test_finding_beside_another_one_has_its_own_place_and_size(text: str, label: Label) -> None:
    assert labels(text)[-1] == label


@pytest.mark.parametrize("text", ["\u0130J, left effusion.", "\u017fq, left effusion.", "S/\u212a, left effusion."])
def test_letters_of_other_alphabets_are_no_abbreviations(text: str) -> None:
    assert labels(text) == [Label("pleural effusion", "left")]
