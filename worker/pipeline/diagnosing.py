"""Choose between diagnoses of a study: options scored by teacher forcing, beside the vote of the similar cases."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from db.answers.answer import CANNOT_TELL, NONE_OF_THESE, Diagnosis, OptionScore
from db.reports.storable import storable_text
from db.states import JobKind
from worker.findings.labeller import labels
from worker.grounding.grounds import grounded_finding
from worker.model.engine.request import Request
from worker.pipeline.answering import BELOW_LIMIT
from worker.pipeline.inquiry_reading import generations, read_study, shared_fields
from worker.pipeline.steps import Steps
from worker.pipeline.votes import labels_of_case, predicted, unreadable
from worker.prompting import wording
from worker.prompting.diagnosis import Choice, Guidance, diagnosis_prompt, fitted_choice
from worker.prompting.fitting import fitted_guidance
from worker.prompting.plain_text import as_label

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from db.answers.answer import Choice as Asked
    from db.answers.answer import NeighbourCase, Prediction
    from db.answers.scaling import Scaling
    from db.reports.grounds import GroundedFinding
    from worker.images.study_images import PartImages
    from worker.pipeline.inquiry_reading import PartForInquiry, StudyForInquiry
    from worker.pipeline.pipeline import StudyToReport
    from worker.pipeline.study_reader import StudyReader

#: Kinds of choices, calibrated apart.
ONE, SEVERAL = "one", "several"
#: Probability from which one of several options is chosen.
CHOSEN = 0.5
OTHER_PARTS = "The choice was made from {part} only, where the options fit best; not from {others}."
TIED = "The most probable options have the same probability: {options}."
DIVIDED = "The similar earlier cases are divided: {votes} each for {options}."
NOT_GIVEN = (
    "{lost} of {count} predictions of specialist models were not given to the model: a label is no diagnosis, its score"
    " no probability or that of another label, too, or the prompt would be too long."
)


@dataclass(frozen=True, slots=True)
class _PartChoice:
    """Scores of the options in one part of a study: log-probabilities, probabilities, and that of none of them.

    *written* is the model's own text, or the option with the highest log-probability; *given* is what the prompt held.
    """

    part: PartForInquiry
    written: str
    log_probs: list[float]
    probabilities: list[float]
    none_of_these: float
    requests: list[Request]
    given: Guidance


def diagnose(
    reader: StudyReader,
    study: StudyToReport,
    asked: Asked,
    on_progress: Callable[[], None],
    predictions: Sequence[Prediction] = (),
    *,
    given: Guidance | None = None,
) -> Diagnosis:
    """Choose between the options of *asked* for *study*; *predictions* of specialist models are in the prompt.

    *given* replaces the diagnoses in the prompt, to measure their influence.

    *on_progress* is called whenever the work has progressed; its errors end the work. Raises NotReportable if the study
    has no readable image, PermanentFailure for invalid options, TransientFailure if the model failed this time.
    """
    steps, usable = Steps(on_progress), predicted(predictions, several=asked.several)
    received = [one for one in usable if as_label(one.label)]
    choice = fitted_choice(Choice(asked.options, several=asked.several), reader.model.text_tokens)
    read = read_study(reader, study, lambda part: _prompt(reader, part, choice), _room(reader, choice), steps)
    case_labels = [labels_of_case(report.sentences, choice.options) for part in read.parts for report in part.reports]
    guidance = [given or _guidance(part, case_labels, received) for part in read.readable]
    chosen = [_of_part(reader, part, choice, own, steps) for part, own in zip(read.readable, guidance, strict=True)]
    figures = reader.scaling_of(JobKind.DIAGNOSIS).figures(SEVERAL if choice.several else ONE)
    shared = shared_fields(reader, read, [one for part in chosen for one in part.requests], figures)
    if not chosen:
        # Nothing was scored: no option has a probability.
        shared |= {"cannot_tell": True, "why": read.refusals}
        return Diagnosis(text=CANNOT_TELL, model_text="", options=[], none_of_these=None, **shared)
    best = min(chosen, key=lambda one: one.none_of_these)
    shared["evidence"] = _labelled(shared["evidence"], case_labels, chosen, best)
    shared["predictions"] = received[: len(best.given.specialists)]
    lost = _not_given(len(usable) + unreadable(predictions), len(shared["predictions"]))
    shared["limitations"] = [
        *_other_parts(best, read),
        *_divided(choice, shared["evidence"]),
        *lost,
        *shared["limitations"],
    ]
    return _result(reader, choice, best, shared)


def _version(reader: StudyReader) -> wording.Version:
    return wording.version_of(reader.model.prompt_version)


def _prompt(reader: StudyReader, part: PartImages, choice: Choice, guidance: Guidance | None = None) -> str:
    return diagnosis_prompt(part.modality, part.body_part, choice, guidance, version=_version(reader))


def _room(reader: StudyReader, choice: Choice) -> int:
    """Return the tokens of the options as answers; one more for each, because words may have other tokens there."""
    return sum(reader.model.text_tokens(option) + 1 for option in [*choice.options, NONE_OF_THESE])


def _guidance(
    part: PartForInquiry, case_labels: Sequence[Sequence[str]], predictions: Sequence[Prediction]
) -> Guidance:
    """Return the diagnoses of the similar cases of a part and of the specialists."""
    similar = [label for place in part.places for label in case_labels[place]]
    return Guidance(similar, [one.label for one in predictions])


def _labelled(
    cases: Sequence[NeighbourCase],
    case_labels: Sequence[Sequence[str]],
    chosen: Sequence[_PartChoice],
    best: _PartChoice,
) -> list[NeighbourCase]:
    """Return the cases with the labels that the prompt of their part held, and those by which they vote.

    Only the cases of the part that the choice is made from vote.
    """
    found = list(cases)
    for one in chosen:
        held = iter(one.given.similar_cases)
        for place in one.part.places:
            own = case_labels[place]
            quoted = ", ".join(filter(None, map(as_label, islice(held, len(own)))))
            found[place] = replace(found[place], quoted=quoted, labels=list(own) if one is best else [])
    return found


def _not_given(count: int, given: int) -> list[str]:
    return [NOT_GIVEN.format(lost=count - given, count=count)] if given < count else []


def _of_part(
    reader: StudyReader, part: PartForInquiry, choice: Choice, guidance: Guidance, steps: Steps
) -> _PartChoice:
    room = _room(reader, choice)

    def prompt(given: Guidance, asked: Choice = choice) -> str:
        return _prompt(reader, part.images, asked, given)

    def fits(text: str) -> bool:
        return reader.fits(text, part.images, len(part.pixels), room)

    given = fitted_guidance(guidance, prompt=prompt, fits=fits)
    seconds = reader.settings.model.report_deadline_seconds
    asked = [Choice([option]) for option in choice.options] if choice.several else [choice]
    requests = [
        Request(
            # Of one option alone version 1 would list no alternative.
            prompt(given, Choice([*one.options, NONE_OF_THESE]) if choice.several else one),
            part.pixels,
            deadline_seconds=seconds,
            options=[*one.options, NONE_OF_THESE],
        )
        for one in asked
    ]
    if choice.several:
        # The model's own list, which is not calibrated.
        limit = reader.settings.model.max_new_tokens
        requests.append(Request(prompt(given), part.pixels, min(limit, room), deadline_seconds=seconds))
    found = generations(reader, requests, steps)
    written = storable_text(found.pop().text) if choice.several else found[0].text
    totals = [[option.total for option in one.options] for one in found]
    scaling, _ = reader.scaling_of(JobKind.DIAGNOSIS).of(SEVERAL if choice.several else ONE)
    probabilities, none = (_independent if choice.several else _exclusive)(totals, scaling)
    log_probs = [one[0] for one in totals] if choice.several else totals[0][:-1]
    return _PartChoice(part, written, log_probs, probabilities, none, requests, given)


def _exclusive(totals: Sequence[Sequence[float]], scaling: Scaling) -> tuple[list[float], float]:
    """Return the probabilities of the options and of none of them: they sum to 1."""
    *options, none = scaling.of_several(totals[0])
    return options, none


def _independent(totals: Sequence[Sequence[float]], scaling: Scaling) -> tuple[list[float], float]:
    """Return the probability of each option against its complement, and that none is right if they are independent."""
    options = [scaling.of_one(1 / (1 + math.exp(min(none - option, 700.0)))) for option, none in totals]
    return options, math.prod(1 - one for one in options)


def _result(reader: StudyReader, choice: Choice, best: _PartChoice, shared: dict[str, Any]) -> Diagnosis:
    scaling, standing = reader.scaling_of(JobKind.DIAGNOSIS).of(SEVERAL if choice.several else ONE)
    confidence = _confidence(choice, best)
    below = confidence < scaling.min_confidence
    why = BELOW_LIMIT.format(confidence=confidence, limit=scaling.min_confidence) if below else _tied(choice, best)
    chosen = [] if why else _chosen(choice, best)
    text = CANNOT_TELL if why else ", ".join(chosen) or NONE_OF_THESE
    votes = [sum(option in case.labels for case in shared["evidence"]) for option in choice.options]
    rows = zip(choice.options, best.probabilities, best.log_probs, votes, strict=True)
    return Diagnosis(
        text=text,
        model_text=best.written,
        cannot_tell=bool(why),
        why=why,
        confidence=confidence,
        min_confidence=scaling.min_confidence,
        calibration=standing,
        options=[
            OptionScore(label, round(share, 6), label in chosen, round(log_prob, 4), count)
            for label, share, log_prob, count in rows
        ],
        none_of_these=round(best.none_of_these, 6),
        findings=_grounded(best, chosen, text),
        **shared,
    )


def _chosen(choice: Choice, best: _PartChoice) -> list[str]:
    """Return the chosen options; none of several exclusive ones if none of them is more probable."""
    pairs = zip(choice.options, best.probabilities, strict=True)
    if choice.several:
        return [option for option, probability in pairs if probability >= CHOSEN]
    option, probability = max(pairs, key=lambda pair: pair[1])
    return [option] if probability > best.none_of_these else []


def _tied(choice: Choice, best: _PartChoice) -> str:
    """Return the sentence on exclusive options that are equally probable; empty if one is more probable."""
    pairs = list(zip([*choice.options, NONE_OF_THESE], [*best.probabilities, best.none_of_these], strict=True))
    tied = [option for option, probability in pairs if probability == max(pair[1] for pair in pairs)]
    return TIED.format(options=", ".join(tied)) if len(tied) > 1 and not choice.several else ""


def _divided(choice: Choice, cases: Sequence[NeighbourCase]) -> list[str]:
    """Return the sentence on a vote that different cases give to several exclusive options in equal number."""
    voters = {option: [option in case.labels for case in cases] for option in choice.options}
    most = max(map(sum, voters.values()), default=0)
    first = [option for option, own in voters.items() if most and sum(own) == most]
    if choice.several or len({tuple(voters[option]) for option in first}) < len(("one", "another")):
        return []
    return [DIVIDED.format(votes=most, options=", ".join(first))]


def _confidence(choice: Choice, best: _PartChoice) -> float:
    """Return the probability of the choice; of several options that of the least certain decision."""
    if choice.several:
        return min(max(one, 1 - one) for one in best.probabilities)
    return max(*best.probabilities, best.none_of_these)


def _grounded(best: _PartChoice, chosen: Sequence[str], text: str) -> list[GroundedFinding]:
    found, offset = [], 0
    for option in chosen:
        start = text.index(option, offset)
        offset = start + len(option)
        log_prob = best.log_probs[[*best.requests[0].options].index(option)] if len(best.requests) == 1 else None
        found += [
            grounded_finding(label, (start, offset), best.part.reports, best.part.picture, log_prob)
            for label in labels(option)
        ]
    return found


def _other_parts(best: _PartChoice, read: StudyForInquiry) -> list[str]:
    """Return the sentence about the parts that the choice was not made from."""
    others = [part.images.name for part in read.parts if part is not best.part]
    return [OTHER_PARTS.format(part=best.part.images.name, others=", ".join(others))] if others else []
