"""Make the draft of a study's report: images, similar cases, prompt, generation.

A plain class over a model and an index, both fakeable. Without Celery, Postgres and torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from db.errors import Reason, TransientFailure
from db.reports.certificates import NOT_CALIBRATED, Standing
from db.reports.storable import storable_text
from db.reports.versions import Draft, Quoted
from worker.findings.labeller import LABELLER_VERSION
from worker.grounding.calibration import of_report
from worker.grounding.grounds import GeneratedText, grounds_by_part, merged
from worker.images.encode import encoded
from worker.images.study import images_of
from worker.limitations import ReadPart, basis_of, fixed_text, limitations
from worker.model.engine.request import Request
from worker.model.port import wait
from worker.pipeline.checking import checked, shown_nevertheless
from worker.pipeline.part import Part, grounded, sections_of
from worker.pipeline.steps import Steps
from worker.prompting import wording
from worker.prompting.fitting import Subject, fitted
from worker.prompting.report import QuotedCase
from worker.prompting.report_text import joined
from worker.retrieval.retrieve import Query, Retrieval, retrieve

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from db.answers.answer import Choice, Question
    from db.reports.versions import Shown
    from db.settings import Settings
    from worker.images.study import StoredInstance
    from worker.images.study_images import PartImages, StudyImages
    from worker.model.port import Model
    from worker.retrieval.retrieve import Index

    #: Report texts by case id; a case deleted since the snapshot was built is missing.
    ReadReports = Callable[[Sequence[uuid.UUID]], Mapping[uuid.UUID, str]]


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
class Pipeline:
    """The steps from a study to its draft, over one model and the reference index built with it, if it has one."""

    model: Model
    index: Index | None
    read_reports: ReadReports
    settings: Settings
    #: Standing of the verdicts with exactly this model, prompt, index and labeller.
    standing: Standing = NOT_CALIBRATED

    def run(self, study: StudyToReport, on_progress: Callable[[], None]) -> Draft:
        """Write the report of *study*.

        *on_progress* is called whenever the work has progressed; its errors end the run. Raises NotReportable if the
        images cannot make a report, TransientFailure if the model returned none this time.
        """
        steps = Steps(on_progress)
        images, cut = self._images(study, steps)
        # Before the text is written, so that nothing slow lies between text and commit.
        shown = encoded(images, on_progress)
        steps.ended("encode")
        parts = [self._compared(study, part, steps) for part in images.parts]
        self._generate(parts, steps)
        return self._draft(_Run(study, images, shown, parts, steps.seconds, cut_to_fit=cut))

    def _images(self, study: StudyToReport, steps: Steps) -> tuple[StudyImages, bool]:
        """Return the images of the study; True if a prompt without cases would be too long with all of the budget."""
        budget = self.settings.model.images_per_study
        while True:
            images = images_of(
                study.instances,
                budget=budget,
                on_progress=steps.on_progress,
                on_headers_read=lambda: steps.ended("headers"),
            )
            steps.ended("render")
            excess = max(map(self._excess, images.parts))
            if not excess:
                return images, budget < self.settings.model.images_per_study
            budget = len(images.images) - excess

    def _excess(self, part: PartImages) -> int:
        """Return the number of images by which the prompt of a part is too long; one image always remains."""
        prompt = self._subject(part).prompt()
        count = len(part.images)
        return next((lost for lost in range(count - 1) if self._fits(prompt, part, count - lost)), count - 1)

    def _subject(self, part: PartImages) -> Subject:
        return Subject(wording.version_of(self.model.prompt_version), part.modality, part.body_part)

    def _fits(self, prompt: str, part: PartImages, count: int) -> bool:
        room = self.model.context_tokens - self._prompt_tokens(prompt, part, count)
        return room >= self.settings.model.max_new_tokens

    def _prompt_tokens(self, prompt: str, part: PartImages, count: int) -> int:
        return self.model.prompt_tokens(prompt, [image.pixels for image in part.images[:count]])

    def _compared(self, study: StudyToReport, images: PartImages, steps: Steps) -> Part:
        """Retrieve the similar cases of a part; its text, if the model must not read the part."""
        retrieval = self._retrieve(study, images, steps)
        similar = self._similar(retrieval)
        prompt = fitted(
            self._subject(images),
            [QuotedCase(case.excerpt, case.similarity) for case in similar],
            tokens=self.model.text_tokens,
            fits=lambda prompt: self._fits(prompt, images, len(images.images)),
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

    def _retrieve(self, study: StudyToReport, images: PartImages, steps: Steps) -> Retrieval:
        if self.index is None or not images.informative:
            return Retrieval()
        tokens = self._patch_tokens(images, steps.on_progress)
        steps.ended("patch_tokens")
        query = Query(
            tokens,
            images.modality,
            images.body_part,
            study.patient_hashes,
            study.study_hash,
            [image.pixels for image in images.images],
        )
        settings = self.settings.retrieval
        found = retrieve(
            self.index,
            query,
            count=settings.retrieved_cases,
            ood_reject=settings.ood_reject,
            min_validated_f1=settings.min_validated_f1,
        )
        steps.ended("retrieval")
        return found

    def _patch_tokens(self, images: PartImages, on_progress: Callable[[], None]) -> npt.NDArray[np.float32]:
        """Return the vision tokens of the images, one image at a time: each of them is progress."""
        parts = []
        for image in images.images:
            parts.append(self.model.patch_tokens([image.pixels]))
            on_progress()
        tokens = np.concatenate(parts)
        if not np.isfinite(tokens).all():
            raise TransientFailure(Reason.MODEL_ERROR, "the model's vision tower returned non-finite numbers")
        return tokens

    def _similar(self, retrieval: Retrieval) -> list[Quoted]:
        if not retrieval.similar:
            return []
        texts = self.read_reports([case.case_id for case in retrieval.similar])
        similar = [case for case in retrieval.similar if case.case_id in texts]
        return [Quoted(case.case_id, case.similarity, texts[case.case_id]) for case in similar]

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
        parts: list[ReadPart] = []
        for part in run.parts:
            first = 1 + sum(len(earlier.cases) for earlier in parts)
            parts.append(ReadPart(part.images, part.retrieval, part.finish_reason, part.quoted, first))
        grounds = grounds_by_part(list(grounded(run.parts, sections)), findings, impression)
        found = merged(grounds)
        standing = of_report(self.standing, found)
        checks = checked(run.parts, sections, grounds, run.study.patient_sex)
        overruled = shown_nevertheless(checks, self.settings.model.blocking_checks)
        limits = limitations(
            run.images,
            parts,
            indexed=self.index is not None,
            late_arrivals=run.study.late_arrivals,
            cut_to_fit=run.cut_to_fit,
        )
        return Draft(
            findings=findings,
            impression=impression,
            basis=basis_of(parts),
            limitations=[*run.study.corrections, *overruled, *limits, *run.study.not_images],
            prompt_version=self.model.prompt_version,
            model_digest=self.model.digest,
            provenance=self._provenance(run) | {"calibration": standing.figures()},
            evidence=[quoted for part in run.parts for quoted in part.quoted],
            images=run.shown,
            grounds=replace(found, calibration=standing.status),
            checks=checks,
        )

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
            "versions": _versions(),
            "labeller": LABELLER_VERSION,
            "model": {
                **self.model.setup,
                "context_tokens": self.model.context_tokens,
                "images_per_study": self.settings.model.images_per_study,
                "retrieved_cases": self.settings.retrieval.retrieved_cases,
            },
        }


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("prelim", "torch", "transformers", "pydicom", "numpy", "pillow")}
