"""Study -> report: a plain function over a model and an index, so that both can be fakes.

images -> similar cases -> prompt -> generation -> draft. Nothing here knows Celery, Postgres or torch.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from db.errors import TransientFailure
from db.reports.versions import Draft, Quoted, Shown
from worker.images.study import images_of
from worker.limitations import basis_of, remarks_on
from worker.prompting import wording
from worker.prompting.report import QuotedCase, report_prompt, split_report

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    import numpy.typing as npt

    from worker.images.study import RenderedImage, StoredInstance, StudyImages
    from worker.retrieval.index import Neighbour
    from worker.retrieval.out_of_distribution import OodResult

#: How often the waiting thread looks whether the model has moved on, in seconds.
LOOK_SECONDS = 0.5


class Generation(Protocol):
    """What a model made of a request."""

    @property
    def text(self) -> str:
        """The words."""

    @property
    def finish_reason(self) -> str:
        """`stop` where the model ended by itself."""


class Model(Protocol):
    """What the reporter needs of a model."""

    @property
    def digest(self) -> str:
        """Of the weights."""

    def patch_tokens(self, images: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """What it sees at each place of each image, for the search: [images, layers, patches, channels]."""

    @property
    def progress(self) -> int:
        """Grows whenever the engine moves on, with whichever request."""

    def generate(self, question: str, images: Sequence[npt.NDArray[Any]]) -> Future[Any]:
        """Start to answer."""


class Index(Protocol):
    """What the reporter needs of a reference index."""

    snapshot: str

    def compare(self, tokens: npt.NDArray[Any], *, modality: str, body_part: str) -> OodResult | None:
        """Score images against the modality's reference images; None if there are too few."""

    def search(
        self, tokens: npt.NDArray[Any], *, modality: str, count: int, patient_hash: str, study_hash: str
    ) -> list[Neighbour]:
        """The most similar earlier cases, best first."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """Text that no model wrote."""

    text: str
    finish_reason: str = "stop"


#: An empty image must not inherit its neighbours' findings: the model is not asked about it.
NOT_DIAGNOSTIC = Sentence("Findings: The images hold no diagnostic information. Impression: Not diagnostic.")


@dataclass(frozen=True, slots=True)
class StudyToReport:
    """What a run needs to know of a study; no patient attributes, only fingerprints to leave out the patient's own."""

    instances: Sequence[StoredInstance]
    modality: str = ""
    body_part: str = ""
    patient_hash: str = ""
    study_hash: str = ""
    #: Our AE titles that its images were sent to.
    called_ae_titles: frozenset[str] = frozenset()
    #: What came after the version before this one was written.
    late_arrivals: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class References:
    """The earlier cases at hand: the index, and how to read the reports it points to."""

    index: Index | None
    #: Report texts by case id; a case erased since the snapshot is missing.
    read: Callable[[Sequence[uuid.UUID]], Mapping[uuid.UUID, str]]
    count: int = 3
    #: Whether images that are unlike all reference images get no findings.
    ood_reject: bool = True


