"""Print the reference index from the database (`prelim index info`, `prelim status`)."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from db import reference
from db.session import reading
from worker.retrieval.validation import Validation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console
    from sqlalchemy.orm import Session

    from db.models import ReferenceCase, ReferenceSnapshot
    from db.settings import Settings


def show(settings: Settings, console: Console) -> None:
    """Print the current snapshot of each checkpoint, its validation, and the number of erased fingerprints."""
    with reading(settings.database()) as session:
        snapshots, erased = reference.current_snapshots(session), reference.erasures(session)
        names = {str(row_id): row.source_case for row_id, row in _set_aside(session, snapshots).items()}
        lines = [line for snapshot in snapshots for line in describe(snapshot, settings.retrieval.min_validated_f1)]
        lines += [line for snapshot in snapshots for line in _aside_lines(snapshot, names)]
    for line in lines or ["no reference index: build one with `prelim index build`; no kind of study is validated"]:
        console.print(line, highlight=False)
    console.print(f"{erased} fingerprints of erased cases", highlight=False)


def _set_aside(session: Session, snapshots: Sequence[ReferenceSnapshot]) -> dict[uuid.UUID, ReferenceCase]:
    """Return the cases whose report and images disagree, without those erased since."""
    ids = {case_id for snapshot in snapshots for case_id in snapshot.figures.get("set_aside", {})}
    return reference.cases(session, map(uuid.UUID, ids))


def _aside_lines(snapshot: ReferenceSnapshot, names: dict[str, str]) -> Iterator[str]:
    for case_id, reason in snapshot.figures.get("set_aside", {}).items():
        if case_id in names:
            yield f"  not indexed: case {names[case_id]}: {reason}; `prelim index add --admit` indexes it"


def describe(snapshot: ReferenceSnapshot, minimum: float) -> Iterator[str]:
    """Yield a line for a snapshot and one for each kind of study."""
    yield (
        f"checkpoint {snapshot.model_digest[:12]}: {snapshot.cases} cases in {snapshot.directory},"
        f" {snapshot.created_at:%Y-%m-%d %H:%M %Z}"
    )
    measured: dict[str, Any] = snapshot.figures.get("validation", {})
    if not measured:
        yield "  no kind of study is validated: the model's reading was not measured"
    for kind, figures in measured.items():
        yield f"  {kind}: strict F1 {figures['f1']:.2f} on {figures['cases']} cases{_problem(figures, minimum)}"


def _problem(figures: dict[str, Any], minimum: float) -> str:
    """Return why a kind of study is not validated; nothing if it is."""
    measured = Validation.of(figures)
    if not measured.measured:
        return f" with {measured.reported} findings, too few: not validated"
    return "" if measured.reaches(minimum) else f", under {minimum}: not validated"
