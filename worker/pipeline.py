"""Make the draft of a study's report: images, similar cases, prompt, generation.

A plain class over a model and an index, both fakeable. Without Celery, Postgres and torch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from db.errors import Reason, TransientFailure
from db.reports.versions import Draft, Quoted, Shown
from worker.images import encode
from worker.images.study import images_of
from worker.limitations import basis_of, fixed_text, limitations
from worker.model.engine.request import Request
from worker.prompting import wording
from worker.prompting.report import QuotedCase, report_prompt, split_report
from worker.retrieval.retrieve import Query, Retrieval, retrieve

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    import numpy.typing as npt

    from db.settings import Settings
    from worker.images.study import StoredInstance
    from worker.images.study_images import RenderedImage, StudyImages
    from worker.model.engine.request import FinishReason, Generation, Timings
    from worker.retrieval.retrieve import Index

    #: Report texts by case id; a case deleted since the snapshot was built is missing.
    ReadReports = Callable[[Sequence[uuid.UUID]], Mapping[uuid.UUID, str]]

#: Interval at which the waiting thread checks the engine's progress, in seconds: a small part of any lease.
PROGRESS_POLL_SECONDS = 0.5


class Model(Protocol):
    """A model that serves requests: worker.model.resident_model.ResidentModel, or a fake."""

    @property
    def digest(self) -> str:
        """Digest of the weights."""

    @property
    def progress(self) -> int:
        """Number of steps the engine has made, for any request."""

    def patch_tokens(self, images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Return vision tokens for retrieval: [images, layers, patches, channels]."""

    def submit(self, request: Request) -> Future[Generation]:
        """Start to generate an answer."""


@dataclass(frozen=True, slots=True)
class StudyToReport:
    """A study's files and attributes; of the patient only fingerprints, by which its own cases are not quoted."""

    instances: Sequence[StoredInstance]
    modality: str = ""
    body_part: str = ""
    patient_hash: str = ""
    study_hash: str = ""
    #: Called AE titles that its images were sent to.
    called_ae_titles: frozenset[str] = frozenset()
    #: Sentences about images added since the previous version, from db.studies.lifecycle.
    late_arrivals: Sequence[str] = ()
    #: Sentences about corrected demographics, from db.studies.conflicts.
    corrections: Sequence[str] = ()


class _Answer(NamedTuple):
    text: str
    finish_reason: FinishReason = "stop"


@dataclass(slots=True)
class _Run:
    """Results of the steps of one run."""

    study: StudyToReport
    images: StudyImages
    shown: list[Shown]
    retrieval: Retrieval
    quoted: list[Quoted]
    answer: _Answer
    seconds: dict[str, float]


