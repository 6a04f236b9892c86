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
#: Score from which a label of a specialist model is its prediction, if its scores are no shares of one decision.
AFFIRMED = 0.5
#: Largest error of a score with two decimals, and what binary fractions add to it.
ROUNDING = 0.005 + 1e-9


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


def predicted(predictions: Sequence[Prediction], *, several: bool = False) -> list[Prediction]:
    """Return what each specialist model predicts: its labels without score, and those that its scores affirm.

    Scores that sum to 1 are shares of one decision, of which the highest is the prediction; with two it is undecided.
    Others are probabilities of one label each: those below AFFIRMED deny it, and in the prompt their label would affirm
    it. Of the affirmed ones the highest are given, all with *several*. Scores that are no probabilities affirm nothing.
    """
    return [one for own in _by_model(predictions) for one in _of_model(own, several=several)]


def unreadable(predictions: Sequence[Prediction]) -> int:
    """Return the number of labels whose scores are no probabilities or undecided: they neither affirm nor deny."""
    scores = [_scored(own) for own in _by_model(predictions)]
    return sum(len(own) if not _are_probabilities(own) else len(_undecided(own)) for own in scores)


def _by_model(predictions: Sequence[Prediction]) -> list[list[Prediction]]:
    of_model: dict[tuple[str, str], list[Prediction]] = {}
    for one in predictions:
        of_model.setdefault((one.name, one.version), []).append(one)
    return list(of_model.values())


def _of_model(own: Sequence[Prediction], *, several: bool) -> list[Prediction]:
    scored = _scored(own)
    if not _are_probabilities(scored):
        kept = []
    elif _is_one_decision(scored):
        kept = [] if _undecided(scored) else _highest(scored)
    else:
        kept = [one for one in (scored if several else _highest(scored)) if _score(one) >= AFFIRMED]
    return [one for one in own if one.score is None or one in kept]


def _highest(scored: Sequence[Prediction]) -> list[Prediction]:
    """Return the label with the highest score, all of them if several have it."""
    most = max(map(_score, scored), default=0.0)
    return [one for one in scored if _score(one) == most]


def _undecided(scored: Sequence[Prediction]) -> list[Prediction]:
    """Return the labels that share the highest score of one decision; empty if one has it."""
    highest = _highest(scored) if _is_one_decision(scored) else []
    return highest if len(highest) > 1 else []


def _scored(own: Sequence[Prediction]) -> list[Prediction]:
    return [one for one in own if one.score is not None]


def _score(one: Prediction) -> float:
    return one.score or 0.0


def _are_probabilities(scored: Sequence[Prediction]) -> bool:
    return all(0 <= _score(one) <= 1 for one in scored)


def _is_one_decision(scored: Sequence[Prediction]) -> bool:
    return len(scored) > 1 and abs(sum(map(_score, scored)) - 1) <= ROUNDING * len(scored)


def _has(affirmed: set[Label], option: str) -> bool:
    if option.casefold() in WITHOUT_FINDING:
        return not affirmed
    wanted = [label for label in labels(option) if label.certainty == "present"]
    return bool(wanted) and all(any(_is_one(label, other) for other in affirmed) for label in wanted)


def _is_one(label: Label, other: Label) -> bool:
    """Return whether *other* is the finding of *label*, on the same side and in the same zone where it names them."""
    return label.finding == other.finding and label.side in ("", other.side) and label.zone in ("", other.zone)
