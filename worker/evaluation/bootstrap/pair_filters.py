"""Decide whether a guided draft states exactly what is confirmed and what the images show.

A confirmed finding may be wrong or missing. Text that follows it proves nothing: the image and the blind draft decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from db.states import Check, CheckState
from worker.findings.labeller import present, sentences

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from db.reports.versions import Draft
    from worker.findings.labeller import Label, Sentence
    from worker.findings.sections import Section

#: Compares the draft with the quoted cases, here the confirmed findings themselves.
_NOT_COUNTED = {Check.SUPPORT}


class Filtered(NamedTuple):
    """Text of a pair, and why it is none: *rejected* the draft is at fault; *hard* a person must look at the labels."""

    findings: str
    impression: str
    trimmed: bool
    rejected: list[str]
    hard: list[str]


def filtered(guided: Draft, blind: Draft, confirmed: Collection[Label]) -> Filtered:
    """Apply all filters; a pair is kept without a reason."""
    findings, cut = _trimmed(guided.findings, "findings", confirmed)
    impression, cut_too = _trimmed(guided.impression, "impression", confirmed)
    told = present(f"Findings: {findings} Impression: {impression}")
    seen = present(f"Findings: {blind.findings} Impression: {blind.impression}")
    return Filtered(
        findings,
        impression,
        trimmed=cut or cut_too,
        rejected=[*_faults(guided), *_against_confirmed(told, confirmed, f"{findings}\n{impression}")],
        hard=[*_unsupported(guided, seen, confirmed), *_contradicted(blind, seen, told, confirmed)],
    )


def _trimmed(text: str, section: Section, confirmed: Collection[Label]) -> tuple[str, bool]:
    """Return a section without the sentences that affirm or suspect only other findings, and whether any was."""
    read = sentences(text, section)
    kept = [sentence.text for sentence in read if not _is_extra(sentence, confirmed)]
    return (text, False) if len(kept) == len(read) else (" ".join(kept), True)


def _is_extra(sentence: Sentence, confirmed: Collection[Label]) -> bool:
    told = [mention.label for mention in sentence.mentions if mention.label.certainty != "absent"]
    return bool(told) and not any(_covers(one, label) for one in confirmed for label in told)


def _faults(draft: Draft) -> Iterable[str]:
    if draft.provenance["refused"] or len(draft.provenance["parts"]) > 1:
        yield "refused" if draft.provenance["refused"] else "several_parts"
    failed = (one.name for one in draft.checks if one.state == CheckState.WARNING and one.name not in _NOT_COUNTED)
    yield from (f"check_{name}" for name in failed)


def _against_confirmed(told: Collection[Label], confirmed: Collection[Label], text: str) -> Iterable[str]:
    if not all(any(_covers(one, label) for label in told) for one in confirmed):
        yield "label_not_affirmed"
    if not all(any(_covers(one, label) for one in confirmed) for label in told):
        yield "other_finding"
    others = [m.label for s in sentences(text) for m in s.mentions if m.label.certainty != "present"]
    if any(_compatible(one, label) for one in confirmed for label in others):
        yield "label_denied_or_uncertain"


def _unsupported(guided: Draft, seen: Collection[Label], confirmed: Collection[Label]) -> Iterable[str]:
    """Yield what the image says against the labels: one that it does not show, or a finding that has none."""
    sentences_read, omitted = (guided.grounds.sentences, guided.grounds.omitted) if guided.grounds else ([], [])
    affirmed = [one for sentence in sentences_read for one in sentence.findings if one.certainty == "present"]
    shown = {(one.name, one.side) for one in affirmed if one.in_image and one.in_image.score >= one.in_image.threshold}
    pairs = {(one.finding, one.side) for one in confirmed}
    if any((one.finding, one.side) not in shown and not _affirmed(one, seen) for one in confirmed):
        yield "label_not_in_image"
    if shown - pairs - {(name, "") for name, _ in pairs} or omitted:
        yield "image_shows_other_finding"


def _contradicted(
    blind: Draft, seen: Collection[Label], told: Collection[Label], confirmed: Collection[Label]
) -> Iterable[str]:
    """Yield what the draft without labels says against them."""
    denied = [
        mention.label
        for section in (sentences(blind.findings), sentences(blind.impression, "impression"))
        for sentence in section
        for mention in sentence.mentions
        if mention.label.certainty == "absent"
    ]
    if any(label.finding == one.finding and label.side in ("", one.side) for one in confirmed for label in denied):
        yield "blind_denies_label"
    if not all(any(_compatible(one, label) for one in confirmed) for label in seen):
        yield "blind_affirms_other_finding"
    # A place that no label states is the model's own: it must be told twice.
    own = [label for label in told if not any(label.strict == one.strict for one in confirmed)]
    if not all(any(label.strict == other.strict for other in seen) for label in own):
        yield "place_told_once"


def _affirmed(one: Label, seen: Iterable[Label]) -> bool:
    return any(_covers(one, label) for label in seen)


def _covers(one: Label, label: Label) -> bool:
    """Return whether *label* is the confirmed finding *one*, with every place that *one* states."""
    return _compatible(one, label) and all(not mine or mine == theirs for mine, theirs in _places(one, label))


def _compatible(one: Label, label: Label) -> bool:
    """Return whether two labels name the same finding and no different place."""
    return one.finding == label.finding and all(
        not mine or not theirs or mine == theirs for mine, theirs in _places(one, label)
    )


def _places(one: Label, label: Label) -> Sequence[tuple[str, str]]:
    return (one.side, label.side), (one.zone, label.zone)