@dataclass(slots=True)
class _Steps:
    """Seconds of each step, stored with the report; the end of a step is progress."""

    on_progress: Callable[[], None]
    seconds: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)

    def ended(self, step: str) -> None:
        now = time.monotonic()
        # A step may be repeated, once for each part of a study.
        self.seconds[step] = round(self.seconds.get(step, 0.0) + now - self._since, 4)
        self._since = now
        self.on_progress()

    def parts_of_generation(self, timings: Timings) -> None:
        for part in ("queue", "vision", "prefill"):
            self.seconds[f"generation_{part}"] = round(getattr(timings, part), 4)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The steps from a study to its draft, over one model and the reference index built with it, if it has one."""

    model: Model
    index: Index | None
    read_reports: ReadReports
    settings: Settings

    def run(self, study: StudyToReport, on_progress: Callable[[], None]) -> Draft:
        """Write the report of *study*.

        *on_progress* is called whenever the work has progressed; its errors end the run. Raises NotReportable if the
        images cannot make a report, TransientFailure if the model returned none this time.
        """
        steps = _Steps(on_progress)
        images = self._images(study, steps)
        shown = _encoded(images, on_progress)
        steps.ended("encode")
        retrieval = self._retrieve(study, images, steps)
        quoted = self._quote(retrieval)
        steps.ended("quote")
        text = fixed_text(images, retrieval)
        answer = self._generate(images, quoted, steps) if text is None else _Answer(text)
        return self._draft(_Run(study, images, shown, retrieval, quoted, answer, steps.seconds))

    def _images(self, study: StudyToReport, steps: _Steps) -> StudyImages:
        images = images_of(
            study.instances,
            budget=self.settings.model.images_per_study,
            on_progress=steps.on_progress,
            on_headers_read=lambda: steps.ended("headers"),
        )
        steps.ended("render")
        return images

    def _retrieve(self, study: StudyToReport, images: StudyImages, steps: _Steps) -> Retrieval:
        if self.index is None or not images.informative:
            return Retrieval()
        tokens = self._patch_tokens(images, steps.on_progress)
        steps.ended("patch_tokens")
        query = Query(tokens, images.modality, images.body_part, study.patient_hash, study.study_hash)
        settings = self.settings.retrieval
        found = retrieve(self.index, query, count=settings.retrieved_cases, ood_reject=settings.ood_reject)
        steps.ended("retrieval")
        return found

    def _patch_tokens(self, images: StudyImages, on_progress: Callable[[], None]) -> npt.NDArray[np.float32]:
        """Return the vision tokens of the images, one image at a time: each of them is progress."""
        parts = []
        for image in images.images:
            parts.append(self.model.patch_tokens([image.pixels]))
            on_progress()
        tokens = np.concatenate(parts)
        if not np.isfinite(tokens).all():
            raise TransientFailure(Reason.MODEL_ERROR, "the model's vision tower returned non-finite numbers")
        return tokens

    def _quote(self, retrieval: Retrieval) -> list[Quoted]:
        if not retrieval.similar:
            return []
        texts = self.read_reports([case.case_id for case in retrieval.similar])
        similar = [case for case in retrieval.similar if case.case_id in texts]
        return [Quoted(case.case_id, case.similarity, texts[case.case_id]) for case in similar]

    def _generate(self, images: StudyImages, quoted: Sequence[Quoted], steps: _Steps) -> _Answer:
        cases = [QuotedCase(case.excerpt, case.similarity) for case in quoted]
        request = Request(
            report_prompt(images.modality, images.body_part, cases),
            [image.pixels for image in images.images],
            max_new_tokens=self.settings.model.max_new_tokens,
            deadline_seconds=self.settings.model.report_deadline_seconds,
        )
        future = self.model.submit(request)
        steps.ended("prompt")
        generation = self._wait(future, steps.on_progress)
        steps.ended("generation")
        steps.parts_of_generation(generation.timings)
        return _Answer(generation.text, generation.finish_reason)

    def _wait(self, future: Future[Generation], on_progress: Callable[[], None]) -> Generation:
        """Wait for the answer; report progress only while the engine steps, so that a hanging engine loses its leases.

        Steps for any request count, not only this one's tokens: a request that waits for a free slot keeps its lease.
        """
        progress = self.model.progress
        try:
            while True:
                try:
                    return future.result(timeout=PROGRESS_POLL_SECONDS)
                except TimeoutError:
                    if future.done():
                        raise
                    if self.model.progress > progress:
                        progress = self.model.progress
                        on_progress()
        finally:
            future.cancel()

    def _draft(self, run: _Run) -> Draft:
        findings, impression = split_report(run.answer.text)
        if not findings and not impression:
            raise TransientFailure(Reason.EMPTY_REPORT, "the model returned no text")
        return Draft(
            findings=findings,
            impression=impression,
            basis=basis_of(run.images, run.retrieval),
            limitations=[
                *run.study.corrections,
                *limitations(
                    run.images,
                    run.retrieval,
                    indexed=self.index is not None,
                    finish_reason=run.answer.finish_reason,
                    late_arrivals=run.study.late_arrivals,
                ),
            ],
            prompt_version=wording.VERSION,
            model_digest=self.model.digest,
            provenance=self._provenance(run),
            evidence=run.quoted,
            images=run.shown,
        )

    def _provenance(self, run: _Run) -> dict[str, Any]:
        # Keys are published by the API: stable.
        ood = run.retrieval.ood
        return {
            "text": run.answer.text,
            "finish_reason": run.answer.finish_reason,
            "modality": run.images.modality,
            "body_part": run.images.body_part,
            "index_snapshot": self.index.snapshot if self.index else None,
            "z": ood.scores if ood else None,
            "least_similarity": ood.min_similarity if ood else None,
            "refused": run.retrieval.rejected,
            "orientation": [image.transform.get("orientation") for image in run.images.images],
            "seconds": run.seconds,
            "versions": _versions(),
        }


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("prelim", "torch", "transformers", "pydicom", "numpy", "pillow")}


def _encoded(images: StudyImages, on_progress: Callable[[], None]) -> list[Shown]:
    """Encode the images for storage: before the text is written, so that nothing slow lies between text and commit."""
    shown = []
    for image in images.images:
        shown.append(_shown(image))
        on_progress()
    return shown


def _shown(image: RenderedImage) -> Shown:
    return Shown(
        png=encode.png(image.pixels),
        sop_instance_uid=image.sop_instance_uid,
        frame=image.frame,
        reason=image.reason,
        transform=image.transform,
        warnings=list(image.warnings),
    )
