"""Read a study for an inquiry: images, similar cases, gate, and the part of a result that all inquiries share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from db.answers.answer import NeighbourCase, ShownImage
from worker.findings.labeller import LABELLER_VERSION, sentences
from worker.grounding.support import QuotedReport
from worker.limitations import ReadPart, basis_of, fixed_text, limitations
from worker.model.port import wait
from worker.pipeline.part import picture_of
from worker.pipeline.study_reader import versions
from worker.prompting.fitting import prompt_digest
from worker.prompting.report_text import split_report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from db.reports.versions import Quoted
    from worker.grounding.picture import Picture
    from worker.images.study_images import PartImages, StudyImages
    from worker.model.engine.request import FinishReason, Generation, Request
    from worker.pipeline.pipeline import StudyToReport
    from worker.pipeline.steps import Steps
    from worker.pipeline.study_reader import StudyReader
    from worker.retrieval.retrieve import Retrieval


@dataclass(slots=True)
class PartForInquiry:
    """A part of a study, its similar cases, and why the model must not read it; empty if it may."""

    images: PartImages
    retrieval: Retrieval
    similar: Sequence[Quoted]
    #: Number of its first case among those of the result, from 1.
    first_case: int
    refusal: str
    picture: Picture
    finish_reason: FinishReason = "stop"

    @property
    def places(self) -> range:
        """Places of its cases among those of the result, from 0."""
        return range(self.first_case - 1, self.first_case - 1 + len(self.similar))

    @property
    def pixels(self) -> list[npt.NDArray[np.uint8]]:
        """The images as the model receives them."""
        return [image.pixels for image in self.images.images]

    @property
    def reports(self) -> list[QuotedReport]:
        """The reports of the similar cases."""
        return [
            QuotedReport(rank, sentences(case.excerpt)) for rank, case in enumerate(self.similar, start=self.first_case)
        ]


@dataclass(frozen=True, slots=True)
class StudyForInquiry:
    """A study as it is read for an inquiry."""

    study: StudyToReport
    images: StudyImages
    parts: list[PartForInquiry]
    steps: Steps
    #: True if images were lost because a prompt would have been too long.
    cut_to_fit: bool

    @property
    def readable(self) -> list[PartForInquiry]:
        """Parts that the model may read."""
        return [part for part in self.parts if not part.refusal]

    @property
    def refusals(self) -> str:
        """Sentences about the parts that the model must not read."""
        return " ".join(dict.fromkeys(part.refusal for part in self.parts if part.refusal))

    @property
    def unread(self) -> list[str]:
        """Sentences about parts that were not read beside others; the gate has sentences of its own."""
        refused = [part for part in self.parts if part.refusal and not part.retrieval.rejected]
        return [f"{part.images.name}: {part.refusal}" for part in refused] if self.readable else []


def read_study(
    reader: StudyReader,
    study: StudyToReport,
    prompt_of: Callable[[PartImages], str],
    answer_tokens: int,
    steps: Steps,
) -> StudyForInquiry:
    """Return the images of a study and their similar cases; arguments as those of StudyReader.images."""
    images, cut = reader.images(study, prompt_of, answer_tokens, steps)
    parts: list[PartForInquiry] = []
    for one in images.parts:
        first = 1 + sum(len(part.similar) for part in parts)
        parts.append(_read_part(reader, study, one, first, steps))
    return StudyForInquiry(study, images, parts, steps, cut)


def generations(reader: StudyReader, requests: Sequence[Request], steps: Steps) -> list[Generation]:
    """Return the answers of the model to *requests*, which run in one batch."""
    submitted = [reader.model.submit(request) for request in requests]
    try:
        found = [wait(reader.model, future, steps.on_progress) for future in submitted]
    finally:
        for future in submitted:
            future.cancel()
    for generation in found:
        steps.parts_of_generation(generation.timings)
    steps.ended("generation")
    return found


def _read_part(
    reader: StudyReader, study: StudyToReport, images: PartImages, first_case: int, steps: Steps
) -> PartForInquiry:
    retrieval = reader.retrieve(study, images, steps)
    similar = reader.similar(retrieval)
    withhold = reader.settings.retrieval.not_validated == "withhold"
    refusal = split_report(fixed_text(images, retrieval, withhold=withhold) or "")[0]
    picture = picture_of(images, retrieval, reader.standing.certificate)
    return PartForInquiry(images, retrieval, similar, first_case, refusal, picture)


def shared_fields(
    reader: StudyReader,
    read: StudyForInquiry,
    requests: Sequence[Request],
    scaling: dict[str, Any],
) -> dict[str, Any]:
    """Return the fields of a result that do not depend on the inquiry."""
    parts = [
        ReadPart(part.images, part.retrieval, part.finish_reason, part.similar, part.first_case) for part in read.parts
    ]
    return {
        "basis": basis_of(parts),
        "prompt_version": reader.model.prompt_version,
        "model_digest": reader.model.digest,
        "provenance": _provenance(reader, read, requests, scaling),
        "evidence": [
            NeighbourCase(case.case_id, case.similarity, case.excerpt) for part in read.parts for case in part.similar
        ],
        "images": [
            ShownImage(number, image.sop_instance_uid, image.frame, image.reason, list(image.warnings))
            for number, image in enumerate(read.images.images, start=1)
        ],
        "limitations": [
            *read.study.corrections,
            *read.unread,
            *limitations(
                read.images, parts, indexed=reader.index is not None, late_arrivals=(), cut_to_fit=read.cut_to_fit
            ),
            *read.study.not_images,
        ],
    }


def _provenance(
    reader: StudyReader, read: StudyForInquiry, requests: Sequence[Request], scaling: dict[str, Any]
) -> dict[str, Any]:
    return {
        "parts": [
            {
                "name": part.images.name,
                "images": len(part.images.images),
                "refused": part.retrieval.rejected,
                "evidence": len(part.similar),
                "z": part.retrieval.ood.scores if part.retrieval.ood else None,
            }
            for part in read.parts
        ],
        "prompts": [prompt_digest(request.question) for request in requests],
        "calibration": scaling,
        "index_snapshot": reader.index.snapshot if reader.index else None,
        "seconds": read.steps.seconds,
        "versions": versions(),
        "labeller": LABELLER_VERSION,
        "model": {
            **reader.model.setup,
            "context_tokens": reader.model.context_tokens,
            "images_per_study": reader.settings.model.images_per_study,
            "retrieved_cases": reader.settings.retrieval.retrieved_cases,
        },
    }
