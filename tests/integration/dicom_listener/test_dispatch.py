"""The dispatcher: settled studies, their jobs and wake-up messages."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

import pytest
import redis
from pydantic import SecretStr
from pydicom.uid import BasicTextSRStorage
from sqlalchemy import select, text

from db.jobs import celery_app
from db.models import Job, Study
from db.session import transaction
from dicom_listener import dispatch
from dicom_listener.indexing import indexer
from dicom_listener.spool.associations import AssociationMarks, Transfer
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import WaitingFiles
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import image, receive, store
from tests.polling import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from celery import Celery

    from db.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, database_url: str, broker_url: str) -> Settings:
    services = {"database_url": SecretStr(database_url), "broker_url": SecretStr(broker_url)}
    settings = settings_for(tmp_path, **services, settle_seconds=0.001)
    Spool(settings.spool).prepare()
    return settings


@pytest.fixture
def app(settings: Settings) -> Celery:
    return celery_app.make_app(settings.broker())


def messages(settings: Settings) -> list[str]:
    """The job ids that wait in Redis."""
    with redis.Redis.from_url(settings.broker()) as client:
        return [json.loads(message)["headers"]["argsrepr"] for message in client.lrange(celery_app.QUEUE, 0, -1)]


def jobs(settings: Settings) -> list[Job]:
    with transaction(settings.database()) as session:
        return list(session.scalars(select(Job)))


def study(settings: Settings) -> Study:
    with transaction(settings.database()) as session:
        return session.scalars(select(Study)).one()


def test_quiet_study_becomes_one_job_and_one_message(settings: Settings, app: Celery) -> None:
    receive(settings, image())
    for _ in range(3):
        dispatch.run_once(settings, app)

    [job] = jobs(settings)
    assert [str(job.id) in message for message in messages(settings)] == [True]
    assert study(settings).settle_reason == "quiet for 0.001 s, with 1 image"


def test_unexpected_error_does_not_end_the_dispatcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "PAUSE_AFTER_FAILURE_SECONDS", 0.01)
    stop = threading.Event()
    rounds = iter((LookupError("unforeseen"), KeyError("again"), None))

    def one_round() -> None:
        fault = next(rounds)
        if fault is not None:
            raise fault
        stop.set()

    dispatch._repeat(one_round, stop)
    assert list(rounds) == []


def test_run_without_work_returns_zero(settings: Settings, app: Celery) -> None:
    assert dispatch.run_once(settings, app) == 0


def sending(uid: str, *, silent_seconds: float = 0, receiving: bool = False) -> Transfer:
    return Transfer("sending", uid, receiving, active_at=time.time() - silent_seconds)


@pytest.fixture
def marks(settings: Settings) -> AssociationMarks:
    """Marks of a listener's process in another slot than the objects."""
    spool = Spool(settings.spool)
    spool.prepare()
    slot = spool.slot("host-0")
    slot.root.mkdir()
    slot.prepare()
    return AssociationMarks(slot)


def test_study_does_not_settle_while_an_open_association_sends_it(
    settings: Settings, app: Celery, marks: AssociationMarks
) -> None:
    dataset = image()
    receive(settings, dataset, association_id="sending")
    marks.write(sending(dataset.StudyInstanceUID, silent_seconds=-60))
    dispatch.run_once(settings, app)
    dispatch.run_once(settings, app)
    assert study(settings).state == "receiving"

    marks.write(sending("2.25.1", silent_seconds=-60))
    dispatch.run_once(settings, app)
    assert study(settings).state == "settled", "the association sends another study"


@pytest.mark.parametrize("ended", [True, False], ids=["lost", "silent within an object"])
def test_study_of_a_transfer_that_broke_off_is_settled_with_that_reason(
    settings: Settings, app: Celery, marks: AssociationMarks, *, ended: bool
) -> None:
    settings = settings.replace(settle_broken_seconds=0.2)
    dataset = image()
    receive(settings, dataset, association_id="sending")
    marks.write(sending(dataset.StudyInstanceUID, silent_seconds=60, receiving=True))
    if ended:
        marks.break_off("sending")
    dispatch.run_once(settings, app)
    assert study(settings).state == "receiving"

    wait_until(lambda: bool(dispatch.run_once(settings, app) or study(settings).state == "settled"))
    assert study(settings).settle_reason == "the transfer broke off, quiet for 0.2 s, with 1 image"
    assert marks.broken() == []


