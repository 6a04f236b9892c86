"""Study -> report: a plain function over a model and an index, so that both can be fakes.

pictures -> similar cases -> prompt -> generation -> draft. Nothing here knows Celery, Postgres or torch.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from db.errors import TransientFailure
from db.reports import Draft, Quoted, Shown
from worker import prompts
from worker.images.study import pictures_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    import numpy.typing as npt

    from worker.images.study import Picture, StoredInstance, StudyPictures
    from worker.retrieval.index import Neighbour

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

    def embed(self, pictures: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """A vector per picture, for the search of similar cases."""

    @property
    def progress(self) -> int:
        """Grows whenever the engine moves on, with whichever request."""

    def generate(self, question: str, pictures: Sequence[npt.NDArray[Any]]) -> Future[Any]:
        """Start to answer."""


class Index(Protocol):
    """What the reporter needs of a reference index."""

    snapshot: str

    def search(
        self, vector: npt.NDArray[Any], *, modality: str, count: int, patient_hash: str, study_hash: str
    ) -> list[Neighbour]:
        """The most similar earlier cases, best first."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """Text that no model wrote."""

    text: str
    finish_reason: str = "stop"


#: An empty picture must not inherit its neighbours' findings: the model is not asked about it.
NOT_DIAGNOSTIC = Sentence("Findings: The images hold no diagnostic information. Impression: Not diagnostic.")


@dataclass(frozen=True, slots=True)
class StudyToReport:
    """What a run needs to know of a study; no patient attributes, only fingerprints to leave out the patient's own."""

    instances: Sequence[StoredInstance]
    modality: str = ""
    body_part: str = ""
    patient_hash: str = ""
    study_hash: str = ""
    #: What came after the version before this one was written.
    late_arrivals: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class References:
    """The earlier cases at hand: the index, and how to read the reports it points to."""

    index: Index | None
    #: Report texts by case id; a case erased since the snapshot is missing.
    read: Callable[[Sequence[uuid.UUID]], Mapping[uuid.UUID, str]]
    count: int = 3


@dataclass(frozen=True, slots=True)
class Written:
    """What the steps of one run made."""

    seen: StudyPictures
    quoted: list[Quoted]
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
    seen = pictures_of(study.instances, budget=budget, on_progress=on_progress)
    on_progress()
    timings.lap("pictures")
    if not seen.informative:
        return _draft(study, Written(seen, [], NOT_DIAGNOSTIC, timings.seconds), model, references)
    quoted = _similar_cases(study, seen, model, references)
    on_progress()
    timings.lap("retrieval")
    question = prompts.report(seen.modality, seen.body_part, [prompts.Case(q.excerpt, q.similarity) for q in quoted])
    answer = _wait(model, question, seen, on_progress)
    timings.lap("generation")
    written = Written(seen, quoted, answer, timings.seconds)
    return _draft(study, written, model, references)


def _similar_cases(study: StudyToReport, seen: StudyPictures, model: Model, references: References) -> list[Quoted]:
    if references.index is None or references.count == 0:
        return []
    # One vector a study: the mean over its pictures.
    vector = model.embed([picture.pixels for picture in seen.pictures]).mean(axis=0)
    found = references.index.search(
        vector,
        modality=seen.modality,
        count=references.count,
        patient_hash=study.patient_hash,
        study_hash=study.study_hash,
    )
    texts = references.read([neighbour.case_id for neighbour in found])
    return [Quoted(n.case_id, n.similarity, texts[n.case_id]) for n in found if n.case_id in texts]


def _wait(model: Model, question: str, seen: StudyPictures, on_progress: Callable[[], None]) -> Generation:
    """Wait for the text; the lease is extended only while the engine moves on, so that a hung one loses it.

    Its progress with any request counts, not our own tokens: a request that waits for a free slot is in no danger.
    """
    future = model.generate(question, [picture.pixels for picture in seen.pictures])
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
    seen, answer = written.seen, written.answer
    findings, impression = prompts.split_report(answer.text)
    if not findings and not impression:
        raise TransientFailure("empty_report", "the model gave no text")
    remarks = [f"New in this version: {late}." for late in study.late_arrivals]
    return Draft(
        findings=findings,
        impression=impression,
        basis=seen.basis,
        remarks=remarks + _remarks(seen, answer, references),
        prompt_version=prompts.VERSION,
        model_digest=model.digest,
        provenance={
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "modality": seen.modality,
            "body_part": seen.body_part,
            "index_snapshot": references.index.snapshot if references.index else None,
            "seconds": written.seconds,
            "versions": _versions(),
        },
        evidence=written.quoted,
        pictures=[_shown(picture) for picture in seen.pictures],
    )


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("prelim", "torch", "transformers", "pydicom", "numpy", "pillow")}


def _remarks(seen: StudyPictures, answer: Generation, references: References) -> list[str]:
    remarks = seen.remarks()
    remarks += [f"Picture {n}: {w}" for n, picture in enumerate(seen.pictures, start=1) for w in picture.warnings]
    if answer.finish_reason != "stop":
        remarks.append(f"The text was cut short ({answer.finish_reason}).")
    if references.index is None:
        remarks.append("Written without similar earlier cases: no reference index for this model.")
    return remarks


def _shown(picture: Picture) -> Shown:
    png = io.BytesIO()
    Image.fromarray(picture.pixels).save(png, format="PNG")
    return Shown(
        png=png.getvalue(),
        sop_instance_uid=picture.sop_instance_uid,
        frame=picture.frame,
        reason=picture.reason,
        transform=picture.transform,
        warnings=list(picture.warnings),
    )
