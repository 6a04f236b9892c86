"""Make the draft of a study's report: images, similar cases, prompt, generation.

A plain class over a model and an index, both fakeable. Without Celery, Postgres and torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from db.reports.storable import storable_text
from db.reports.versions import Draft
from worker.findings.labeller import LABELLER_VERSION
from worker.grounding.calibration import of_report
from worker.grounding.grounds import GeneratedText, grounds_by_part, merged
from worker.grounding.requested import comparison
from worker.images.encode import encoded
from worker.limitations import ReadPart, basis_of, fixed_text, limitations
from worker.model.engine.request import Request
from worker.model.port import wait
from worker.pipeline import case_0
from worker.pipeline.checking import checked, shown_nevertheless
from worker.pipeline.part import Part, grounded, sections_of
from worker.pipeline.steps import Steps
from worker.pipeline.study_reader import StudyReader, versions
from worker.prompting import wording
from worker.prompting.fitting import Subject, fitted
from worker.prompting.report import QuotedCase
from worker.prompting.report_text import joined

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from db.answers.answer import Choice, Prediction, Question
    from db.reports.versions import CheckResult, QuotedDraft, Shown
    from worker.images.study import StoredInstance
    from worker.images.study_images import PartImages, StudyImages


@dataclass(frozen=True, slots=True)
class StudyToReport:
    """A study's files and attributes; of the patient only fingerprints, by which its own cases are not quoted."""

    instances: Sequence[StoredInstance]
    modality: str = ""
    body_part: str = ""
    patient_hashes: frozenset[str] = frozenset()
    study_hash: str = ""
    #: M or F, for the check of the text; empty for any other value. Never logged, and no part of a prompt.
    patient_sex: str = field(default="", repr=False)
    #: Reason for the examination and requested procedure, to compare the text with. Never logged, no part of a prompt.
    imaging_request: str = field(default="", repr=False)
    #: Called AE titles that its images were sent to.
    called_ae_titles: frozenset[str] = frozenset()
    #: Sentences about images added since the previous version, from db.studies.lifecycle.
    late_arrivals: Sequence[str] = ()
    #: Sentences about the identity of the study (db.studies.identity) and a broken transfer (transfers).
    corrections: Sequence[str] = ()
    #: Sentences about objects that are no images, from db.studies.other_objects.
    not_images: Sequence[str] = ()
    #: Question, or diagnoses to choose from; None: its report.
    inquiry: Question | Choice | None = field(default=None, repr=False)
    #: Of specialist models, for a diagnosis.
    predictions: Sequence[Prediction] = ()
    #: Of specialist models, for a report; the latest first. An inquiry ignores them.
    drafts: Sequence[QuotedDraft] = ()


@dataclass(slots=True)
class _Run:
    """Results of the steps of one run."""

    study: StudyToReport
    images: StudyImages
    shown: list[Shown]
    parts: list[Part]
    seconds: dict[str, float]
    #: True if images were lost because a prompt would have been too long.
    cut_to_fit: bool = False


