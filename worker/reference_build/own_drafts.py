"""Recognise drafts of this system that come back as reports and would be quoted as if a physician had written them."""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from db.reports.versions import BANNER
from worker.findings.labeller import sentences

if TYPE_CHECKING:
    from collections.abc import Iterable

#: A draft is recognised if at most this number, or this share, of its words was changed.
MAX_CHANGED, MAX_CHANGED_SHARE = 2, 0.1


def is_own_draft(report: str, drafts: Iterable[str]) -> bool:
    """Return whether *report* has the banner of a draft, or is one of *drafts*, unchanged or nearly so."""
    return BANNER.lower() in report.lower() or any(_is_copy(report, draft) for draft in drafts)


def _is_copy(report: str, draft: str) -> bool:
    ours, theirs = _words(draft), _words(report)
    matched = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    missing = len(ours) - sum(block.size for block in matched)
    # What else the report states: text that states no finding may be a banner.
    stated = [word for sentence in sentences(report) if sentence.mentions for word in _words(sentence.text)]
    added = sum((Counter(stated) - Counter(ours)).values())
    return bool(ours) and max(missing, added) <= max(MAX_CHANGED, MAX_CHANGED_SHARE * len(ours))


def _words(text: str) -> list[str]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return [word for word in words if word not in ("findings", "impression")]