@dataclass(frozen=True, slots=True)
class Grounding:
    """What the reference cases say about a study's images."""

    #: Comparison with the reference images; None if there are none to compare with.
    ood: OodResult | None = None
    quoted: list[Quoted] = field(default_factory=list)
    refused: bool = False
    #: Similarity of the nearest case, where that is too little for any to be quoted.
    too_little: float | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What the steps of one run made."""

    seen: StudyImages
    grounding: Grounding
    answer: Generation
    seconds: Mapping[str, float]


@dataclass(slots=True)
class Timings:
    """Seconds per step, kept with the report."""

    seconds: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)

    def lap(self, step: str) -> None:
        """End a step."""
        now = time.monotonic()
        self.seconds[step], self._since = round(now - self._since, 4), now


def write_report(
    study: StudyToReport, model: Model, references: References, *, budget: int, on_progress: Callable[[], None]
) -> Draft:
    """Write the report of a study.

    *on_progress* is called when the work has moved on; what it raises ends the run. Raises NotReportable where the
    images cannot make a report, TransientFailure where the model gave none this time.
    """
    timings = Timings()
    seen = images_of(study.instances, budget=budget, on_progress=on_progress)
    on_progress()
    timings.lap("images")
    if not seen.informative:
        return _draft(study, Written(seen, Grounding(), NOT_DIAGNOSTIC, timings.seconds), model, references)
    grounding = _ground(study, seen, model, references)
    on_progress()
    timings.lap("retrieval")
    if grounding.refused:
        return _draft(study, Written(seen, grounding, _strange(seen), timings.seconds), model, references)
    cases = [QuotedCase(quoted.excerpt, quoted.similarity) for quoted in grounding.quoted]
    answer = _wait(model, report_prompt(seen.modality, seen.body_part, cases), seen, on_progress)
    timings.lap("generation")
    return _draft(study, Written(seen, grounding, answer, timings.seconds), model, references)


def _ground(study: StudyToReport, seen: StudyImages, model: Model, references: References) -> Grounding:
    """Compare the images with the reference cases: are they of the kind, and which cases are similar."""
    index = references.index
    if index is None:
        return Grounding()
    tokens = model.patch_tokens([image.pixels for image in seen.images])
    if not np.isfinite(tokens).all():
        raise TransientFailure("model_error", "the model's vision tower computed no finite numbers")
    ood = index.compare(tokens, modality=seen.modality, body_part=seen.body_part)
    if ood is None:
        return Grounding()
    if not ood.in_distribution:
        return Grounding(ood, refused=references.ood_reject and ood.can_reject)
    found = index.search(
        # The neighbours of an out-of-distribution image mean nothing.
        tokens[ood.in_distribution],
        modality=seen.modality,
        count=references.count,
        patient_hash=study.patient_hash,
        study_hash=study.study_hash,
    )
    similar = [neighbour for neighbour in found if neighbour.similarity >= ood.min_similarity]
    if found and not similar:
        return Grounding(ood, too_little=found[0].similarity)
    texts = references.read([neighbour.case_id for neighbour in similar])
    return Grounding(ood, [Quoted(n.case_id, n.similarity, texts[n.case_id]) for n in similar if n.case_id in texts])


def _strange(seen: StudyImages) -> Sentence:
    image = wording.image_name(seen.modality, seen.body_part)
    return Sentence(
        f"Findings: The images do not look like any {image} image of the reference set; nothing was read from them."
        f" Impression: Not diagnostic as {image} image."
    )


def _wait(model: Model, question: str, seen: StudyImages, on_progress: Callable[[], None]) -> Generation:
    """Wait for the text; the lease is extended only while the engine moves on, so that a hung one loses it.

    Its progress with any request counts, not our own tokens: a request that waits for a free slot is in no danger.
    """
    future = model.generate(question, [image.pixels for image in seen.images])
    progress = model.progress
    try:
        while True:
            try:
                answer: Generation = future.result(timeout=LOOK_SECONDS)
            except TimeoutError:
                if future.done():
                    raise
                if model.progress > progress:
                    progress = model.progress
                    on_progress()
            else:
                return answer
    finally:
        future.cancel()


def _draft(study: StudyToReport, written: Written, model: Model, references: References) -> Draft:
    seen, answer, ood = written.seen, written.answer, written.grounding.ood
    findings, impression = split_report(answer.text)
    if not findings and not impression:
        raise TransientFailure("empty_report", "the model gave no text")
    arrivals = [f"New in this version: {late}." for late in study.late_arrivals]
    return Draft(
        findings=findings,
        impression=impression,
        basis=basis_of(written),
        remarks=arrivals + remarks_on(written, references),
        prompt_version=wording.VERSION,
        model_digest=model.digest,
        provenance={
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "modality": seen.modality,
            "body_part": seen.body_part,
            "index_snapshot": references.index.snapshot if references.index else None,
            "z": ood.scores if ood else None,
            "least_similarity": ood.min_similarity if ood else None,
            "refused": written.grounding.refused,
            "seconds": written.seconds,
            "versions": _versions(),
        },
        evidence=written.grounding.quoted,
        images=[_shown(image) for image in seen.images],
    )


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("prelim", "torch", "transformers", "pydicom", "numpy", "pillow")}


def _shown(image: RenderedImage) -> Shown:
    png = io.BytesIO()
    Image.fromarray(image.pixels).save(png, format="PNG")
    return Shown(
        png=png.getvalue(),
        sop_instance_uid=image.sop_instance_uid,
        frame=image.frame,
        reason=image.reason,
        transform=image.transform,
        warnings=list(image.warnings),
    )
