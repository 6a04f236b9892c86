"""`prelim evaluate`: a folder of cases with reference reports, a checkpoint, and how well the one reads the other.

The whole way of a worker without its databases: DICOM files, chosen images, retrieval from a folder of reference
cases, the prompt, the resident model. Nothing is downloaded and nothing is stored but the figures.
"""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import track

from db.errors import ConfigurationError, NotReportable, PermanentFailure, TransientFailure
from worker.evaluation.plot import plot
from worker.evaluation.scoring import Measured, Result, Written
from worker.evaluation.scoring import evaluate as run
from worker.findings.labeller import kinds
from worker.images.study import StoredInstance
from worker.pipeline import References, StudyToReport, write_report
from worker.reference_build import case_encoder
from worker.retrieval.build import EncodedCase, Steps, build
from worker.retrieval.cases import Case, Owner, files_of, owner_of, read_cases
from worker.retrieval.index import ReferenceIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    import numpy.typing as npt

    from db.settings import Settings
    from worker.model.resident_model import ResidentModel

#: Namespace of the ids that reference cases get for a run.
_CASES = uuid.UUID("5e1c6f0e-7f0b-4b53-9d5d-8a6f5f6f0c11")
#: Longest report, in tokens.
MAXIMUM_NEW_TOKENS = 200
#: The figures, and their image, in the folder that `out` names.
FIGURES, PLOT = "evaluation.json", "evaluation.png"


@dataclass(frozen=True, slots=True)
class Options:
    """How reports are written while measuring."""

    #: Folder of reference cases to retrieve from; None: no retrieval.
    reference: Path | None = None
    retrieved_cases: int = 3
    images: int = 8
    device: str = "auto"
    dtype: str = "auto"


def options_of(settings: Settings, reference: Path | None) -> Options:
    """As a worker with these *settings* would write them."""
    return Options(
        reference,
        settings.retrieval.retrieved_cases,
        settings.model.images_per_study,
        device=settings.model.device,
        dtype=settings.model.dtype,
    )


def evaluate(cases: Path, checkpoint: Path, options: Options, *, out: Path | None = None) -> Result:
    """Measure *checkpoint* on the folder *cases*; figures and plot are written into *out*.

    Raises ConfigurationError where a folder or the checkpoint cannot be used.
    """
    from worker.model.resident_model import ResidentModel  # noqa: PLC0415 - torch is loaded only where a model is

    # What can be refused is refused before hours of work.
    listed = [Measured(case, case.report, case.modality or "?") for case in read_cases(cases)]
    if out:
        _make_folder(out)
    model = ResidentModel.load(checkpoint, device=options.device, dtype=options.dtype)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            writer = _Writer(cases, _Served(model), _references(options, model, Path(scratch)), options.images)
            result = run(track(listed, "cases"), writer, failures=(NotReportable, TransientFailure, PermanentFailure))
    finally:
        model.close()
    if out:
        document = result.as_json() | {
            "checkpoint": writer.model.digest,
            "retrieval": options.reference is not None,
            "refused": writer.refused,
            "seconds_per_case": writer.median_seconds,
        }
        (out / FIGURES).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        plot(result, out / PLOT)
    return result


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{out} cannot be made a folder for the figures: {error.strerror}") from error


class _Served:
    """A resident model as the reporter wants it."""

    def __init__(self, model: ResidentModel) -> None:
        self._model = model
        self.digest = model.digest

    def patch_tokens(self, images: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        return self._model.patch_tokens(images)

    @property
    def progress(self) -> int:
        return self._model.engine.progress

    def generate(self, question: str, images: Sequence[npt.NDArray[Any]]) -> Future[Any]:
        from worker.model.resident_model import Request  # noqa: PLC0415 - as above

        return self._model.submit(Request(question, images, max_new_tokens=MAXIMUM_NEW_TOKENS))


@dataclass(slots=True)
class _Writer:
    """Writes the report of a case and keeps how long each took."""

    folder: Path
    model: _Served
    references: References
    images: int
    seconds: list[float] = field(default_factory=list)
    #: Cases whose images were unlike all reference images.
    refused: list[str] = field(default_factory=list)

    def __call__(self, case: Case) -> Written:
        started = time.monotonic()
        owner = owner_of(self.folder, case)
        instances = [StoredInstance(*file) for file in files_of(self.folder, case)]
        study = StudyToReport(instances, case.modality, case.body_part, *owner)
        draft = write_report(study, self.model, self.references, budget=self.images, on_progress=_nothing)
        self.seconds.append(time.monotonic() - started)
        if draft.provenance["refused"]:
            self.refused.append(case.case_id)
        text = f"Findings: {draft.findings} Impression: {draft.impression}"
        return Written(text, [quoted.excerpt for quoted in draft.evidence])

    @property
    def median_seconds(self) -> float | None:
        """Of one case, from its files to its report."""
        return round(float(np.median(self.seconds)), 3) if self.seconds else None


def _references(options: Options, model: ResidentModel, scratch: Path) -> References:
    if options.reference is None:
        return References(None, lambda _: {}, 0)
    reports: dict[uuid.UUID, str] = {}

    def store(case: Case, _encoded: EncodedCase, _owner: Owner) -> uuid.UUID:
        identity = uuid.uuid5(_CASES, case.case_id)
        reports[identity] = case.report
        return identity

    directory = scratch / "index"
    steps = Steps(case_encoder(model.patch_tokens, images_per_case=options.images), kinds, store)
    build(options.reference, directory, steps, model_digest=model.digest)
    index = ReferenceIndex(directory, model_digest=model.digest)
    return References(index, _reader(reports), options.retrieved_cases)


def _reader(reports: Mapping[uuid.UUID, str]) -> Callable[[Sequence[uuid.UUID]], Mapping[uuid.UUID, str]]:
    return lambda case_ids: {case_id: reports[case_id] for case_id in case_ids}


def _nothing() -> None:
    """No lease to extend."""
