"""Answer a question about a study: the model's own answer, compared with the others it could have given.

The images of a part may veto it: an affirmed finding whose label the reference index can measure and they do not show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from db.answers.answer import CANNOT_TELL, Answer
from db.reports.storable import storable_text
from db.states import Calibration, JobKind
from worker.grounding.grounds import grounded_finding
from worker.model.engine.request import Request
from worker.pipeline.inquiry_reading import generations, read_study, shared_fields
from worker.pipeline.possible_answers import forms_of, is_same, possible_answers
from worker.pipeline.question_forms import asked_by, stated_by, unchecked, unsettled
from worker.pipeline.steps import Steps
from worker.prompting import wording
from worker.prompting.question import fitted_question, question_prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from db.answers.answer import Question
    from db.answers.scaling import ScalingOfTask
    from db.reports.grounds import GroundedFinding
    from worker.findings.labeller import Label
    from worker.grounding.picture import PictureScore
    from worker.model.engine.request import OptionScore
    from worker.pipeline.inquiry_reading import PartForInquiry
    from worker.pipeline.pipeline import StudyToReport
    from worker.pipeline.possible_answers import Possible
    from worker.pipeline.study_reader import StudyReader

#: Tokens beside the prompt for the possible answers in all their forms, or for the model's own.
ANSWER_TOKENS = 400
BELOW_LIMIT = "The confidence of the model's answer is {confidence:.2f}, below the limit of {limit:.2f}."
EQUAL = "The most probable answers have the same probability."
NOT_TOLD = "The model's answer is that the images do not tell."
VETOED = "The model affirms {finding}, but the score of the images for it is {score}, below {threshold}."
DENIED = "The model denies {finding}, but the score of the images for it is {score}, at least {threshold}: look for it."


@dataclass(slots=True)
class _PartAnswer:
    """Answer about one part of a study; *why* is empty if the images tell.

    *asked* are the findings that the images may veto, *stated* those of them that the answer surely states.
    """

    part: PartForInquiry
    written: str
    possible: Possible
    confidence: float
    limit: float
    calibration: Calibration
    log_prob: float
    asked: list[Label]
    stated: list[Label]
    unchecked: str
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
        asked_by(asked, chosen.text),
        stated_by(asked, chosen.text),
        unchecked(asked, chosen.text),
    )
    found.why = _why_not(found, asked) or (EQUAL if totals.count(totals[best]) > 1 else "")
    return found


def _totals(possible: Sequence[Possible], scored: Sequence[OptionScore]) -> list[float]:
    """Return the log-probability of each possible answer, its forms added."""
    scores = iter(scored)
    return [_log_sum([next(scores).total for _ in one.forms]) for one in possible]


def _log_sum(values: Sequence[float]) -> float:
    highest = max(values)
    return highest + math.log(math.fsum(math.exp(value - highest) for value in values))


def _why_not(found: _PartAnswer, asked: str) -> str:
    """Return why the images do not tell; empty if they do."""
    if is_same(found.possible.text, wording.CANNOT_TELL):
        return NOT_TOLD
    if reason := unsettled(asked, found.possible.text):
        return reason
    if veto := _veto(found):
        return veto
    if found.confidence < found.limit:
        return BELOW_LIMIT.format(confidence=found.confidence, limit=found.limit)
    return ""


def _veto(found: _PartAnswer) -> str:
    """Return the sentence of a veto: an affirmed finding that is measurable does not reach its threshold."""
    affirmed = [label for label in found.asked if label.certainty == "present"]
    scores = [score for label in affirmed if (score := found.part.picture.score(label.finding, label.side))]
    failing = [score for score in scores if not score.suspected]
    if not failing:
        return ""
    return _compared(VETOED, min(failing, key=lambda score: score.score - score.threshold))


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
        **(shared | {"limitations": [*_remarks(answers, told, named=named), *shared["limitations"]]}),
    )


def _calibration(answers: Sequence[_PartAnswer]) -> Calibration:
    """Return the standing of the confidence: that of answers of different kinds is the lower one."""
    standings = {one.calibration for one in answers}
    return standings.pop() if len(standings) == 1 else Calibration.UNCALIBRATED


def _remarks(answers: Sequence[_PartAnswer], told: Sequence[_PartAnswer], *, named: bool) -> list[str]:
    """Return the sentences about the answers of the parts; if *named*, after the name of their part."""
    own = [
        f"{one.part.images.name}: {sentence}" if named else sentence
        for one in told
        for sentence in (_denied(one), one.unchecked)
        if sentence
    ]
    return [*_whys(answers, told), *own]


def _denied(found: _PartAnswer) -> str:
    """Return the sentence about a denied finding that the images suspect; empty without one."""
    denied = [label for label in found.asked if label.certainty == "absent"]
    scores = [score for label in denied if (score := found.part.picture.score(label.finding, label.side))]
    suspected = max((one for one in scores if one.suspected), key=lambda one: one.score - one.threshold, default=None)
    return _compared(DENIED, suspected) if suspected else ""


def _compared(sentence: str, score: PictureScore) -> str:
    name = f"{score.side} {score.finding}".strip()
    limit = score.threshold - score.margin
    return sentence.format(finding=name, score=f"{score.score:.2f}", threshold=f"{limit:.2f}")


def _whys(answers: Sequence[_PartAnswer], told: Sequence[_PartAnswer]) -> list[str]:
    """Return why a part does not tell, beside another one that does."""
    return [f"{one.part.images.name}: {one.why}" for one in answers if told and one.why]


def _grounded(found: _PartAnswer, offset: int) -> list[GroundedFinding]:
    words = offset, offset + len(found.text)
    return [
        grounded_finding(label, words, found.part.reports, found.part.picture, round(found.log_prob, 4))
        for label in found.stated
    ]
