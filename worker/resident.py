"""What a worker process holds for as long as it lives: the model and the reference index."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import structlog

from db import reference
from db.errors import ConfigurationError, PermanentFailure, TransientFailure
from db.session import transaction
from worker import reference_build
from worker.model.resident_model import Request, ResidentModel
from worker.pipeline import References, StudyToReport, write_report
from worker.retrieval.index import ReferenceIndex

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    import numpy.typing as npt

    from db.reports.versions import Draft
    from db.settings import Settings

log = structlog.get_logger()


class Resident:
    """The model and the newest reference index made with it; writes reports for any number of threads."""

    def __init__(self, model: ResidentModel, settings: Settings) -> None:
        self._model = model
        self._settings = settings
        self._index: ReferenceIndex | None = None

    @classmethod
    def load(cls, settings: Settings) -> Resident:
        """Load the configured checkpoint; raises ConfigurationError where it cannot be used."""
        started = time.monotonic()
        model = _load_model(settings)
        log.info("model_loaded", digest=model.digest[:12], seconds=round(time.monotonic() - started, 1))
        if model.demo:
            log.warning(
                "demo_checkpoint",
                meaning="never for patients: studies not sent to a demo AE title fail",
                demo_ae_titles=",".join(settings.model.demo_ae_titles),
            )
        return cls(model, settings)

    @property
    def info(self) -> dict[str, Any]:
        """For the process table."""
        figures = self._model.engine.metrics()
        quantization = self._settings.model.quantization
        # Fewer than asked for where memory is short.
        return {
            "model": self._model.digest,
            "quantization": quantization,
            "slots": figures.rows,
            "engine": asdict(figures),
        }

    @property
    def stalled_seconds(self) -> float:
        """How long the engine has had work and made no progress; 0 when it has none, for ever once it is dead."""
        engine = self._model.engine
        return engine.stalled_seconds if engine.alive else math.inf

    def write(self, study: StudyToReport, on_progress: Callable[[], None]) -> Draft:
        """Write one study's report; see worker.pipeline.write_report.

        Raises PermanentFailure where the checkpoint is a demo and the study may be a patient's.
        """
        if self._model.demo:
            _refuse_patients(study, self._settings.model.demo_ae_titles)
        references = References(
            self._current_index(),
            _read_reports,
            self._settings.retrieval.retrieved_cases,
            ood_reject=self._settings.retrieval.ood_reject,
        )
        return write_report(
            study, self, references, budget=self._settings.model.images_per_study, on_progress=on_progress
        )

    @property
    def digest(self) -> str:
        """Of the model's weights."""
        return self._model.digest

    def patch_tokens(self, images: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """What it sees at each place of each image."""
        return self._model.patch_tokens(images)

    @property
    def progress(self) -> int:
        """The engine's steps so far."""
        return self._model.engine.progress

    def generate(self, question: str, images: Sequence[npt.NDArray[Any]]) -> Future[Any]:
        """Hand a request to the engine."""
        request = Request(
            question=question,
            images=images,
            max_new_tokens=self._settings.model.max_new_tokens,
            deadline_seconds=self._settings.model.report_deadline_seconds,
        )
        return self._model.submit(request)

    def _current_index(self) -> ReferenceIndex | None:
        """The newest snapshot of this model, loaded when it changes."""
        with transaction() as session:
            row = reference.current_snapshot(session, self._model.digest)
        if row is None:
            return None
        directory = self._settings.operations.data_dir / row.directory
        if self._index is None or self._index.snapshot != directory.name:
            self._index = _open(directory, self._model.digest)
            log.info("reference_index_loaded", snapshot=directory.name, cases=len(self._index))
        return self._index


def _refuse_patients(study: StudyToReport, demo_ae_titles: Sequence[str]) -> None:
    others = sorted(study.called_ae_titles - set(demo_ae_titles))
    if others or not study.called_ae_titles:
        raise PermanentFailure(
            "demo_checkpoint",
            f"the checkpoint is a demo and never reports patients; this study came to {', '.join(others) or 'nobody'}."
            " Set PRELIM_CHECKPOINT to a real one and `prelim retry` it. A phantom: send it to one of"
            f" PRELIM_DEMO_AE_TITLES ({', '.join(demo_ae_titles) or 'none is set'})",
        )


def _open(directory: Path, model_digest: str) -> ReferenceIndex:
    try:
        return ReferenceIndex(directory, model_digest=model_digest)
    except ConfigurationError as error:
        # Visible and repairable: the jobs wait for an operator instead of being written without their grounding.
        raise TransientFailure("reference_index", str(error)) from error


def _read_reports(case_ids: Sequence[uuid.UUID]) -> Mapping[uuid.UUID, str]:
    with transaction() as session:
        return {case_id: case.report for case_id, case in reference.cases(session, case_ids).items()}


def _load_model(settings: Settings) -> ResidentModel:
    return ResidentModel.load(
        settings.checkpoint_directory,
        device=settings.model.device,
        dtype=settings.model.dtype,
        slots=settings.queue.worker_slots,
        context_tokens=settings.model.context_tokens,
        quantization=settings.model.quantization,
        gpu_memory_gib=settings.model.gpu_memory_gib,
    )


def build_reference(folder: Path, settings: Settings) -> tuple[int, list[str]]:
    """Load the configured checkpoint and index the cases of *folder* for it; see worker.reference_build."""
    model = _load_model(settings)
    try:
        return reference_build.build_reference(folder, model, settings)
    finally:
        model.close()
