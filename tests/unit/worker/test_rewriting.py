"""A stored report, written again."""

from __future__ import annotations

import numpy as np

from tests.unit.worker.fakes import FakeModel
from worker.pipeline.rewriting import StoredPart, UsedPrompt, differences, write_again
from worker.prompting.fitting import prompt_digest
from worker.prompting.report import QuotedCase, SpecialistDraft, report_prompt

CASES = [QuotedCase("Left effusion.", 0.9)]
IMAGES = [np.zeros((8, 8, 3), np.uint8)]


def used(cases: list[QuotedCase]) -> UsedPrompt:
    digest = prompt_digest(report_prompt("DX", "CHEST", CASES, version="2"))
    return UsedPrompt("2", "DX", "CHEST", cases, IMAGES, 50, digest)


def test_prompt_is_rebuilt_word_for_word_and_the_text_is_the_same() -> None:
    model = FakeModel()
    texts = write_again([StoredPart("DX CHEST", "", used(CASES))], model, deadline_seconds=9)

    assert used(CASES).complete
    assert list(differences(("Clear lungs.", "Normal."), texts)) == []
    assert (model.requests[0].max_new_tokens, len(model.requests[0].images)) == (50, 1)


def test_prompt_with_a_draft_of_a_specialist_is_rebuilt_from_its_quoted_words() -> None:
    draft = SpecialistDraft("R2GenGPT 1.0", "Left effusion.")
    digest = prompt_digest(report_prompt("DX", "CHEST", CASES, draft=draft, version="2"))

    assert UsedPrompt("2", "DX", "CHEST", CASES, IMAGES, 50, digest, draft).complete
    assert not UsedPrompt("2", "DX", "CHEST", CASES, IMAGES, 50, digest).complete


def test_prompt_without_the_words_of_an_erased_case_is_not_complete() -> None:
    assert not used([QuotedCase("", 0.9)]).complete


def test_difference_names_sentences_and_findings() -> None:
    before = ("Clear lungs. Small left pleural effusion.", "Effusion.")
    after = ("Clear lungs. Small right pleural effusion.", "Effusion.")

    assert list(differences(before, after)) == [
        "- findings: Small left pleural effusion.",
        "+ findings: Small right pleural effusion.",
        "- finding: small left pleural effusion",
        "+ finding: small right pleural effusion",
    ]


def test_text_of_a_part_that_the_program_wrote_is_kept() -> None:
    parts = [StoredPart("CT HEAD", "Findings: None. Impression: Not diagnostic.", None), StoredPart("B", "", used([]))]
    model = FakeModel()

    findings, impression = write_again(parts, model, deadline_seconds=9)

    assert findings == "CT HEAD\nNone.\n\nB\nClear lungs."
    assert impression == "CT HEAD\nNot diagnostic.\n\nB\nNormal."
    assert len(model.requests) == 1