def test_last_object_of_an_association_that_just_ended_is_included(
    settings: Settings, app: Celery, marks: AssociationMarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = image()
    marks.write(sending(first.StudyInstanceUID, silent_seconds=-60))
    receive(settings, first, association_id="sending")
    dispatch.run_once(settings, app)
    index_run_once = indexer.run_once

    def last_object_comes_after(settings: Settings, waiting: WaitingFiles) -> int:
        indexed = index_run_once(settings, waiting)
        receive(settings, image(StudyInstanceUID=first.StudyInstanceUID), association_id="sending")
        marks.remove("sending")
        return indexed

    with monkeypatch.context() as patch:
        patch.setattr(indexer, "run_once", last_object_comes_after)
        dispatch.run_once(settings, app)
    assert study(settings).state == "receiving"
    dispatch.run_once(settings, app)
    wait_until(lambda: bool(dispatch.run_once(settings, app) or study(settings).state == "settled"))
    assert (study(settings).revision, study(settings).settle_reason) == (1, "quiet for 0.001 s, with 2 images")


def test_study_settles_beside_a_backlog_and_not_while_files_of_it_wait(
    settings: Settings, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer, "BATCH", 1)
    waiting = WaitingFiles(Spool(settings.spool))
    urgent = [image() for _ in range(2)]
    urgent[1].StudyInstanceUID = urgent[0].StudyInstanceUID
    for dataset in urgent:
        store(settings, dataset, priority=1)
    for _ in range(4):
        store(settings, image())

    dispatch.run_once(settings, app, waiting)
    waiting.refresh()
    dispatch.settle(settings, waiting=waiting.studies)
    assert study(settings).state == "receiving", "the second file waits"
    dispatch.run_once(settings, app, waiting)
    waiting.refresh()
    dispatch.settle(settings, waiting=waiting.studies)
    assert study(settings).settle_reason == "quiet for 0.001 s, with 2 images"
    assert len(waiting.studies) == 4


def test_steady_requests_of_unknown_studies_beside_a_backlog_do_not_delay_settling(
    settings: Settings, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer, "BATCH", 1)
    waiting = WaitingFiles(Spool(settings.spool))
    urgent = image()
    store(settings, urgent, priority=1)
    dispatch.run_once(settings, app, waiting)
    for _ in range(4):
        store(settings, image())
    receive(settings, image())

    # Listed with the request of an unknown study; the next listing would find another one.
    waiting.refresh()
    monkeypatch.setattr(WaitingFiles, "is_due", True)
    dispatch.settle_and_index(settings, waiting)
    with transaction(settings.database()) as session:
        uid = urgent.StudyInstanceUID
        assert session.scalar(select(Study.state).where(Study.study_instance_uid == uid)) == "settled"
    assert waiting.studies, "the backlog waits"


def test_announced_number_of_objects_is_in_the_settle_reason(settings: Settings, app: Celery) -> None:
    receive(settings, image(NumberOfStudyRelatedInstances=3))
    wait_until(lambda: bool(dispatch.run_once(settings, app) and study(settings).state == "settled"))
    assert study(settings).settle_reason == "quiet for 0.001 s, with 1 image (1 of 3 objects announced)"


def test_study_without_images_ends_with_its_reason(settings: Settings, app: Celery) -> None:
    receive(settings, image(SOPClassUID=BasicTextSRStorage))
    dispatch.run_once(settings, app)
    dispatch.run_once(settings, app)
    assert (study(settings).state, study(settings).reason) == ("not_reportable", "no_images")
    assert jobs(settings) == []


def test_unreachable_broker_only_delays_the_message(
    settings: Settings, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive(settings, image())
    away = celery_app.make_app("redis://127.0.0.1:1/0")
    pauses: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr("kombu.utils.functional.sleep", pauses.append)
        dispatch.run_once(settings, away)
        dispatch.run_once(settings, away)
    assert len(jobs(settings)) == 1
    assert pauses == [], "kombu's retries would delay indexing by 6 s"

    dispatch.run_once(settings, app)
    assert len(messages(settings)) == 1


def test_lost_message_is_sent_again(settings: Settings, app: Celery) -> None:
    receive(settings, image())
    dispatch.run_once(settings, app)
    dispatch.run_once(settings, app)
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE jobs SET sent_at = sent_at - interval '1 hour'"))
    dispatch.run_once(settings, app)
    assert len(messages(settings)) == 1, "sent again although it still waits in the queue"

    with redis.Redis.from_url(settings.broker()) as client:
        client.flushall()
    dispatch.run_once(settings, app)
    assert len(messages(settings)) == 1
