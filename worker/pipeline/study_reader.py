"""Steps that a report and the answers to inquiries share: a study's images, and their similar earlier cases."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from db.answers.scaling import UNSCALED
from db.errors import Reason, TransientFailure
from db.release import release
from db.reports.certificates import NOT_CALIBRATED, Standing
from db.reports.versions import Quoted
from worker.images.study import images_of
from worker.retrieval.retrieve import Query, Retrieval
from worker.retrieval.retrieve import retrieve as compare

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping, Sequence

    import numpy.typing as npt

    from db.answers.scaling import ScalingOfTask
    from db.settings import Settings
    from db.states import JobKind
    from worker.images.study_images import PartImages, StudyImages
    from worker.model.port import Model
    from worker.pipeline.pipeline import StudyToReport
    from worker.pipeline.steps import Steps
    from worker.retrieval.retrieve import Index

    #: Report texts by case id; a case deleted since the snapshot was built is missing.
    ReadReports = Callable[[Sequence[uuid.UUID]], Mapping[uuid.UUID, str]]


@dataclass(frozen=True, slots=True)
class StudyReader:
    """Reads studies with one model and the reference index built with it, if it has one."""

    model: Model
    index: Index | None
    read_reports: ReadReports
    settings: Settings
    #: Standing of the verdicts with exactly this model, prompt, index and labeller.
    standing: Standing = NOT_CALIBRATED
    #: Scaling of the confidence of answers with the same, by task.
    scaling: Mapping[JobKind, ScalingOfTask] = field(default_factory=dict)

    def scaling_of(self, task: JobKind) -> ScalingOfTask:
        """Return the scaling of a task; that of an uncalibrated one changes nothing."""
        return self.scaling.get(task, UNSCALED)

    def images(
        self, study: StudyToReport, prompt_of: Callable[[PartImages], str], answer_tokens: int, steps: Steps
    ) -> tuple[StudyImages, bool]:
        """Return the images of the study; True if a prompt would be too long with all of the budget.

        *prompt_of* returns the shortest prompt of a part, beside which *answer_tokens* must fit.
        """
        budget = self.settings.model.images_per_study
        while True:
            images = images_of(
                study.instances,
                budget=budget,
                on_progress=steps.on_progress,
                on_headers_read=lambda: steps.ended("headers"),
            )
            steps.ended("render")
            excess = max(self._excess(prompt_of(part), part, answer_tokens) for part in images.parts)
            if not excess:
                return images, budget < self.settings.model.images_per_study
            budget = len(images.images) - excess

    def _excess(self, prompt: str, part: PartImages, answer_tokens: int) -> int:
        """Return the number of images by which the prompt of a part is too long; one image always remains."""
        count = len(part.images)
        fitting = (lost for lost in range(count - 1) if self.fits(prompt, part, count - lost, answer_tokens))
        return next(fitting, count - 1)

    def fits(self, prompt: str, part: PartImages, count: int, answer_tokens: int) -> bool:
        """Return whether *prompt* with the first *count* images of a part leaves room for *answer_tokens*."""
        pixels = [image.pixels for image in part.images[:count]]
        return self.model.context_tokens - self.model.prompt_tokens(prompt, pixels) >= answer_tokens

    def retrieve(self, study: StudyToReport, images: PartImages, steps: Steps) -> Retrieval:
        """Return the comparison of a part's images with the reference index."""
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
        found = compare(
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

    def similar(self, retrieval: Retrieval) -> list[Quoted]:
        """Return the similar cases, best first, without those erased meanwhile."""
        if not retrieval.similar:
            return []
        texts = self.read_reports([case.case_id for case in retrieval.similar])
        similar = [case for case in retrieval.similar if case.case_id in texts]
        return [Quoted(case.case_id, case.similarity, texts[case.case_id]) for case in similar]


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions of this program and of the libraries that can change a text."""
    libraries = ("torch", "transformers", "pydicom", "numpy", "pillow")
    return {"prelim": release()} | {name: version(name) for name in libraries}
