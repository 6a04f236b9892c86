"""Read the predictions of a specialist model from its structured report: TID 1500 and the like (PS3.16).

A group of content items is taken where its meaning is certain; for every other one there is a reason. A finding is an
evaluation with the concept Finding, or one that is named by its concept and has the value Present. Its probability is a
NUM below it, or beside it if it is alone. Sentences are the draft of the model (draft_texts).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from db.answers.predictions import Received, received
from db.answers.structured_reports import StructuredReport
from db.errors import InvalidPrediction
from db.logs import frames
from dicom_listener.indexing import content_items, draft_texts
from dicom_listener.indexing.content_items import NotRead

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from db.studies.lifecycle import ReceivedInstance
    from dicom_listener.indexing.content_items import Item

log = structlog.get_logger()

_STORAGE = "1.2.840.10008.5.1.4.1.1.88."
#: Basic Text, Enhanced, Comprehensive and Comprehensive 3D SR: the others have trees of their own.
SOP_CLASSES = frozenset(_STORAGE + suffix for suffix in ("11", "22", "33", "34"))
#: Predictions of one report.
MAX_PREDICTIONS = 64
#: Reasons that are stored of one report.
MAX_REASONS = 20

#: Words of concept names, in English as PS3.16 defines them.
ALGORITHM_NAME, ALGORITHM_VERSION = ("111001", "algorithm name"), ("111003", "algorithm version")
FINDING = frozenset({"finding", "diagnosis", "impression"})
PROBABILITY = frozenset(
    {"probability", "certainty", "certainty of finding", "confidence", "confidence score", "probability of finding"}
)
#: A number of such a name is a probability of some kind.
LIKE_PROBABILITY = re.compile(r"probab|certain|confiden|likelihood|score|risk")
SIDES = {"left": "left", "right": "right", "bilateral": "bilateral", "both": "bilateral"}
LATERALITY = "laterality"
#: Modifiers that change neither the label nor whether it is affirmed.
HARMLESS = frozenset(
    {"finding site", "measurement method", "language of content item and descendants", "procedure reported",
     "image laterality", "country of language", "tracking identifier", "tracking unique identifier", "finding category",
     "algorithm name", "algorithm version", "algorithm family", "algorithm manufacturer", "algorithm parameters"}
)  # fmt: skip
#: Value types that point to images and regions.
REFERENCES = frozenset({"IMAGE", "COMPOSITE", "WAVEFORM", "SCOORD", "SCOORD3D", "TCOORD", "UIDREF"})
PRESENT = frozenset({"present", "positive", "yes", "detected"})
ABSENT = frozenset({"absent", "negative", "no", "not present", "not detected", "none"})
#: Concepts that name no finding: a value Present belongs to another item.
UNNAMED = frozenset({"", "presence", "finding presence", "result", "status", "assessment", "classification"})
#: Containers of image attributes.
LIBRARY = "image library"
#: Factor to a number from 0 to 1, by UCUM code of the units.
UNITS = {"%": 0.01, "1": 1.0, "": 1.0, "{0:1}": 1.0, "[0,1]": 1.0, "{ratio}": 1.0}

DENIED = "an evaluation denies its finding: a prediction affirms a label"
UNCLEAR = "an evaluation is neither a finding nor a present one"
MODIFIED = "an evaluation has a modifier or a part that may change its meaning"
OTHER_SIDE = "an evaluation and its laterality name different sides"
SEVERAL_NUMBERS = "a probability cannot be assigned to one evaluation"
INVALID_NUMBER = "a probability is not a number from 0 to 1, or has unknown units"
NO_ALGORITHM = "no algorithm is named with its version: Algorithm Name and Algorithm Version are required"
NOTHING = "it has no qualitative evaluation"
DIFFERENT = "a label has several probabilities"
TOO_MANY = f"it has more than {MAX_PREDICTIONS} predictions"


class _Unclear(Exception):
    """Raised when a group, or one evaluation, is not unambiguous."""


@dataclass(slots=True)
class _Found:
    """Predictions of a report by model, version and label, and the reasons for the items without one."""

    study: str
    scores: dict[tuple[str, str, str], set[float | None]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    #: Sentences by model and version.
    drafts: dict[tuple[str, str], list[Item]] = field(default_factory=dict)


def read_all(instances: Mapping[Path, ReceivedInstance]) -> list[tuple[ReceivedInstance, StructuredReport]]:
    """Return the structured reports among received files; never raises: the objects are stored in any case."""
    return [(one, _read(path, one)) for path, one in instances.items() if one.sop_class_uid in SOP_CLASSES]


def _read(path: Path, instance: ReceivedInstance) -> StructuredReport:
    own = instance.study.study_instance_uid
    try:
        content = content_items.read(path)
        studies = content.evidence or {own}
        if len(studies) > 1:
            return StructuredReport(own, (), ("its evidence is of several studies",))
        return of_content(content.root, *studies)
    except NotRead as error:
        return StructuredReport(own, (), (str(error),))
    # The boundary of one object, which is stored in any case; pydicom raises many types for malformed data sets.
    except Exception as error:  # noqa: BLE001
        log.warning("structured_report.malformed", error=type(error).__name__, frames=frames(error))
        return StructuredReport(own, (), (f"its content cannot be read ({type(error).__name__})",))


def of_content(root: Item, study: str) -> StructuredReport:
    """Return the predictions of a content tree about *study*, and why other parts of it are not taken."""
    found = _Found(study)
    _container(root, None, (), found)
    if not found.scores and not found.drafts and not found.reasons:
        found.reasons.append(NOTHING)
    if any(len(scores) > 1 for scores in found.scores.values()):
        found.reasons.append(DIFFERENT)
    single = [(*key, scores.pop()) for key, scores in found.scores.items() if len(scores) == 1]
    if len(single) > MAX_PREDICTIONS:
        return StructuredReport(study, (), (TOO_MANY,))
    given = [Received(study, *values) for values in single]
    for (name, version), sentences in found.drafts.items():
        try:
            values = {"study": study, "name": name, "version": version, "draft": draft_texts.of_sentences(sentences)}
            given.append(received(values))
        except InvalidPrediction as error:
            found.reasons.append(str(error))
    return StructuredReport(study, tuple(given), tuple(dict.fromkeys(found.reasons))[:MAX_REASONS])


def _container(item: Item, algorithm: tuple[str, str] | None, around: Sequence[Item], found: _Found) -> None:
    """Read a container and those inside; *algorithm* and the modifiers *around* are of the containers around it."""
    algorithm = _algorithm(item.children) or algorithm
    modifiers = (*around, *(one for one in item.children if one.relationship == "HAS CONCEPT MOD"))
    for read in (_group, _sentences):
        try:
            read(item, algorithm, modifiers, found)
        except _Unclear as error:
            found.reasons.append(str(error))
    for child in item.children:
        if child.value_type == "CONTAINER" and child.concept.words != LIBRARY:
            _container(child, algorithm, modifiers, found)


def _algorithm(items: Sequence[Item]) -> tuple[str, str] | None:
    """Return name and version of the one algorithm among *items*; empty texts if there are several."""
    names, versions = (
        {one.text for one in items if one.concept.value == code or one.concept.words == words}
        for code, words in (ALGORITHM_NAME, ALGORITHM_VERSION)
    )
    if not names and not versions:
        return None
    return (names.pop(), versions.pop()) if len(names) == len(versions) == 1 else ("", "")


def _sentences(group: Item, algorithm: tuple[str, str] | None, modifiers: Sequence[Item], found: _Found) -> None:
    """Add the sentences directly in a container; raises _Unclear if one has no algorithm, or a modifier."""
    sentences = [one for one in group.children if draft_texts.is_sentence(one)]
    if not sentences:
        return
    if algorithm is None or not all(algorithm):
        raise _Unclear(NO_ALGORITHM)
    # A side or a context, such as "known absent", would be lost.
    if _side(modifiers) or any(_is_qualified(one) or _side(one.children) for one in sentences):
        raise _Unclear(MODIFIED)
    found.drafts.setdefault(algorithm, []).extend(sentences)


def _group(group: Item, algorithm: tuple[str, str] | None, modifiers: Sequence[Item], found: _Found) -> None:
    """Add the evaluations directly in a container; raises _Unclear if none of them can be taken."""
    evaluations = [one for one in group.children if _is_evaluation(one)]
    beside = [one for one in group.children if one.value_type == "NUM"]
    if not evaluations:
        if any(_is_like_probability(one) for one in beside):
            raise _Unclear(SEVERAL_NUMBERS)
        return
    if algorithm is None or not all(algorithm):
        raise _Unclear(NO_ALGORITHM)
    # One may qualify the other: "Finding: mass" beside "Presence: absent".
    if len({_is_finding(one) for one in evaluations}) > 1:
        raise _Unclear(UNCLEAR)
    side = _side(modifiers)
    for one in evaluations:
        try:
            label = _label(one, side)
            score = _score(one.concept.words, label, one.children, beside, alone=len(evaluations) == 1)
            values = {"study": found.study, "name": algorithm[0], "version": algorithm[1], "label": label}
            given = received(values | {"score": score})
            found.scores.setdefault((given.name, given.version, given.label), set()).add(given.score)
        except (_Unclear, InvalidPrediction) as error:
            found.reasons.append(str(error))


def _is_evaluation(item: Item) -> bool:
    of_container = item.relationship == "CONTAINS" and item.value_type in ("CODE", "TEXT")
    return of_container and item.concept.words not in HARMLESS and not draft_texts.is_sentence(item)


def _is_finding(item: Item) -> bool:
    return item.concept.words in FINDING


def _is_like_probability(item: Item) -> bool:
    return item.units in ("%", "1") or bool(LIKE_PROBABILITY.search(item.concept.words))


def _side(items: Sequence[Item]) -> str:
    """Return the side that modifiers name; raises _Unclear for one that may change a meaning."""
    sides = {side for one in items for side in _modifier(one)}
    if len(sides) > 1:
        raise _Unclear(MODIFIED)
    return sides.pop() if sides else ""


def _modifier(item: Item) -> Iterator[str]:
    if item.relationship != "HAS CONCEPT MOD":
        return
    if item.concept.words == LATERALITY:
        side = SIDES.get(item.text.casefold().strip())
        if side is None:
            raise _Unclear(MODIFIED)
        yield side
    elif item.concept.words not in HARMLESS:
        raise _Unclear(MODIFIED)
    for child in item.children:
        yield from _modifier(child)


def _is_qualified(item: Item) -> bool:
    """Return whether a part of the item, other than a modifier, may change its meaning."""
    parts = (one for one in item.children if one.value_type not in (*REFERENCES, "NUM"))
    return any(one.relationship != "HAS CONCEPT MOD" and one.concept.words not in HARMLESS for one in parts)


def _label(item: Item, side: str) -> str:
    """Return the label that an evaluation affirms; raises _Unclear if it affirms none."""
    if _is_qualified(item):
        raise _Unclear(MODIFIED)
    own = _side(item.children)
    if own and side and own != side:
        raise _Unclear(OTHER_SIDE)
    value = " ".join(item.text.casefold().split())
    if _is_finding(item):
        if value in PRESENT | ABSENT | {""}:
            raise _Unclear(UNCLEAR)
        label = item.text
    elif value in ABSENT:
        raise _Unclear(DENIED)
    elif value not in PRESENT or item.concept.words in UNNAMED:
        raise _Unclear(UNCLEAR)
    else:
        label = item.concept.meaning
    if "\N{REPLACEMENT CHARACTER}" in label:
        raise _Unclear("a label has characters that cannot be decoded")
    return _with_side(label.strip(), own or side)


def _with_side(label: str, side: str) -> str:
    """Return the label with the side that modifiers name; raises _Unclear if it names another one."""
    named = {SIDES[word] for word in re.findall(r"\w+", label.casefold()) if word in SIDES}
    if side and named - {side}:
        raise _Unclear(OTHER_SIDE)
    return label if not side or named else f"{side} {label}"


def _score(concept: str, label: str, below: Sequence[Item], beside: Sequence[Item], *, alone: bool) -> float | None:
    """Return the probability of an evaluation, None without one; raises _Unclear if it is not the only one."""
    numbers = [one for one in (*below, *beside) if one.value_type == "NUM" and _is_like_probability(one)]
    if not numbers:
        return None
    names = {label.casefold(), concept} - FINDING
    own = PROBABILITY | names | {f"probability of {name}" for name in names}
    if len(numbers) > 1 or numbers[0].concept.words not in own or (numbers[0] in beside and not alone):
        raise _Unclear(SEVERAL_NUMBERS)
    factor, number = UNITS.get(numbers[0].units), numbers[0].number
    if factor is None or number is None or not 0 <= number * factor <= 1:
        raise _Unclear(INVALID_NUMBER)
    return round(number * factor, 6)
