"""One part of a study in a run: its images, similar cases and text, and what its findings are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from db.errors import Reason, TransientFailure
from worker.findings.labeller import sentences
from worker.grounding.calibration import margins
from worker.grounding.grounds import PartOfReport
from worker.grounding.picture import Picture
from worker.grounding.support import QuotedReport
from worker.limitations import NO_TEXT
from worker.prompting.fitting import prompt_digest
from worker.prompting.report_text import Section, split_report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from db.reports.certificates import Certificate
    from db.reports.versions import Quoted
    from worker.grounding.grounds import GeneratedText
    from worker.images.study_images import PartImages
    from worker.model.engine.request import FinishReason, Request
    from worker.prompting.fitting import Fitted
    from worker.retrieval.retrieve import Retrieval


@dataclass(slots=True)
class Part:
    """Results of the steps of one part of a study; *text* is set early if the model must not read it."""

    images: PartImages
    retrieval: Retrieval
    prompt: Fitted
    quoted: list[Quoted]
    text: str | None
    finish_reason: FinishReason = "stop"
    generated: GeneratedText | None = None
    #: What the model was asked; None if it must not read the images.
    request: Request | None = None
    #: Raises the thresholds of labels; None without a valid one.
    certificate: Certificate | None = None

    def picture(self) -> Picture:
        """Return the scores of the reference set's labels, by the numbers of the images in the report."""
        return picture_of(self.images, self.retrieval, self.certificate)

    def provenance(self) -> dict[str, Any]:
        """Return what reproduces the text of the part; keys are published by the API: stable."""
        ood = self.retrieval.ood
        return {
            "text": self.text,
            "finish_reason": self.finish_reason,
            "modality": self.images.modality,
            "body_part": self.images.body_part,
            "z": ood.scores if ood else None,
            "left_out_of_scores": self.retrieval.labels.left_out if self.retrieval.labels else None,
            "least_similarity": ood.min_similarity if ood else None,
            "refused": self.retrieval.rejected,
            "validation": self.retrieval.validation.figures() | {"validated": self.retrieval.validated},
            "prompt": self.request and self._of_prompt(self.request),
        }

    def _of_prompt(self, request: Request) -> dict[str, Any]:
        """Return what rebuilds the prompt, with the stored images and cases; none of their words."""
        return {
            "sha256": prompt_digest(request.question),
            "max_new_tokens": request.max_new_tokens,
            "deadline_seconds": request.deadline_seconds,
        }


def picture_of(part: PartImages, retrieval: Retrieval, certificate: Certificate | None) -> Picture:
    """Return the scores of the reference set's labels in a part, by the numbers of the images in the study."""
    labels, ood = retrieval.labels, retrieval.ood
    if labels is None or ood is None:
        return Picture()
    thresholds, omissions = labels.thresholds.tolist(), labels.omission_thresholds.tolist()
    images = [part.first + index for index in ood.in_distribution]
    return Picture(labels.names, thresholds, omissions, labels.shares, images, margins(certificate, labels.names))


def sections_of(names: Sequence[str], texts: Sequence[str]) -> list[Section]:
    """Return the sections of the parts; raises TransientFailure if the model returned no text for any part."""
    split = [split_report(text) for text in texts]
    if not any(findings or impression for findings, impression in split):
        raise TransientFailure(Reason.EMPTY_REPORT, "the model returned no text")
    return [Section(name, *(text if any(text) else (NO_TEXT, ""))) for name, text in zip(names, split, strict=True)]


def grounded(parts: Sequence[Part], sections: Sequence[Section]) -> Iterator[PartOfReport]:
    """Yield the parts of the report with what their findings are compared with."""
    rank = 0
    for part, section in zip(parts, sections, strict=True):
        reports = [QuotedReport(rank + n, sentences(case.excerpt)) for n, case in enumerate(part.quoted, start=1)]
        rank += len(reports)
        yield PartOfReport(*section, reports, part.picture(), part.generated)
