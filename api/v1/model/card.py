"""Card of the served models: their use, their limits, and what was measured about them."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - pydantic reads annotations at run time
from typing import TYPE_CHECKING, Any

from pydantic import Field

from api.v1.body import Body
from api.v1.schemas import Certificate
from db import reference
from db.operations import heartbeats
from db.reports import certificates
from db.reports.certificates import NO_INDEX, Bindings, Standing
from db.states import Calibration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from db.models import Process, ReferenceSnapshot

INTENDED_USE = (
    "Drafts preliminary reports of radiology studies, and answers questions about them, for the physician who reads the"
    " study and decides."
)
OUT_OF_SCOPE = (
    "Diagnosis or treatment without a physician who has read the images.",
    "A final report, or any text that reaches a patient unread.",
    "Patients, if the model is a demo: it was trained on synthetic studies only.",
)
LIMITS = (
    "A fluent sentence may be wrong: the model can state findings that the images do not show, and omit others.",
    "A similar earlier case never makes a finding more certain.",
    "Without a certificate the error of the findings that are not flagged is unknown.",
    "Drafts of kinds of studies on which the model was not validated state it among their limitations.",
)
#: Reason for a worker that publishes no card.
UNKNOWN = Standing(Calibration.UNCALIBRATED, "the workers of this model are of an earlier release")


class ServedIndex(Body):
    """Reference index of similar earlier cases."""

    snapshot: str
    cases: int
    built_at: dt.datetime
    figures: dict[str, Any] = Field(description="Measured at the build: strict F1 of the model by kind of study.")


class ServedModel(Body):
    """A checkpoint that workers have loaded, with its index and the standing of its verdicts."""

    digest: str
    workers: int = Field(description="Workers that serve it.")
    demo: bool | None = Field(description="True: for phantoms only, never for patients. Null: unknown.")
    quantization: str | None
    prompt_version: str | None
    labeller: str | None = Field(description="Version of the reader of findings.")
    origin: dict[str, Any] = Field(description="What its manifest states about it, without the list of files.")
    index: ServedIndex | None
    calibration: Calibration
    calibration_reason: str = Field(description="Why it is not `certified`; empty if it is.")
    certificate: Certificate | None = Field(description="Null unless `certified`.")


class ModelCard(Body):
    """Card of the served models."""

    intended_use: str = INTENDED_USE
    out_of_scope: tuple[str, ...] = OUT_OF_SCOPE
    limits: tuple[str, ...] = LIMITS
    models: list[ServedModel] = Field(description="Empty while no worker is alive.")


def card(session: Session) -> ModelCard:
    """Return the card of the models that the living workers serve."""
    workers: dict[tuple[str, str], list[Process]] = {}
    for worker in heartbeats.alive(session, heartbeats.Role.WORKER):
        if digest := worker.info.get("model"):
            workers.setdefault((digest, worker.info.get("quantization") or ""), []).append(worker)
    return ModelCard(models=[_model(session, key[0], workers[key]) for key in sorted(workers)])


def _model(session: Session, digest: str, workers: Sequence[Process]) -> ServedModel:
    stated = workers[0].info.get("card") or {}
    snapshot = _served(reference.newest_snapshots(session, digest), workers)
    standing = _standing(session, digest, stated, snapshot)
    certificate = standing.figures()["certificate"]
    return ServedModel(
        digest=digest,
        workers=len(workers),
        demo=stated.get("demo"),
        quantization=workers[0].info.get("quantization"),
        prompt_version=stated.get("prompt_version"),
        labeller=stated.get("labeller"),
        origin=stated.get("origin", {}),
        index=None if snapshot is None else _index(snapshot),
        calibration=standing.status,
        calibration_reason=standing.reason,
        certificate=None if certificate is None else Certificate.model_validate(certificate),
    )


def _served(snapshots: Sequence[ReferenceSnapshot], workers: Sequence[Process]) -> ReferenceSnapshot | None:
    """Return the newest snapshot that no worker has refused as damaged."""
    damaged = {worker.info.get("damaged_snapshot") for worker in workers}
    return next((row for row in snapshots if _name(row) not in damaged), None)


def _name(row: ReferenceSnapshot) -> str:
    return row.directory.rpartition("/")[2]


def _index(row: ReferenceSnapshot) -> ServedIndex:
    return ServedIndex(snapshot=_name(row), cases=row.cases, built_at=row.created_at, figures=row.figures)


def _standing(session: Session, digest: str, stated: dict[str, Any], snapshot: ReferenceSnapshot | None) -> Standing:
    if snapshot is None:
        return NO_INDEX
    if not stated:
        return UNKNOWN
    bindings = Bindings(digest, stated["prompt_version"], _name(snapshot), stated["labeller"])
    return certificates.standing(session, bindings)
