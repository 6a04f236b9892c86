"""An attempt at a study whose files were moved to the object storage."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text

from db.jobs import claims
from db.models import Instance, Job, Report
from db.session import transaction
from db.storage import object_files
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_claims import DRAFT
from tests.integration.worker.conftest import written
from tests.object_storage import PREFIX, FakeStorage, Put
from worker.claim_loop import ClaimLoop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from db.reports.versions import Draft
    from db.settings import Settings
    from worker.pipeline.pipeline import StudyToReport

CONTENT = b"an image"


@pytest.fixture
def settings(settings: Settings, object_storage: FakeStorage) -> Settings:
    return settings.replace(**object_storage.settings)


@pytest.fixture
def keys(database_url: str, object_storage: FakeStorage) -> Sequence[str]:
    """Keys of a study of two images that waits for its report."""
    waiting = Arrivals(database_url)
    waiting.image()
    waiting.image()
    waiting.settle()
    with transaction(database_url) as session:
        digest = hashlib.sha256(CONTENT).hexdigest()
        session.execute(text("UPDATE instances SET object_sha256 = :digest"), {"digest": digest})
        paths = session.scalars(select(Instance.file_path).order_by(Instance.sop_instance_uid)).all()
    found = [f"{PREFIX}/{object_files.key(path)}" for path in paths]
    object_storage.objects.update(dict.fromkeys(found, Put(CONTENT)))
    return found


def contents(settings: Settings) -> list[bytes | None]:
    """What the writer reads; None for a file that does not exist."""
    found: list[bytes | None] = []

    def write(study: StudyToReport, _on_progress: Any) -> Draft:
        found.extend(one.path.read_bytes() if one.path.exists() else None for one in study.instances)
        return DRAFT

    assert ClaimLoop(settings).run_once(write) == "finished"
    return found


@pytest.mark.usefixtures("keys")
def test_writer_reads_moved_files(settings: Settings) -> None:
    assert contents(settings) == [CONTENT, CONTENT]


def test_lost_and_damaged_objects_are_missing_images(
    settings: Settings, object_storage: FakeStorage, keys: Sequence[str]
) -> None:
    del object_storage.objects[keys[0]]
    object_storage.objects[keys[1]] = Put(b"another image")
    assert contents(settings) == [None, None]


@pytest.mark.usefixtures("keys")
def test_job_waits_for_the_object_storage_without_an_attempt(
    settings: Settings, object_storage: FakeStorage, database_url: str
) -> None:
    object_storage.away = True
    for _ in range(settings.queue.max_attempts + 1):
        assert ClaimLoop(settings).run_once(written) == "retry"
        with transaction(database_url) as session:
            job = session.scalars(select(Job)).one()
            assert (job.state, job.attempt, job.reason) == ("queued", 0, "storage_unavailable")
            assert session.scalar(select(Report)) is None
        assert ClaimLoop(settings).run_once(written) is None
        with transaction(database_url) as session:
            session.execute(text("UPDATE jobs SET available_at = now()"))

    object_storage.away = False
    assert contents(settings) == [CONTENT, CONTENT]


@pytest.mark.parametrize("reason", ["lease_expired", "no_progress", "gpu_lost"])
@pytest.mark.usefixtures("keys")
def test_poison_candidate_stays_one_while_it_waits_for_the_object_storage(
    settings: Settings, object_storage: FakeStorage, database_url: str, reason: str
) -> None:
    with transaction(database_url) as session:
        session.execute(text("UPDATE jobs SET reason = :reason"), {"reason": reason})
    object_storage.away = True
    assert ClaimLoop(settings).run_once(written) == "retry"

    with transaction(database_url) as session:
        job = session.scalars(select(Job)).one()
        assert (job.state, job.attempt, job.reason) == ("queued", 0, reason)
        assert "does not answer" in (job.detail or "")
        session.execute(text("UPDATE jobs SET available_at = now()"))
    with transaction(database_url) as session:
        claim = claims.claim_next(session, owner="w", lease_seconds=60)
        assert claim is not None
        assert claim.poison_candidate


@pytest.mark.usefixtures("keys")
def test_worker_without_the_settings_waits_and_names_them(settings: Settings, database_url: str) -> None:
    assert ClaimLoop(settings.replace(storage_url=None)).run_once(written) == "retry"
    with transaction(database_url) as session:
        assert "set PRELIM_STORAGE_URL" in (session.scalars(select(Job.detail)).one() or "")
