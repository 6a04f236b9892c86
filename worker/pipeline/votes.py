"""Labels of similar cases, which of some diagnoses the report of a case affirms, and of specialist models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.findings.labeller import labels
from worker.prompting.diagnosis import WITHOUT_FINDING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from db.answers.answer import Prediction
    from worker.findings.labeller import Label, Sentence

NORMAL = "normal"
#: Score from which the only label of a specialist model is its prediction.
AFFIRMED = 0.5


def labels_of_case(report: Sequence[Sentence], options: Sequence[str]) -> list[str]:
    """Return those of *options* that a report affirms; else the findings that it affirms, or NORMAL.

    Empty if no sentence of it states anything. An option that names no finding of the lexicon, in words that the
    labeller reads, gets no vote.
    """
    stated = [mention.label for sentence in report for mention in sentence.mentions]
    affirmed = {label for label in stated if label.certainty == "present"}
    if not report:
        return []
    chosen = [option for option in options if _has(affirmed, option)]
    return chosen or sorted({label.finding for label in affirmed}) or [NORMAL]


def predicted(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Return what each specialist model predicts: of several labels with scores the highest, none below AFFIRMED alone.

    A model that names one finding with a low score denies it; in the prompt its label would affirm it.
    """
    of_model: dict[tuple[str, str], list[Prediction]] = {}
    for one in predictions:
        of_model.setdefault((one.name, one.version), []).append(one)
    return [one for own in of_model.values() for one in _of_model(own)]


def _of_model(own: Sequence[Prediction]) -> list[Prediction]:
    scored = [one for one in own if one.score is not None]
    highest = max(scored, key=lambda one: one.score or 0.0, default=None)
    kept = highest is not None and (len(scored) > 1 or (highest.score or 0.0) >= AFFIRMED)
    return [one for one in own if one.score is None or (kept and one is highest)]


def _has(affirmed: set[Label], option: str) -> bool:
    if option.casefold() in WITHOUT_FINDING:
        return not affirmed
    wanted = [label for label in labels(option) if label.certainty == "present"]
    return bool(wanted) and all(any(_is_one(label, other) for other in affirmed) for label in wanted)


def _is_one(label: Label, other: Label) -> bool:
    """Return whether *other* is the finding of *label*, on the same side and in the same zone where it names them."""
    return label.finding == other.finding and label.side in ("", other.side) and label.zone in ("", other.zone)
