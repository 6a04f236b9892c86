"""Checks of a text against the headers of its images: side, view, sex, body part."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from worker.findings.spelling import plain
from worker.grounding.checks.draft import DraftPart, NotApplicable, phrase

if TYPE_CHECKING:
    from collections.abc import Sequence

_SIDES = {"L": "left", "R": "right"}
_SIDE_WORD = re.compile(r"\b(left|right)(?:-sided)?\b", re.IGNORECASE)
_FRONTAL = frozenset({"PA", "AP"})
_LATERAL = frozenset({"LL", "RL", "LAT", "LATERAL"})
#: A view that the text names as one of its images.
_VIEWS = (
    (re.compile(r"\b(?:lateral (?:\w+ )?(?:view|radiograph|film|projection)|and lateral)\b", re.IGNORECASE), _LATERAL),
    (
        re.compile(
            r"\b(?:frontal|(?:pa|ap|posteroanterior|anteroposterior))\W(?:\w+ )?(?:view|radiograph|film|projection)\b",
            re.IGNORECASE,
        ),
        _FRONTAL,
    ),
)
_OF_WOMEN = re.compile(
    r"\b(?:uter(?:us|ine|i)|ovar(?:y|ies|ian)|endometri\w*|fallopian|adnexal?|vagina\w*|vulva\w*|cervix|myometri\w*"
    r"|placenta\w*|pregnan\w*|gravid|f(?:o)?et(?:us|al)|intrauterine|iu[cd]d?|womb|hysterectom\w*|hysterosalping\w*"
    r"|salping\w*|oophor\w*|tubal ligation|c(?:a)?esarean|postpartum|(?:post|peri|pre)?-?menopaus\w*|menstru\w*"
    r"|lactat\w*|bartholin\w*|gyn(?:a)?ecolog\w*)\b",
    re.IGNORECASE,
)
_OF_MEN = re.compile(
    r"\b(?:prostat\w*|testi(?:s|cles?|cular|es)|scrot(?:um|al)|seminal vesicles?|penis|penile|epididym\w*"
    r"|spermatic|vas deferens|vasectom\w*|orchi\w*|turp|varicocele|cryptorchi\w*|seminomas?|undescended testis)\b",
    re.IGNORECASE,
)
_CHEST = frozenset({"CHEST", "ABDOMEN", "NECK", "SPINE", "BREAST"})
_EYE, _COLON = frozenset({"EYE", "HEAD"}), frozenset({"COLON", "ABDOMEN", "PELVIS", "CHEST", "STOMACH"})
#: Finding -> body parts whose images can show it, in the terms of worker.images.select.body_parts.
_SHOWN_IN = {
    **dict.fromkeys(
        (
            "pneumothorax", "hydropneumothorax", "pneumomediastinum", "pleural effusion", "pericardial effusion",
            "consolidation", "miliary opacities", "atelectasis", "hilar enlargement", "cardiomegaly", "hiatal hernia",
            "pulmonary oedema", "emphysema",
        ),
        _CHEST,
    ),
    **dict.fromkeys(("subdural haematoma", "hydrocephalus", "midline shift"), frozenset({"HEAD", "NECK", "SPINE"})),
    **dict.fromkeys(("exudates", "drusen", "disc cupping", "retinal haemorrhages"), _EYE),
    **dict.fromkeys(("diverticulum", "polyp"), _COLON),
}  # fmt: skip
_PARTS = frozenset().union(*_SHOWN_IN.values())


def side_and_view(part: DraftPart) -> list[str] | NotApplicable:
    """Compare the sides and views that the text names with Laterality, Image Laterality and View Position."""
    sides, views = set(part.lateralities), set(part.views)
    if sides <= {""} and "" in views | ({""} if not views else set()):
        return NotApplicable("the headers give neither side nor view")
    return [*_side(part, sides), *_view(part, views)]


def _side(part: DraftPart, sides: set[str]) -> list[str]:
    """Return a sentence if all images show one side, and the text names only the other or affirms a finding there."""
    own = _SIDES.get(next(iter(sides), "")) if len(sides) == 1 else None
    if own is None:
        return []
    named = set(_SIDE_WORD.findall(plain(part.text).text))
    sides_of: dict[str, set[str]] = defaultdict(set)
    for label in part.affirmed():
        sides_of[label.finding].add(label.side)
    opposite = [phrase(label) for label in part.affirmed() if label.side and own not in sides_of[label.finding]]
    if own in named and opposite:
        return [f"The text affirms {opposite[0]}, and the header of every image gives the {own} side."]
    if not named or own in named:
        return []
    return [f"The text names the {named.pop()} side, the header of every image the {own} one."]


def _view(part: DraftPart, views: set[str]) -> list[str]:
    if not views or "" in views:
        return []
    found = [
        f"The text names a {'lateral' if given is _LATERAL else 'frontal'} view, the headers name none."
        for pattern, given in _VIEWS
        if pattern.search(part.text) and not views & given
    ]
    if views <= _LATERAL and (sided := [label for label in part.affirmed() if label.side]):
        found.append(f"The text names a side ({phrase(sided[0])}), and all images are lateral views.")
    return found


def sex(part: DraftPart) -> list[str] | NotApplicable:
    """Find organs that Patient's Sex excludes; a denial counts, too."""
    excluded = {"M": _OF_WOMEN, "F": _OF_MEN}.get(part.patient_sex)
    if excluded is None:
        return NotApplicable("the header does not give M or F as the sex of the patient")
    named = sorted({word.lower() for word in excluded.findall(part.text)})
    return [f"The text names an organ that the sex in the header excludes ({', '.join(named)})."] if named else []


def body_part(part: DraftPart) -> list[str] | NotApplicable:
    """Compare the body part of the header with the images and with the findings."""
    if part.resembled_part:
        return [f"The header names the body part {part.body_part}, the images resemble {part.resembled_part}."]
    named = _terms(part.body_part)
    if not named:
        return NotApplicable("the header does not give a body part that is known here")
    not_shown = [label for label in part.affirmed() if not named & _SHOWN_IN.get(label.finding, named)]
    names = list(dict.fromkeys(label.finding for label in not_shown))
    return [f"The text affirms {name}, which images of the body part {part.body_part} do not show." for name in names]


def _terms(text: str) -> set[str]:
    """Return the known terms of a body part: `HEAD AND NECK` has two. None if one is unknown."""
    words: Sequence[str] = re.findall(r"[A-Z]+", text.upper().replace(" AND ", " "))
    return set(words) if words and set(words) <= _PARTS else set()