@dataclass(frozen=True, slots=True)
class Pipeline(StudyReader):
    """The steps from a study to its draft."""

    def run(self, study: StudyToReport, on_progress: Callable[[], None]) -> Draft:
        """Write the report of *study*.

        *on_progress* is called whenever the work has progressed; its errors end the run. Raises NotReportable if the
        images cannot make a report, TransientFailure if the model returned none this time.
        """
        steps = Steps(on_progress)
        images, cut = self.images(study, lambda part: self._subject(part).prompt(), self._answer_tokens, steps)
        # Before the text is written, so that nothing slow lies between text and commit.
        shown = encoded(images, on_progress)
        steps.ended("encode")
        alone = len(images.parts) == 1
        parts = [self._compared(study, part, steps, alone=alone) for part in images.parts]
        self._generate(parts, steps)
        return self._draft(_Run(study, images, shown, parts, steps.seconds, cut_to_fit=cut))

    @property
    def _answer_tokens(self) -> int:
        return self.settings.model.max_new_tokens

    def _subject(self, part: PartImages) -> Subject:
        return Subject(wording.version_of(self.model.prompt_version), part.modality, part.body_part)

    def _compared(self, study: StudyToReport, images: PartImages, steps: Steps, *, alone: bool) -> Part:
        """Retrieve the similar cases of a part; its text, if the model must not read the part.

        *alone* if the study has no other part.
        """
        retrieval = self.retrieve(study, images, steps)
        similar = self.similar(retrieval)
        prompt = fitted(
            self._subject(images),
            [QuotedCase(case.excerpt, case.similarity) for case in similar],
            draft=case_0.given(study.drafts, alone=alone),
            tokens=self.model.text_tokens,
            fits=lambda prompt: self.fits(prompt, images, len(images.images), self._answer_tokens),
        )
        pairs = zip(similar, prompt.quoted, strict=True)
        quoted = [replace(case, quoted=line.text, warnings=list(line.warnings)) for case, line in pairs]
        steps.ended("quote")
        return Part(
            images,
            retrieval,
            prompt,
            quoted,
            fixed_text(images, retrieval, withhold=self.settings.retrieval.not_validated == "withhold"),
            certificate=self.standing.certificate,
        )

    def _generate(self, parts: Sequence[Part], steps: Steps) -> None:
        """Let the model write the text of each part without one; the engine generates them in one batch."""
        submitted = []
        for part in parts:
            if part.text is None:
                part.request = self._request(part)
                submitted.append((part, self.model.submit(part.request)))
        steps.ended("prompt")
        try:
            for part, future in submitted:
                generation = wait(self.model, future, steps.on_progress)
                part.text, part.finish_reason = storable_text(generation.text), generation.finish_reason
                ends = self.model.token_ends(generation)
                part.generated = GeneratedText(generation.text, ends, generation.log_probs)
                steps.parts_of_generation(generation.timings)
        finally:
            for _, future in submitted:
                future.cancel()
        steps.ended("generation")

    def _request(self, part: Part) -> Request:
        prompt, pixels = part.prompt.prompt, [image.pixels for image in part.images.images]
        # The answer gives way last: a prompt of one image without cases may leave less than its usual length.
        room = self.model.context_tokens - self.model.prompt_tokens(prompt, pixels)
        limit = min(self.settings.model.max_new_tokens, max(room, 1))
        seconds = self.settings.model.report_deadline_seconds
        return Request(prompt, pixels, max_new_tokens=limit, deadline_seconds=seconds)

    def _draft(self, run: _Run) -> Draft:
        sections = sections_of([part.images.name for part in run.parts], [part.text or "" for part in run.parts])
        findings, impression = joined(sections)
        parts = _read_parts(run.parts)
        grounds = grounds_by_part(list(grounded(run.parts, sections)), findings, impression)
        found = merged(grounds)
        standing = of_report(self.standing, found)
        checks = checked(run.parts, sections, grounds, run.study.patient_sex)
        draft = case_0.of_report(run.study.drafts, run.parts)
        return Draft(
            findings=findings,
            impression=impression,
            basis=basis_of(parts),
            limitations=self._limitations(run, parts, checks, draft),
            prompt_version=self.model.prompt_version,
            model_digest=self.model.digest,
            provenance=self._provenance(run)
            | {"calibration": standing.figures(), "specialist_draft": case_0.provenance(draft)}
            | comparison(run.study.imaging_request, f"{findings}\n{impression}"),
            evidence=[quoted for part in run.parts for quoted in part.quoted],
            specialist_draft=draft,
            images=run.shown,
            grounds=replace(found, calibration=standing.status),
            checks=checks,
        )

    def _limitations(
        self, run: _Run, parts: Sequence[ReadPart], checks: Sequence[CheckResult], draft: QuotedDraft | None
    ) -> list[str]:
        """Return the sentences about the limits of the report, in the order in which they are shown."""
        return [
            *run.study.corrections,
            *shown_nevertheless(checks, self.settings.model.blocking_checks),
            *case_0.limitations(run.study.drafts, draft),
            *limitations(
                run.images,
                parts,
                indexed=self.index is not None,
                late_arrivals=run.study.late_arrivals,
                cut_to_fit=run.cut_to_fit,
            ),
            *run.study.not_images,
        ]

    def _provenance(self, run: _Run) -> dict[str, Any]:
        # Keys are published by the API: stable. Those of the first part stand beside those of the study.
        parts = [
            {"name": part.images.name, "images": len(part.images.images), "evidence": len(part.quoted)}
            | part.provenance()
            for part in run.parts
        ]
        return {
            **run.parts[0].provenance(),
            "parts": parts,
            "index_snapshot": self.index.snapshot if self.index else None,
            "orientation": [image.transform.get("orientation") for image in run.images.images],
            "seconds": run.seconds,
            "versions": versions(),
            "labeller": LABELLER_VERSION,
            "model": {
                **self.model.setup,
                "context_tokens": self.model.context_tokens,
                "images_per_study": self.settings.model.images_per_study,
                "retrieved_cases": self.settings.retrieval.retrieved_cases,
            },
        }


def _read_parts(parts: Sequence[Part]) -> list[ReadPart]:
    """Return the parts with the number of the first quoted case of each among those of the report."""
    firsts = accumulate((len(part.quoted) for part in parts), initial=1)
    return [
        ReadPart(part.images, part.retrieval, part.finish_reason, part.quoted, first)
        for part, first in zip(parts, firsts, strict=False)
    ]
