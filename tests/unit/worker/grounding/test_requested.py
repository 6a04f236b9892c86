"""Findings that a request names, looked for in a draft."""

from __future__ import annotations

from typing import Any

from worker.grounding.requested import comparison


def findings(request: str, text: str) -> dict[str, bool]:
    stored: dict[str, Any] = comparison(request, text)["imaging_request"]
    found: dict[str, bool] = stored["findings"]
    return found


def test_finding_that_the_draft_affirms_denies_or_suspects_is_mentioned() -> None:
    for text in ("Left pneumothorax.", "No pneumothorax.", "A small pneumothorax is possible."):
        assert findings("Fall, rule out pneumothorax", text) == {"pneumothorax": True}


def test_finding_that_the_draft_omits_is_named() -> None:
    assert findings("pneumothorax? pleural effusion?", "Small right pleural effusion.") == {
        "pneumothorax": False,
        "pleural effusion": True,
    }


def test_words_of_a_repeated_indication_are_no_answer() -> None:
    assert findings("pneumothorax?", "Indication: possible pneumothorax. Findings: normal heart.") == {
        "pneumothorax": False
    }


def test_request_without_a_known_finding_compares_nothing() -> None:
    assert findings("follow-up", "No pneumothorax.") == {}
    assert comparison("", "No pneumothorax.")["imaging_request"]["fingerprint"] == ""
