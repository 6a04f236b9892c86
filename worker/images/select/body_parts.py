"""Which part of the body a study is about, in the few words its windows and prompts know."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.images.decode.header import Header

#: Checked in this order: a CT of "thoracic spine" is one of the spine.
_WORDS = {
    "SPINE": r"SPINE|CSPINE|TSPINE|LSPINE|[CTL]WS|WIRBEL\w*|LUMBAR|SACRUM|VERTEBRA\w*",
    "CHEST": r"CHEST|THORAX|THORACIC|LUNGS?|PULMONARY|CTPA|RIBS?|HEART|CARDIAC",
    "HEAD": r"HEAD|BRAIN|SKULL|CRANI\w*|CEREBR\w*|NEURO\w*|ORBITS?|SINUS\w*",
    "NECK": r"NECK|CAROTID\w*|THYROID|LARYNX",
    "ABDOMEN": r"ABD|ABDOMEN\w*|ABDOMINAL|LIVER|KIDNEYS?|RENAL|PANCREAS|PELVIS|COLON|BOWEL|PROSTATE|BLADDER",
    "BREAST": r"BREAST|MAMMA|MAMMOGRA\w*",
    "EXTREMITY": r"EXTREMITY|KNEE|HIP|ANKLE|FOOT|HAND|WRIST|ELBOW|SHOULDER|FEMUR|TIBIA|HUMERUS|LEG|ARM|FINGER",
}
_PATTERNS = {region: re.compile(rf"\b(?:{words})\b") for region, words in _WORDS.items()}


def region_of(headers: Iterable[Header]) -> str:
    """The body region most series agree on, or an empty string.

    What the scanner says (Body Part Examined, anatomic region) counts before what somebody typed.
    """
    series = {header.text("SeriesInstanceUID"): header for header in headers}
    votes = Counter(filter(None, (_of(header.shared()) for header in series.values())))
    return votes.most_common(1)[0][0] if votes else ""


def _of(header: Header) -> str:
    anatomy = next((item.text("CodeMeaning") for item in header.items("AnatomicRegionSequence")), "")
    descriptions = (header.text(word) for word in ("SeriesDescription", "ProtocolName", "StudyDescription"))
    for words in (header.text("BodyPartExamined"), anatomy, *descriptions):
        found = _matched(words.upper().replace("_", " "))
        if found:
            return found
    return ""


def _matched(words: str) -> str:
    return next((region for region, pattern in _PATTERNS.items() if pattern.search(words)), "")
