"""Sentences that the program adds to a report: its basis, its limitations, and texts in place of findings.

Each is listed in docs/report-sentences.md with its cause and the consequence for the reader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from worker.prompting.wording import image_name
from worker.retrieval.validation import MIN_CASES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from db.reports.versions import Quoted
    from worker.images.study_images import PartImages, StudyImages
    from worker.model.engine.request import FinishReason
    from worker.retrieval.out_of_distribution import OodResult
    from worker.retrieval.retrieve import Retrieval

_CUT_OFF = {"length": "The text was cut off at the token limit.", "deadline": "The text was cut off at the time limit."}
_SIDES = "right and left may be reversed in this report. Check sides against the images"
#: Findings of a part for which the model returned nothing, in a report of several parts.
NO_TEXT = "Not analysed: the model returned no text."
_CHECK = "Check that they belong to this patient and body part"
_VERIFY = "Verify every finding against the images"
_SAME_PATIENT = "probably the same patient. Check the identity"
_NOT_QUOTED = "No similar earlier cases were quoted"
_WEAK = "The similar earlier cases are weak evidence"
#: Reference images of a modality below which the nearest cases need not resemble the study: 20 are fewer than one for
#: each finding of a modality.
MIN_REFERENCE_IMAGES = 20
#: Cosine of a case that shares hardly any feature with the study; thresholds measured at a build are mostly above 0.3.
MIN_SIMILARITY = 0.1


class ReadPart(NamedTuple):
    """A part of a study, the comparison of its images, and the end of its text."""

    images: PartImages
    retrieval: Retrieval
    finish_reason: FinishReason = "stop"
    #: Quoted cases of the part, the most similar first, and the number of the first among those of the report.
    cases: Sequence[Quoted] = ()
    first_case: int = 1

    @property
    def analysed(self) -> bool:
        """True if the model has read its images."""
        return self.images.informative and not self.retrieval.rejected


def fixed_text(images: PartImages, retrieval: Retrieval, *, withhold: bool = False) -> str | None:
    """Return the fixed report of a part that the model must not read; None for any other.

    The model would describe findings in an empty image, copied from the quoted cases.
    """
    if not images.informative:
        return "Findings: The images contain no diagnostic information. Impression: Not diagnostic."
    if retrieval.ood is not None and retrieval.rejected:
        findings = f"Not analysed: {_out_of_distribution(images, retrieval.ood)}."
    elif withhold and not retrieval.validated:
        name = image_name(images.modality, images.body_part)
        findings = f"Not analysed: this model is not validated here for {name} images."
    else:
        return None
    return f"Findings: {findings} Impression: No impression: the images were not analysed."


def basis_of(parts: Sequence[ReadPart]) -> str:
    """Return the phrase for the images a report is based on: "8 of 240 slices of series 3"."""
    return "; ".join(_with_name(part, parts, _basis_of(part)) for part in parts)


def _basis_of(part: ReadPart) -> str:
    ood = part.retrieval.ood
    if ood is None or not part.retrieval.rejected:
        return part.images.basis
    return f"{part.images.basis}; not analysed: {_out_of_distribution(part.images, ood)}"


def _with_name(part: ReadPart, parts: Sequence[ReadPart], text: str) -> str:
    return f"{part.images.name}: {text}" if len(parts) > 1 else text


def _out_of_distribution(images: PartImages, ood: OodResult) -> str:
    name = image_name(images.modality, images.body_part)
    return f"the images are out of distribution for {name} images (reference set: {ood.reference_images} images)"


def limitations(
    images: StudyImages,
    parts: Sequence[ReadPart],
    *,
    indexed: bool,
    late_arrivals: Sequence[str],
    cut_to_fit: bool = False,
) -> list[str]:
    """Return the limitations of a report as sentences: why it may be incomplete or wrong.

    *indexed* is false if the model has no reference index; *late_arrivals* as db.studies.lifecycle gives them;
    *cut_to_fit* if further images would have made a prompt too long.
    """
    sentences = [f"New in this version: {late}." for late in late_arrivals] + images.limitations()
    if cut_to_fit:
        sentences.append(
            f"Images given to the model: only {len(images.images)}; the prompt would be too long for more."
        )
    return [*sentences, *_of_warnings(images), *_of_orientation(parts), *_of_parts(parts, indexed=indexed)]


def _of_parts(parts: Sequence[ReadPart], *, indexed: bool) -> Iterator[str]:
    """Yield the sentences of the parts, with its name if a sentence does not concern all of them."""
    of_each = [list(_of_part(part, indexed=indexed)) for part in parts]
    common = set.intersection(*map(set, of_each))
    yield from (sentence for sentence in of_each[0] if sentence in common)
    for part, sentences in zip(parts, of_each, strict=True):
        yield from (_with_name(part, parts, sentence) for sentence in sentences if sentence not in common)


def _of_part(part: ReadPart, *, indexed: bool) -> Iterator[str]:
    if part.finish_reason in _CUT_OFF:
        yield _CUT_OFF[part.finish_reason]
    if part.analysed and not (indexed and part.retrieval.validated):
        yield _not_validated(part, indexed=indexed)
    if not indexed:
        yield f"{_NOT_QUOTED}: no reference index exists for this model."
    elif part.images.informative:
        # Images without diagnostic information are not compared.
        yield from _of_retrieval(part.images, part.retrieval)
        yield from _of_cases(part)


def _not_validated(part: ReadPart, *, indexed: bool) -> str:
    name, measured = image_name(part.images.modality, part.images.body_part), part.retrieval.validation
    cases = f"{measured.cases} {name} cases of this site's archive"
    if not indexed:
        why = "no reference index exists for this model"
    elif measured.cases < MIN_CASES:
        why = f"the model's reading of {name} images was not measured on this site's archive"
    elif not measured.measured:
        why = f"the reports of {cases} state only {measured.reported} findings, too few to measure the model's reading"
    else:
        why = f"on {cases} the model reached a strict F1 of {measured.f1:.2f}"
    return f"Not validated here: {why}. {_VERIFY}."


def _of_cases(part: ReadPart) -> Iterator[str]:
    """Yield the sentences about the evidence of a part: cases that were not quoted, and little evidence."""
    if same := part.retrieval.same_images:
        one, several = "An earlier case was not quoted: it shows", f"{same} earlier cases were not quoted: they show"
        cases = one if same == 1 else several
        yield f"{cases} the same images under another identity; {_SAME_PATIENT}."
    if erased := len(part.retrieval.similar) - len(part.cases):
        found = len(part.retrieval.similar)
        yield f"{erased} of {found} similar earlier cases were erased before they could be quoted."
    concerned: dict[str, list[int]] = {}
    for number, case in enumerate(part.cases, start=part.first_case):
        for warning in case.warnings:
            concerned.setdefault(warning, []).append(number)
    for warning, numbers in concerned.items():
        yield f"Similar earlier case {', '.join(map(str, numbers))}: {warning}."
    if not (part.cases and part.retrieval.ood):
        return
    if part.retrieval.ood.reference_images < MIN_REFERENCE_IMAGES:
        count = part.retrieval.ood.reference_images
        yield f"{_WEAK}: the reference index has only {count} images of modality {part.images.modality}."
    if (nearest := part.cases[0].similarity) < MIN_SIMILARITY:
        yield f"{_WEAK}: the nearest case is hardly similar (similarity {nearest:.3f})."


def _of_warnings(images: StudyImages) -> Iterator[str]:
    """Yield one sentence for each warning, with the images it concerns."""
    concerned: dict[str, list[int]] = {}
    for number, image in enumerate(images.images, start=1):
        for warning in image.warnings:
            concerned.setdefault(warning, []).append(number)
    for warning, numbers in concerned.items():
        yield f"{_named(numbers)} {'are' if len(numbers) > 1 else 'is'} {warning}."


def _of_orientation(parts: Sequence[ReadPart]) -> Iterator[str]:
    """Yield one sentence for each problem, with the images it concerns."""
    concerned: dict[str, list[int]] = {}
    for part in parts:
        for number, image in enumerate(part.images.images, start=part.images.first):
            if image.orientation_problem and part.analysed:
                concerned.setdefault(image.orientation_problem, []).append(number)
    for problem, numbers in concerned.items():
        yield f"{_named(numbers)}: {problem}; {_SIDES}."


def _named(numbers: Sequence[int]) -> str:
    """Return the name of some images: "Image 2", "Images 1 to 8", "Images 1, 3 and 4"."""
    if len(numbers) == 1:
        return f"Image {numbers[0]}"
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:  # noqa: PLR2004 - two are "1 and 2"
        return f"Images {numbers[0]} to {numbers[-1]}"
    return f"Images {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _of_retrieval(images: PartImages, retrieval: Retrieval) -> Iterator[str]:
    ood, modality = retrieval.ood, images.modality
    if ood is None:
        yield f"{_NOT_QUOTED}: the reference index has too few cases of modality {modality}."
    elif retrieval.rejected:
        yield f"The images were not analysed: all are out of distribution for modality {modality} ({_scores(ood)})."
        yield "If the images are correct, the study must be read without a preliminary report; contact the operator."
    elif not ood.in_distribution:
        yield f"All images are out of distribution for modality {modality} ({_scores(ood)})."
        yield f"{_NOT_QUOTED}: all images are out of distribution; the report may be unreliable."
    else:
        if ood.resembled_part:
            said, seen = image_name(modality, images.body_part), image_name(modality, ood.resembled_part)
            yield f"The header says {said}; the images resemble {seen} images. {_CHECK}."
        if retrieval.below_threshold is not None:
            similarity = f"similarity {retrieval.below_threshold:.3f}, threshold {ood.min_similarity:.3f}"
            yield f"{_NOT_QUOTED}: the nearest case of modality {modality} is not similar enough ({similarity})."
        for index, score in enumerate(ood.scores):
            if index not in ood.in_distribution:
                number = images.first + index
                measured = f"score {score:.2f}, threshold {ood.threshold:.2f}"
                yield f"Image {number} was not used for retrieval: out of distribution ({measured})."


def _scores(ood: OodResult) -> str:
    low, high = f"{min(ood.scores):.2f}", f"{max(ood.scores):.2f}"
    scores = f"score {low}" if low == high else f"scores {low} to {high}"
    return f"{scores}, threshold {ood.threshold:.2f}"
