"""The draft of a specialist model in its structured report: TEXT items that are sentences, as in TID 2000 (PS3.16)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from db.answers.predictions import MAX_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicom_listener.indexing.content_items import Item

#: Concept names by section of a report.
SECTIONS = {
    "Findings": frozenset({"finding", "findings"}),
    "Impression": frozenset({"impression", "impressions", "conclusion", "conclusions", "diagnosis"}),
}
#: An end of a sentence or line; without one a text is a label.
_END = re.compile(r"[.!?](?:\s|$)|\n")


def is_sentence(item: Item) -> bool:
    """Return whether an item is a sentence of a draft, and no label."""
    known = any(item.concept.words in words for words in SECTIONS.values())
    text = item.text.strip()
    sentence = len(text) > MAX_CHARACTERS or _END.search(text) is not None
    return known and sentence and item.value_type == "TEXT" and item.relationship == "CONTAINS"


def of_sentences(sentences: Sequence[Item]) -> str:
    """Return the text of a report with its sections, from the sentences in their order."""
    parts = []
    for name, words in SECTIONS.items():
        texts = [one.text.strip() for one in sentences if one.concept.words in words]
        if texts:
            parts.append(f"{name}: " + "\n".join(texts))
    return "\n".join(parts)
