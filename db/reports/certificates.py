"""Certificates of the verdicts on findings: store, suspend, and find the one that holds."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, cast, select, update

from db.models import Certificate as Row
from db.states import Calibration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Select
    from sqlalchemy.orm import Session

#: Groups of findings, in the order of display.
GROUPS = ("common", "rare", "critical")
#: Names of the bindings, for the reader.
NAMES = {
    "model_digest": "checkpoint",
    "prompt_version": "prompt version",
    "snapshot": "reference index",
    "labeller": "labeller version",
}


@dataclass(frozen=True, slots=True)
class Bindings:
    """Versions that a certificate holds for; a change of any of them ends it."""

    model_digest: str
    prompt_version: str
    #: Folder name of the snapshot.
    snapshot: str
    labeller: str


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """Figures of a group of findings on the set of a certificate.

    *margin* is what a score must exceed its label's threshold by; None: not certified. *affirmed* and *shown* count
    findings: all affirmed ones, and those that are shown as fact. *studies* and *wrong_studies* have at least one shown
    finding, or at least one that is wrong; *bound* is the upper confidence bound of their share. They are counted at
    the margin, or at 0 if there is none.
    """

    affirmed: int
    shown: int
    wrong: int
    studies: int
    wrong_studies: int
    bound: float
    margin: float | None = None
    #: Further studies with such a finding that are needed at least, if as few of them are wrong.
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Certificate:
    """A bound on the error of the affirmed findings that are not flagged, for each group of findings."""

    bindings: Bindings
    alpha: float
    delta: float
    #: What, how many, where and from which seed.
    case_set: Mapping[str, Any]
    groups: Mapping[str, GroupFigures]
    #: Findings that are common in the reference set; any other is rare or critical.
    common: Sequence[str]
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    created_at: dt.datetime = field(default_factory=lambda: dt.datetime.now(dt.UTC))

    def figures(self) -> dict[str, Any]:
        """Return what is stored with each report; keys are published by the API: stable."""
        return {
            "id": str(self.id),
            "alpha": self.alpha,
            "delta": self.delta,
            "case_set": dict(self.case_set),
            "groups": {name: asdict(group) for name, group in self.groups.items()},
            "created_at": self.created_at.isoformat(timespec="seconds"),
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """Status of the verdicts, with the reason for it unless certified; *certificate* only if it holds."""

    status: Calibration
    reason: str = ""
    certificate: Certificate | None = None

    def figures(self) -> dict[str, Any]:
        """Return what is stored with each report; keys are published by the API: stable."""
        certificate = self.certificate and self.certificate.figures()
        return {"status": self.status, "reason": self.reason, "certificate": certificate}


NOT_CALIBRATED = Standing(Calibration.UNCALIBRATED, "`prelim calibrate` was never run here")
NO_INDEX = Standing(Calibration.UNCALIBRATED, "no reference index exists for this model")


def add(session: Session, certificate: Certificate) -> None:
    """Store a certificate; from now on it is the one of its bindings."""
    groups = {name: asdict(group) for name, group in certificate.groups.items()}
    session.add(
        Row(
            id=certificate.id,
            **asdict(certificate.bindings),
            alpha=certificate.alpha,
            delta=certificate.delta,
            case_set=dict(certificate.case_set),
            groups=groups,
            common=list(certificate.common),
        )
    )


def suspend(session: Session, because: str) -> int:
    """Suspend all certificates; return how many were valid. A new one ends the suspension for its bindings."""
    valid = update(Row).where(Row.suspended_because.is_(None)).values(suspended_because=because)
    return len(session.scalars(valid.returning(Row.id)).all())


def suspension(certificate: Any) -> Select[Any]:
    """Return the query for the reason why the certificate with this id, as text, was suspended; null if it was not."""
    # As text: the table is small, and an id in the provenance of a report need not be a UUID.
    return select(Row.suspended_because).where(cast(Row.id, Text) == certificate)


def standing(session: Session, bindings: Bindings) -> Standing:
    """Return the standing of reports with *bindings*."""
    rows = session.scalars(select(Row).order_by(Row.created_at.desc())).all()
    if not rows:
        return NOT_CALIBRATED
    row = next((row for row in rows if _bindings(row) == bindings), None)
    if row is None:
        return Standing(Calibration.UNCALIBRATED, _other(rows[0], bindings))
    if row.suspended_because is not None:
        return Standing(Calibration.SUSPENDED, row.suspended_because)
    return Standing(Calibration.CERTIFIED, certificate=_read(row))


def _other(row: Row, bindings: Bindings) -> str:
    changed = changed_bindings(_bindings(row), bindings)
    return f"the certificate of {row.created_at:%Y-%m-%d} holds for {changed}; run `prelim calibrate` again"


def changed_bindings(other: Bindings, bindings: Bindings) -> str:
    """Return what differs, in words: "another checkpoint and another reference index"."""
    theirs, these = asdict(other), asdict(bindings)
    return " and ".join(f"another {words}" for name, words in NAMES.items() if theirs[name] != these[name])


def _bindings(row: Row) -> Bindings:
    return Bindings(row.model_digest, row.prompt_version, row.snapshot, row.labeller)


def _read(row: Row) -> Certificate:
    groups = {name: GroupFigures(**figures) for name, figures in row.groups.items()}
    return Certificate(_bindings(row), row.alpha, row.delta, row.case_set, groups, row.common, row.id, row.created_at)
