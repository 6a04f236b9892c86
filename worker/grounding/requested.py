"""Compare the findings that the request of a study names with those that a draft mentions, by the words of both."""

from __future__ import annotations

from typing import Any

from db.reference import fingerprint
from worker.findings.labeller import named, sentences


def comparison(imaging_request: str, text: str) -> dict[str, Any]:
    """Return the provenance of the comparison: the findings that the request names, each with whether *text* has it.

    A finding that the text affirms, denies or names as possible counts; one in its own history or indication does not.
    By the fingerprint a later change of the request is found. Of the request only names of findings are stored.
    """
    mentioned = {
        mention.label.finding
        for sentence in sentences(text)
        if sentence.section != "context"
        for mention in sentence.mentions
    }
    findings = {name: name in mentioned for name in named(imaging_request)}
    return {"imaging_request": {"fingerprint": fingerprint(imaging_request), "findings": findings}}
