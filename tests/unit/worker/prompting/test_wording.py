"""The words given to the model."""

from __future__ import annotations

from worker.prompting import wording

MEDDR_REPORT = (
    "You are a helpful medical assistant. Your task is report generation. You are given a chest x-ray image"
    " and you are required to generate a summary report about the image."
)


def test_a_chest_radiograph_is_asked_for_in_the_very_words_meddr_was_trained_on() -> None:
    assert {wording.report(modality, "CHEST") for modality in ("CR", "DX", "RG")} == {MEDDR_REPORT}


def test_other_images_are_called_by_their_own_name() -> None:
    assert "You are given a head CT image." in wording.report("CT", "HEAD")
    assert "You are given a retinography image." in wording.report("OP", "EYE")
    assert "You are given a medical image." in wording.report("OT", "")


def test_similar_cases_follow_the_task_the_most_similar_first() -> None:
    asked = wording.report("CR", "CHEST", [wording.Case("No\neffusion.", 0.9), wording.Case("Effusion.", 0.7)])

    said = "The reports of the most similar cases are: (1, 0.90) No effusion. (2, 0.70) Effusion."
    assert asked == f"{MEDDR_REPORT} {said}"


def test_of_a_case_the_impression_is_quoted() -> None:
    assert wording.excerpt("Findings: Opacity on the left. Impression: Effusion.") == "Effusion."


def test_a_long_case_is_cut_at_a_word() -> None:
    quoted = wording.excerpt("effusion " * 200)

    assert quoted.endswith("effusion...")
    assert len(quoted) <= wording.EXCERPT_CHARACTERS


def test_a_diagnosis_lists_its_options_and_the_neighbours_labels() -> None:
    asked = wording.diagnosis("SM", "", ["normal", "tumor"], ["tumor", "tumor"])

    assert "The possible diagnoses are: 'normal', 'tumor'. The diagnoses of the most similar cases are tumor" in asked
    assert asked.endswith("The response should only contain one option.")


def test_a_report_is_split_at_its_headings() -> None:
    text = "FINDINGS: Clear lungs. No effusion.\n\nImpression: Normal."

    assert wording.split_report(text) == ("Clear lungs. No effusion.", "Normal.")


def test_a_report_without_headings_is_all_findings() -> None:
    assert wording.split_report(" Clear lungs. ") == ("Clear lungs.", "")
