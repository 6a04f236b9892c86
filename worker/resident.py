"""The parts a worker process keeps for its whole life: the model and its newest reference index."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import structlog

from db import reference
from db.answers import scalings
from db.answers.answer import Choice, Question
from db.errors import ConfigurationError, PermanentFailure, Reason, TransientFailure
from db.reports import certificates
from db.reports.certificates import NO_INDEX, Bindings, Standing
from db.session import transaction
from worker.findings.labeller import LABELLER_VERSION
from worker.model.checkpoint.rereading import Rereading
from worker.model.resident_model import ResidentModel
from worker.model.vision_tower import VisionTower, has_separate_tower
from worker.pipeline.answering import answer
from worker.pipeline.diagnosing import diagnose
from worker.pipeline.pipeline import Pipeline
from worker.prompting.wording import version_of
from worker.reference_build import importing
from worker.retrieval.index import ReferenceIndex

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from db.answers.answer import Answer, Diagnosis
    from db.answers.scaling import ScalingOfTask
    from db.reports.versions import Draft
    from db.settings import Settings
    from db.states import JobKind
    from worker.model.port import ImageEncoder, Model
    from worker.pipeline.pipeline import StudyToReport
    from worker.reference_build.importing import Imported
    from worker.retrieval.retrieve import Index

log = structlog.get_logger()


class Resident:
    """The model and the newest reference index built with it; writes reports for any number of threads."""

    def __init__(self, model: ResidentModel, settings: Settings, rereading: Rereading | None = None) -> None:
        self._model = model
        self._rereading = rereading
        self._settings = settings
        self._index: ReferenceIndex | None = None
        #: Damaged snapshots, so that they are not read again for each study.
        self._refused: dict[str, TransientFailure] = {}

    @classmethod
    def load(cls, settings: Settings) -> Resident:
        """Load the configured checkpoint; raises ConfigurationError if it cannot be used."""
        model = load_model(settings)
        version_of(model.prompt_version)
        if model.demo:
            log.warning(
                "demo_checkpoint.loaded",
                meaning="never for patients: studies sent to other AE titles fail",
                demo_ae_titles=",".join(settings.model.demo_ae_titles),
            )
        return cls(model, settings, Rereading(settings.checkpoint_directory, model.manifest).start())

    @property
    def info(self) -> dict[str, Any]:
        """Figures for the heartbeat row."""
        figures = self._model.engine.metrics()
        return {
            "model": self._model.digest,
            "quantization": self._settings.model.quantization,
            "checkpoint_damaged": self._damaged,
            # Fewer than configured if memory is short.
            "slots": figures.rows,
            "engine": asdict(figures),
            "damaged_snapshot": self.damaged_snapshot,
            "gpu_lost": self._model.engine.device_lost,
            "gpus": self._model.gpus,
            "card": self._card,
        }

    @property
    def _card(self) -> dict[str, Any]:
        """Values for the model card that the API publishes; keys are read there: stable."""
        stated = self._model.manifest.values
        return {
            "demo": self._model.demo,
            "prompt_version": self._model.prompt_version,
            "labeller": LABELLER_VERSION,
            "origin": {name: value for name, value in stated.items() if name not in {"files", "digest", "demo"}},
        }

    @property
    def damaged_snapshot(self) -> str:
        """Name of a damaged snapshot of the index that is newer than the one that serves; empty without one."""
        serving = self._index.snapshot if self._index else ""
        # Names are times.
        return max((name for name in list(self._refused) if name > serving), default="")

    @property
    def stalled_seconds(self) -> float:
        """Seconds without progress although the engine has work; 0 if it has none, infinite if it is dead."""
        engine = self._model.engine
        return engine.stalled_seconds if engine.alive else math.inf

    def write(self, study: StudyToReport, on_progress: Callable[[], None]) -> Draft | Answer | Diagnosis:
        """Write one study's report, or answer its inquiry; see Pipeline.run, `answer` and `diagnose`.

        Raises PermanentFailure if the checkpoint is a demo and the study may be a patient's, TransientFailure if a file
        of the checkpoint has changed on disk.
        """
        if name := self._damaged:
            # Visible and repairable: what this worker holds in memory may be damaged, too.
            raise TransientFailure(Reason.CHECKPOINT_DAMAGED, f"{name} of the checkpoint has changed on disk")
        if self._model.demo:
            _reject_patients(study, self._settings.model.demo_ae_titles)
        pipeline = self.pipeline()
        pipeline = replace(pipeline, standing=self._standing(pipeline))
        if study.inquiry is not None:
            pipeline = replace(pipeline, scaling=self._scaling(pipeline))
        if isinstance(study.inquiry, Question):
            return answer(pipeline, study, study.inquiry, on_progress)
        if isinstance(study.inquiry, Choice):
            return diagnose(pipeline, study, study.inquiry, on_progress, study.predictions)
        return pipeline.run(study, on_progress)

    @property
    def _damaged(self) -> str:
        """Name of a file of the checkpoint that has changed on disk, or empty."""
        return self._rereading.damaged if self._rereading else ""

    def pipeline(self) -> Pipeline:
        """Return the pipeline over the newest index, without a certificate."""
        return Pipeline(self._model, self._current_index(), self._read_reports, self._settings)

    def _standing(self, pipeline: Pipeline) -> Standing:
        """Return the standing of the verdicts; read for each study, because a row changes it for all workers."""
        if pipeline.index is None:
            return NO_INDEX
        with transaction(self._settings.database()) as session:
            return certificates.standing(session, bindings_of(pipeline.model, pipeline.index))

    def _scaling(self, pipeline: Pipeline) -> Mapping[JobKind, ScalingOfTask]:
        """Return the scaling of the confidence of answers, with this model, prompt, index and labeller."""
        snapshot = pipeline.index.snapshot if pipeline.index else ""
        bindings = Bindings(pipeline.model.digest, pipeline.model.prompt_version, snapshot, LABELLER_VERSION)
        with transaction(self._settings.database()) as session:
            return scalings.standing(session, bindings)

    def _current_index(self) -> ReferenceIndex | None:
        """Return the newest snapshot of this model, loaded when it changes.

        While it is damaged the one before it serves; an erased case is in neither.
        """
        with transaction(self._settings.database()) as session:
            rows = reference.newest_snapshots(session, self._model.digest)
        problem = None
        for row in rows:
            directory = self._settings.operations.data_dir / row.directory
            if self._index is not None and self._index.snapshot == directory.name:
                return self._index
            if problem := self._refused.get(directory.name):
                continue
            try:
                self._index = _open(directory, self._model.digest)
            except TransientFailure as error:
                log.exception("reference_index.refused", snapshot=directory.name, problem=error.detail)
                self._refused[directory.name] = problem = error
            else:
                log.info("reference_index.loaded", snapshot=directory.name, cases=len(self._index))
                return self._index
        if problem is not None:
            # A copy may be put back in its place.
            self._refused.clear()
            raise problem
        return None

    def _read_reports(self, case_ids: Sequence[uuid.UUID]) -> Mapping[uuid.UUID, str]:
        with transaction(self._settings.database()) as session:
            return {case_id: case.report for case_id, case in reference.cases(session, case_ids).items()}


def bindings_of(model: Model, index: Index) -> Bindings:
    """Return what a certificate of a model with an index holds for."""
    return Bindings(model.digest, model.prompt_version, index.snapshot, LABELLER_VERSION)


def _reject_patients(study: StudyToReport, demo_ae_titles: Sequence[str]) -> None:
    others = sorted(study.called_ae_titles - set(demo_ae_titles))
    if others or not study.called_ae_titles:
        raise PermanentFailure(
            Reason.DEMO_CHECKPOINT,
            f"a demo checkpoint never reports on patients; this study was sent to {', '.join(others) or 'no AE title'}."
            " Patient's study: set PRELIM_CHECKPOINT to a clinical checkpoint, then `prelim retry`. Phantom: send it to"
            f" one of PRELIM_DEMO_AE_TITLES ({', '.join(demo_ae_titles) or 'not set'})",
        )


def _open(directory: Path, model_digest: str) -> ReferenceIndex:
    try:
        return ReferenceIndex(directory, model_digest=model_digest)
    except ConfigurationError as error:
        # Visible and repairable: the jobs wait for an operator instead of being written without similar cases.
        raise TransientFailure(Reason.REFERENCE_INDEX, str(error)) from error


def load_model(settings: Settings) -> ResidentModel:
    """Load the configured checkpoint; raises ConfigurationError if it cannot be used."""
    return ResidentModel.load(
        settings.checkpoint_directory,
        device=settings.model.device,
        dtype=settings.model.dtype,
        slots=settings.queue.worker_slots,
        context_tokens=settings.model.context_tokens,
        quantization=settings.model.quantization,
        gpu_memory_gib=settings.model.gpu_memory_gib,
        cuda_graphs=settings.model.cuda_graphs,
    )


def build_reference(folder: Path, settings: Settings, *, replace: bool = False, admit: bool = False) -> Imported:
    """Load the configured checkpoint and index the cases of *folder* for it; see worker.reference_build.importing."""
    with loaded(settings) as model:
        return importing.build_reference(folder, model, settings, replace=replace, admit=admit)


def import_reference(
    folder: Path, settings: Settings, *, names: Collection[str] = (), readmit: bool = False, admit: bool = False
) -> Imported:
    """Load what encodes images, and add cases of *folder* to its index; see worker.reference_build.importing."""
    # Names that are not there are rejected before minutes of loading.
    importing.chosen_cases(folder, names)
    with image_encoder(settings) as model:
        return importing.import_reference(folder, model, settings, names=names, readmit=readmit, admit=admit)


@contextmanager
def image_encoder(settings: Settings) -> Iterator[ImageEncoder]:
    """Load the tower of the configured checkpoint for the block, or all of it if it has no separate one.

    A worker's model fills the GPU: the tower of MedDr has 11 of its 80 GB, and runs on the CPU if that is too much.
    """
    directory = settings.checkpoint_directory
    if has_separate_tower(directory):
        yield VisionTower.load(directory, device=settings.model.device, dtype=settings.model.dtype)
        return
    with loaded(settings) as model:
        yield model


@contextmanager
def loaded(settings: Settings) -> Iterator[ResidentModel]:
    """Load the configured checkpoint for the block; raises ConfigurationError if it cannot be used."""
    model = load_model(settings)
    try:
        yield model
    finally:
        model.close()
