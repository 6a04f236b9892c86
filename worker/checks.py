"""Deterministic checks of a draft: what must not stand in a report, whatever the model thought."""

from __future__ import annotations

from worker.findings.lexicon import PRIOR


def mentions_prior(text: str) -> bool:
    """Whether the report compares with an earlier examination: none is given to the model, so it is invented."""
    return PRIOR.search(text.lower()) is not None
