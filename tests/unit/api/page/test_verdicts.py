"""Paragraphs of a report on the page, divided into its sentences."""

from __future__ import annotations

from api.page.verdicts import pieces
from api.v1.schemas import Report, Sentence
from worker.findings.labeller import sentences


def shown(text: str, *, stored: bool = True) -> list[list[tuple[str, bool]]]:
    """Return the text of each piece of each paragraph, and whether it is a sentence."""
    found = [
        Sentence(
            section="findings", start=one.start, end=one.end, text=text[one.start : one.end], flagged=False, findings=[]
        )
        for one in sentences(text)
    ]
    report = Report.model_construct(findings=text, sentences=found if stored else None)
    return [
        [(piece.text, piece.sentence is not None) for piece in paragraph] for paragraph in pieces(report, "findings")
    ]


def test_sentence_in_two_lines_is_shown_once_and_whole() -> None:
    text = "Normal heart. No pleural\neffusion or pneumothorax. Clear lungs.\nNormal bones."

    assert shown(text) == [
        [("Normal heart.", True), ("No pleural\neffusion or pneumothorax.", True), ("Clear lungs.", True)],
        [("Normal bones.", True)],
    ]


def test_text_outside_sentences_and_text_without_stored_ones_is_shown() -> None:
    assert shown("Chest\n\nClear lungs.")[-1] == [("Clear lungs.", True)]
    assert shown("Chest\n\nClear lungs.")[0][0][0] == "Chest"
    assert shown("Clear lungs.\nNormal heart.", stored=False) == [[("Clear lungs.", False)], [("Normal heart.", False)]]
