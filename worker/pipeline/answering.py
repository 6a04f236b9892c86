"""Answer a question about a study: the model's own answer, compared with the others it could have given.

The images of a part may veto it: an affirmed finding whose label the reference index can measure and they do not show.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from db.answers.answer import CANNOT_TELL, Answer
from db.reports.storable import storable_text
from db.states import Calibration, JobKind
from worker.findings.labeller import Label, labels, named
from worker.grounding.grounds import grounded_finding
from worker.model.engine.request import Request
from worker.pipeline.inquiry_reading import generations, read_study, shared_fields
from worker.pipeline.possible_answers import NO, YES, forms_of, is_same, possible_answers
from worker.pipeline.steps import Steps
from worker.prompting import wording
from worker.prompting.question import fitted_question, question_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from db.answers.answer import Question
    from db.answers.scaling import ScalingOfTask
    from db.reports.grounds import GroundedFinding
    from worker.findings.certainty import Certainty
    from worker.model.engine.request import OptionScore
    from worker.pipeline.inquiry_reading import PartForInquiry
    from worker.pipeline.pipeline import StudyToReport
    from worker.pipeline.possible_answers import Possible
    from worker.pipeline.study_reader import StudyReader

#: Tokens beside the prompt for the possible answers in all their forms, or for the model's own.
ANSWER_TOKENS = 400
BELOW_LIMIT = "The confidence of the model's answer is {confidence:.2f}, below the limit of {limit:.2f}."
NOT_TOLD = "The model's answer is that the images do not tell."
VETOED = "The model affirms {finding}, but the score of the images for it is {score:.2f}, below {threshold:.2f}."


NEGATED = re.compile(r"\b(?:no|not|without|free of|absence)\b|n't\b", re.IGNORECASE)
#: Sides that an answer names.
SIDES_OF = {"left": ("left",), "right": ("right",), "both": ("left", "right")}


@dataclass(slots=True)
class _PartAnswer:
    """Answer about one part of a study; *why* is empty if the images tell."""

    part: PartForInquiry
    written: str
    possible: Possible
    confidence: float
    limit: float
    calibration: Calibration
    log_prob: float
    stated: list[Label]
    why: str = ""

    @property
    def text(self) -> str:
        """The text for the reader."""
        return CANNOT_TELL if self.why else self.possible.text


def answer(reader: StudyReader, study: StudyToReport, question: Question, on_progress: Callable[[], None]) -> Answer:
    """Answer *question* about *study*.

    *on_progress* is called whenever the work has progressed; its errors end the work. Raises NotReportable if the study
    has no readable image, PermanentFailure for an invalid question, TransientFailure if the model failed this time.
    """
    steps, asked = Steps(on_progress), fitted_question(question.text, reader.model.text_tokens)
    read = read_study(reader, study, lambda part: question_prompt(part.modality, asked), _room(reader), steps)
    requests: list[Request] = []
    answers = [_of_part(reader, part, asked, requests, steps) for part in read.readable]
    scaling = _kind_figures(reader.scaling_of(JobKind.QUESTION), answers)
    shared = shared_fields(reader, read, requests, scaling)
    if not answers:
        return Answer(text=CANNOT_TELL, model_text="", cannot_tell=True, why=read.refusals, **shared)
    return _joined(answers, shared, named=len(read.parts) > 1)


def _room(reader: StudyReader) -> int:
    return min(max(reader.settings.model.max_new_tokens, ANSWER_TOKENS), reader.model.context_tokens // 2)


def _kind_figures(scaling: ScalingOfTask, answers: Sequence[_PartAnswer]) -> dict[str, Any]:
    return {one.part.images.name: scaling.figures(one.possible.kind) for one in answers}


def _of_part(
    reader: StudyReader, part: PartForInquiry, asked: str, requests: list[Request], steps: Steps
) -> _PartAnswer:
    seconds = reader.settings.model.report_deadline_seconds
    prompt = question_prompt(part.images.modality, asked)
    request = Request(prompt, part.pixels, reader.settings.model.max_new_tokens, seconds)
    requests.append(request)
    generation = generations(reader, [request], steps)[0]
    part.finish_reason = generation.finish_reason
    possible = possible_answers(asked, storable_text(generation.text))
    scored = generations(reader, [replace(request, options=forms_of(possible))], steps)[0].options
    totals = _totals(possible, scored)
    best = max(range(len(possible)), key=totals.__getitem__)
    chosen = possible[best]
    share = math.exp(totals[best] - _log_sum(totals))
    # A text of the model's own has no complete list of alternatives: its tokens say how sure it is of the words.
    own = chosen.kind == "free" and generation.log_probs and is_same(chosen.text, generation.text)
    raw = min(share, math.exp(sum(generation.log_probs) / len(generation.log_probs))) if own else share
    scaling, standing = reader.scaling_of(JobKind.QUESTION).of(chosen.kind)
    found = _PartAnswer(
        part,
        generation.text,
        chosen,
        scaling.of_one(raw),
        scaling.min_confidence,
        standing,
        totals[best],
        stated_by(asked, chosen.text),
    )
    found.why = _why_not(found)
    return found


def _totals(possible: Sequence[Possible], scored: Sequence[OptionScore]) -> list[float]:
    """Return the log-probability of each possible answer, its forms added."""
    scores = iter(scored)
    return [_log_sum([next(scores).total for _ in one.forms]) for one in possible]


def _log_sum(values: Sequence[float]) -> float:
    highest = max(values)
    return highest + math.log(math.fsum(math.exp(value - highest) for value in values))


def stated_by(question: str, text: str) -> list[Label]:
    """Return the findings that *text* states as the answer to *question*, with their certainty."""
    answer_word = text.strip().rstrip(".").lower()
    if answer_word in SIDES_OF:
        return [Label(name, side) for name in named(question) for side in SIDES_OF[answer_word]]
    if not (is_same(text, YES) or is_same(text, NO)):
        return labels(text)
    if NEGATED.search(question):
        # "Is there no effusion?" is answered with yes and with no by speakers who mean the same.
        return []
    certainty: Certainty = "present" if is_same(text, YES) else "absent"
    return [Label(one.finding, one.side, certainty=certainty) for one in labels(question)]


def _why_not(found: _PartAnswer) -> str:
    """Return why the images do not tell; empty if they do."""
    if is_same(found.possible.text, wording.CANNOT_TELL):
        return NOT_TOLD
    if veto := _veto(found):
        return veto
    if found.confidence < found.limit:
        return BELOW_LIMIT.format(confidence=found.confidence, limit=found.limit)
    return ""


def _veto(found: _PartAnswer) -> str:
    """Return the sentence of a veto: none of the affirmed findings that are measurable reaches its threshold."""
    affirmed = [label for label in found.stated if label.certainty == "present"]
    scores = [score for label in affirmed if (score := found.part.picture.score(label.finding, label.side))]
    if not scores or any(score.suspected for score in scores):
        return ""
    nearest = max(scores, key=lambda score: score.score - score.threshold)
    name = f"{nearest.side} {nearest.finding}".strip()
    return VETOED.format(finding=name, score=nearest.score, threshold=nearest.threshold - nearest.margin)


def _joined(answers: Sequence[_PartAnswer], shared: dict[str, Any], *, named: bool) -> Answer:
    """Return the answer; if *named*, that of each part after its name."""
    text, findings = "", []
    for one in answers:
        text += f"{' ' if text else ''}{one.part.images.name + ': ' if named else ''}"
        findings += [] if one.why else _grounded(one, len(text))
        text += one.text
    told = [one for one in answers if not one.why]
    least = min(told, key=lambda one: one.confidence) if told else max(answers, key=lambda one: one.confidence)
    cannot_tell = not told
    return Answer(
        text=CANNOT_TELL if cannot_tell else text,
        model_text=" ".join(one.written for one in answers),
        cannot_tell=cannot_tell,
        why=" ".join(dict.fromkeys(one.why for one in answers)) if cannot_tell else "",
        confidence=least.confidence,
        min_confidence=least.limit,
        calibration=_calibration(told or [least]),
        findings=findings,
        **(shared | {"limitations": [*_whys(answers, told), *shared["limitations"]]}),
    )


def _calibration(answers: Sequence[_PartAnswer]) -> Calibration:
    """Return the standing of the confidence: that of answers of different kinds is the lower one."""
    standings = {one.calibration for one in answers}
    return standings.pop() if len(standings) == 1 else Calibration.UNCALIBRATED


def _whys(answers: Sequence[_PartAnswer], told: Sequence[_PartAnswer]) -> list[str]:
    """Return why a part does not tell, beside another one that does."""
    return [f"{one.part.images.name}: {one.why}" for one in answers if told and one.why]


def _grounded(found: _PartAnswer, offset: int) -> list[GroundedFinding]:
    words = offset, offset + len(found.text)
    return [
        grounded_finding(label, words, found.part.reports, found.part.picture, round(found.log_prob, 4))
        for label in found.stated
    ]
