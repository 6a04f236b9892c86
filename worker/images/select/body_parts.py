"""Body part of a study, as one of the few terms that windows and prompts use."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.images.decode.header import Header

#: Matched in this order: "thoracic spine" is the spine, not the chest.
_WORDS = {
    "SPINE": r"SPINE|CSPINE|TSPINE|LSPINE|[CTL]WS|WIRBEL\w*|LUMBAR|SACRUM|VERTEBRA\w*",
    "CHEST": r"CHEST|THORAX|THORACIC|LUNGS?|PULMONARY|CTPA|RIBS?|HEART|CARDIAC",
    "HEAD": r"HEAD|BRAIN|SKULL|CRANI\w*|CEREBR\w*|NEURO\w*|ORBITS?|SINUS\w*",
    "NECK": r"NECK|CAROTID\w*|THYROID|LARYNX",
    "ABDOMEN": r"ABD|ABDOMEN\w*|ABDOMINAL|LIVER|KIDNEYS?|RENAL|PANCREAS|PELVIS|COLON|BOWEL|PROSTATE|BLADDER",
    "BREAST": r"BREAST|MAMMA|MAMMOGRA\w*",
    "EXTREMITY": r"EXTREMITY|KNEE|HIP|ANKLE|FOOT|HAND|WRIST|ELBOW|SHOULDER|FEMUR|TIBIA|HUMERUS|LEG|ARM|FINGER",
}
_PATTERNS = {body_part: re.compile(rf"\b(?:{words})\b") for body_part, words in _WORDS.items()}


def body_part_of(headers: Iterable[Header]) -> str:
    """Return the body part of most series, or an empty string.

    Coded attributes (Body Part Examined, Anatomic Region Sequence) come before descriptions, which are typed.
    """
    series = {header.text("SeriesInstanceUID"): header for header in headers}
    votes = Counter(filter(None, (_of(header.shared()) for header in series.values())))
    return votes.most_common(1)[0][0] if votes else ""


def _of(header: Header) -> str:
    anatomy = next((item.text("CodeMeaning") for item in header.items("AnatomicRegionSequence")), "")
    descriptions = (header.text(word) for word in ("SeriesDescription", "ProtocolName", "StudyDescription"))
    for text in (header.text("BodyPartExamined"), anatomy, *descriptions):
        words = text.upper().replace("_", " ")
        if found := next((body_part for body_part, pattern in _PATTERNS.items() if pattern.search(words)), ""):
            return found
    return ""
