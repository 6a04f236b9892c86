"""Building the reference index: rows, a snapshot, and the index that a worker opens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from db import reference
from db.models import ReferenceCase
from db.session import transaction
from db.settings import Settings
from tests.unit.worker.fakes import FakeModel
from worker.phantoms.datasets import write_reference_cases
from worker.reference_build.importing import build_reference
from worker.retrieval.index import ReferenceIndex

if TYPE_CHECKING:
    from pathlib import Path


def test_a_build_stores_its_cases_and_becomes_the_current_snapshot(database_url: str, tmp_path: Path) -> None:
    settings, model = Settings(data_dir=tmp_path, database_url=database_url), FakeModel()
    written = write_reference_cases(tmp_path / "cases", count=6, seed=1)

    built = build_reference(tmp_path / "cases", model, settings)  # type: ignore[arg-type]

    with transaction(database_url) as session:
        rows = session.scalars(select(ReferenceCase)).all()
        snapshot = reference.current_snapshot(session, model.digest)
    assert snapshot is not None
    index = ReferenceIndex(tmp_path / snapshot.directory, model_digest=model.digest)
    assert built[0] == snapshot.cases == len(rows) == 6
    assert {(row.source, row.source_case, row.report) for row in rows} == {
        ("cases", case.case_id, case.report) for case in written
    }
    assert len(index) >= 4


def test_a_second_build_of_a_folder_updates_its_cases(database_url: str, tmp_path: Path) -> None:
    settings, model = Settings(data_dir=tmp_path, database_url=database_url), FakeModel()
    write_reference_cases(tmp_path / "cases", count=3, seed=1)
    listed = tmp_path / "cases" / "cases.jsonl"

    build_reference(tmp_path / "cases", model, settings)  # type: ignore[arg-type]
    listed.write_text(listed.read_text().replace("Impression:", "Impression: Corrected."))
    build_reference(tmp_path / "cases", model, settings)  # type: ignore[arg-type]

    with transaction(database_url) as session:
        reports = session.scalars(select(ReferenceCase.report)).all()
    assert len(reports) == 3
    assert all("Corrected." in report for report in reports)
