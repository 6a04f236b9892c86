"""Checks of a text against itself: section against section, negation, size."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worker.grounding.checks.draft import DraftPart, NotApplicable, phrase
from worker.grounding.checks.normal_statements import denied_by

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from worker.findings.labeller import Label, Sentence

#: Words for anything; they neither support nor contradict a finding by its name.
GENERIC = frozenset({"abnormality", "device", "unclassified abnormality"})
#: Findings that are no illness: an impression may leave them out, and call the study normal.
DEVICES = frozenset({"device", "pacemaker", "central venous line", "tracheal tube", "spinal rods"})
#: Finding of an impression -> findings whose description supports it.
DESCRIBED_AS = {
    "consolidation": {"opacity"},
    "atelectasis": {"opacity"},
    "nodule": {"opacity", "mass"},
    "mass": {"opacity", "nodule", "tumour"},
    "tumour": {"mass", "nodule"},
    "opacity": {"consolidation", "atelectasis", "nodule", "mass"},
    "rib fracture": {"fracture"},
    "fracture": {"rib fracture"},
    "subdural haematoma": {"haemorrhage"},
    "haemorrhage": {"subdural haematoma", "retinal haemorrhages", "bleeding"},
    "retinal haemorrhages": {"haemorrhage"},
    "bleeding": {"haemorrhage"},
    "hydropneumothorax": {"pneumothorax", "pleural effusion"},
    "pneumothorax": {"hydropneumothorax"},
    "pleural effusion": {"hydropneumothorax"},
    "ulcer": {"ulceration"},
    "ulceration": {"ulcer"},
    "benign naevus": {"pigmented lesion"},
    "irregular lesion": {"pigmented lesion"},
}
#: Before a finding, a denial of more of the same: "no other nodule".
_OTHER = re.compile(
    r"\b(?:other|further|additional|new|more|residual|definite|large|significant|tension)\s+(?:[\w-]+\s+){0,3}$",
    re.IGNORECASE,
)
#: Lengths with one unit: "8 mm", "8-mm", "3.5 x 2.1 cm".
_MEASURE = re.compile(r"\b(\d+(?:[.,]\d+)?(?:\s*[x\u00d7]\s*\d+(?:[.,]\d+)?)*)[\s-]*(mm|cm)\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
_MM = {"mm": 1.0, "cm": 10.0}
#: Relative difference of two measures of one finding: rounding, and a maximum beside another diameter.
_TOLERANCE = 0.15


def sections_agree(part: DraftPart) -> list[str] | NotApplicable:
    """Compare the impression with the findings: finding, side and zone."""
    if not (part.findings and part.impression):
        return NotApplicable("the report has one section only")
    described = part.labels("findings")
    problems = [p for label in part.affirmed("impression") if (p := _unsupported(label, described))]
    denied = part.denied("impression")
    refused = [label for label in part.affirmed("findings") if any(_denies(denial, label) for denial in denied)]
    problems += [f"The findings affirm {phrase(label)}, the impression denies it." for label in refused]
    return [*problems, *_called_normal(part, denied)]


def _called_normal(part: DraftPart, denied: Sequence[Label]) -> Iterator[str]:
    """Yield a sentence for each affirmed finding of a report whose impression denies any abnormality."""
    normal = any(d.finding == "abnormality" for d in denied) or _NORMAL.search(part.impression)
    if normal and not part.affirmed("impression"):
        for label in part.affirmed("findings"):
            if label.finding not in DEVICES | GENERIC:
                yield f"The findings affirm {phrase(label)}, the impression calls the study normal."


_NORMAL = re.compile(
    r"^\W*(?:(?:essentially|grossly|overall|entirely|completely|an?|the|this|is|are|of|within|study|exam(?:ination)?|chest"
    r"|radiograph|x-ray|film|scan|ct|mri?|head|brain|images?|appearances?|findings)\s+)*"
    r"(?:normal|unremarkable)\b(?!\W+(?:variant|pressure))"
    r"|^\W*no (?:significant |relevant )?(?:findings?|pathology|disease)\b",
    re.IGNORECASE,
)


def _unsupported(label: Label, described: Sequence[Label]) -> str:
    """Return the sentence about a finding of the impression; empty if the findings support it."""
    if label.finding in GENERIC:
        return ""
    names = {label.finding} | DESCRIBED_AS.get(label.finding, set())
    same = [other for other in described if other.finding in names]
    affirmed = [other for other in same if other.certainty != "absent"]
    if not affirmed:
        how = "deny" if any(_denies(other, label) for other in same) else "do not mention"
        return f"The impression affirms {phrase(label)}, the findings {how} it."
    for attribute in ("side", "zone"):
        told = {getattr(other, attribute) for other in affirmed} - {""}
        own = getattr(label, attribute)
        if own and told and own not in told:
            return (
                f"The impression affirms {phrase(label)}, the findings name the {attribute} {', '.join(sorted(told))}."
            )
    return ""


def _denies(denial: Label, label: Label) -> bool:
    return denial.certainty == "absent" and denial.finding == label.finding and _covers(denial, label)


def _covers(denial: Label, label: Label) -> bool:
    """Return whether a denial reaches a finding: in every place, or in the same one."""
    return denial.side in ("", label.side) and denial.zone in ("", label.zone)


def negations_agree(part: DraftPart) -> list[str]:
    """Find findings that one section both affirms and denies in one place."""
    problems = []
    for section, lines in part.sections:
        affirmed = {m.label for line in lines for m in line.mentions if m.label.certainty == "present"}
        denied = [label for line in lines for label in (*_denied_whole(line), *denied_by(line))]
        problems += [
            f"The section {section} both affirms and denies {phrase(label)}."
            for label in sorted(affirmed)
            if label.finding not in GENERIC and any(_denies(denial, label) for denial in denied)
        ]
    return problems


def _denied_whole(line: Sentence) -> Iterator[Label]:
    """Yield what a sentence denies, but for more of the same."""
    for mention in line.mentions:
        if mention.label.certainty == "absent" and not _OTHER.search(line.text[: mention.start - line.start]):
            yield mention.label


def sizes_agree(part: DraftPart) -> list[str]:
    """Find findings of one place with different sizes, in words or in millimetres."""
    words: dict[tuple[str, str, str], set[str]] = {}
    for label in part.affirmed():
        if label.size and label.finding not in GENERIC:
            words.setdefault(label.strict, set()).add(label.size)
    problems = [
        f"The text calls {' '.join(filter(None, (side, zone, name)))} both {' and '.join(sorted(sizes))}."
        for (name, side, zone), sizes in words.items()
        if len(sizes) > 1
    ]
    described, concluded = ([*_measures(lines)] for _, lines in part.sections)
    for (side, name), length in concluded:
        known = [other for (of, one), other in described if one == name and (of == side or not (of and side))]
        if known and not any(_close(length, other) for other in known):
            told = ", ".join(f"{other:g} mm" for other in known)
            place = f"{side} {name}".strip()
            problems.append(f"The impression measures {place} {length:g} mm, the findings {told}.")
    return [*problems, *_sizes_of_sections(part)]


def _sizes_of_sections(part: DraftPart) -> Iterator[str]:
    """Yield a sentence for each finding to which the impression gives another size than the findings.

    Only if its side or zone stands in one of the two sections alone: `sizes_agree` compares equal places.
    """
    described = [label for label in part.affirmed("findings") if label.size and label.finding not in GENERIC]
    for label in part.affirmed("impression"):
        sizes = {other.size for other in described if other.strict != label.strict and _may_be_same(other, label)}
        if label.size and sizes and label.size not in sizes:
            yield f"The impression calls {phrase(label)} {label.size}, the findings {' and '.join(sorted(sizes))}."


def _may_be_same(one: Label, other: Label) -> bool:
    """Return whether two labels name one finding, of which one may leave out side or zone."""
    pairs = (one.side, other.side), (one.zone, other.zone)
    return one.finding == other.finding and all(a == b or not (a and b) for a, b in pairs)


def _measures(lines: Iterable[Sentence]) -> Iterator[tuple[tuple[str, str], float]]:
    """Yield each length in millimetres with side and finding of the mention next to it."""
    for line in lines:
        for measure in _MEASURE.finditer(line.text):
            start, end = line.start + measure.start(), line.start + measure.end()
            nearest = min(line.mentions, key=lambda m: max(m.start - end, start - m.end), default=None)
            if nearest is not None:
                unit = _MM[measure[2].lower()]
                lengths = [float(number.replace(",", ".")) * unit for number in _NUMBER.findall(measure[1])]
                yield from (((nearest.label.side, nearest.label.finding), length) for length in lengths)


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= _TOLERANCE * max(one, other)
