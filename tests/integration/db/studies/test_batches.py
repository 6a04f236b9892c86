"""A batch of files is recorded with few statements, and with the results of one file after another."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event, select

from db.models import Instance, Study
from db.operations import invariants
from db.session import engine, transaction
from db.studies import batches, lifecycle
from db.studies.lifecycle import Recorded, StudyAttributes
from tests.integration.db.conftest import Arrivals

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from db.studies.lifecycle import ReceivedInstance


def record(url: str, batch: Sequence[ReceivedInstance]) -> list[Recorded]:
    with transaction(url) as session:
        recorded = batches.record(session, batch)
    return [recorded[received.file_path] for received in batch]


def one_by_one(url: str, batch: Sequence[ReceivedInstance]) -> list[Recorded]:
    with transaction(url) as session:
        return [lifecycle.record_instance(session, received) for received in batch]


def some_files(study: Arrivals, chance: random.Random) -> list[ReceivedInstance]:
    """Files of one study: images, other objects, and copies, conflicts or another patient."""
    patients = [{"patient_name": "PHANTOM^ONE"}, {"patient_id": "P1", "patient_name": "Phantom^One "}]
    patients += [{"patient_id": "P2", "patient_name": "PHANTOM^TWO"}] if chance.random() < 0.3 else []

    def file() -> ReceivedInstance:
        attributes = StudyAttributes(
            study.uid, **chance.choice(patients), priority=chance.randrange(-1, 2), announced=chance.randrange(9)
        )
        image: dict[str, Any] = {"reportable": chance.random() < 0.8, "body_part": chance.choice(["", "CHEST"])}
        return study.received(study=attributes, series_instance_uid=f"{study.uid}.0.{attributes.patient_id}", **image)

    files = [file() for _ in range(6)]
    # A batch records objects with copies last: the order of names and patients would be another one.
    if len(patients) > 2:
        return files
    copied = chance.choice(files[1:])
    same = {"study": copied.study, "sop_instance_uid": copied.sop_instance_uid}
    copies = [study.received(**same, sha256=digest) for digest in (copied.sha256, "other")]
    return files + [copy for copy in copies if chance.random() < 0.3]


def rows(study: Arrivals) -> list[object]:
    """Values of the study's rows and their instances."""
    names = set(Study.__table__.columns.keys()) - {"id", "study_instance_uid"}
    names = {name for name in names if not name.endswith("_at")}
    with transaction(study.url) as session:
        studies = session.scalars(
            select(Study).where(Study.study_instance_uid == study.uid).order_by(Study.identity_number)
        )
        return [
            (
                [getattr(row, name) for name in sorted(names)],
                sorted(
                    (found.sha256, found.revision, found.identified)
                    for found in session.scalars(select(Instance).where(Instance.study_id == row.id))
                ),
            )
            for row in studies.all()
        ]


@pytest.mark.parametrize("seed", range(6))
def test_batches_have_the_results_of_one_file_after_another(database_url: str, seed: int) -> None:
    outcomes, found = [], []
    for method in (record, one_by_one):
        chance = random.Random(seed)
        studies = [Arrivals(database_url) for _ in range(3)]
        results = []
        for step in range(3):
            results += method(database_url, [file for study in studies for file in some_files(study, chance)])
            if step == 1:
                studies[0].settle()
        outcomes.append(results)
        found.append([rows(study) for study in studies])

    assert outcomes[0] == outcomes[1]
    assert found[0] == found[1]
    with transaction(database_url) as session:
        assert list(invariants.check(session)) == []


def test_new_objects_of_a_study_take_few_statements(arrivals: Arrivals) -> None:
    statements = []

    def count(*given: Any) -> None:
        statements.append(given[2])

    event.listen(engine(arrivals.url), "before_cursor_execute", count)
    try:
        results = record(arrivals.url, [arrivals.received(association_id=str(number % 7)) for number in range(200)])
    finally:
        event.remove(engine(arrivals.url), "before_cursor_execute", count)

    assert results == [Recorded.NEW] * 200
    assert len(statements) <= 6
    assert [text for text in statements if text.startswith("UPDATE studies")] != []


def test_dispatchers_with_the_same_files_make_one_row_each(database_url: str) -> None:
    studies = [Arrivals(database_url) for _ in range(6)]
    files = [study.received() for study in studies for _ in range(5)]
    with ThreadPoolExecutor(2) as dispatchers:
        both = list(dispatchers.map(lambda batch: record(database_url, batch), (files, files[::-1])))

    assert sorted((first.value, second.value) for first, second in zip(both[0], both[1][::-1], strict=True)) in (
        [("already indexed", "new")] * len(files),
        [("new", "already indexed")] * len(files),
    )
    with transaction(database_url) as session:
        assert len(session.scalars(select(Instance.id)).all()) == len(files)
