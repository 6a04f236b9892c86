"""A spool of waiting files, and the rate at which dispatchers index it."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from sqlalchemy import text

from db.session import limit_statements, statements
from db.studies.settling import study_key
from dicom_listener import dispatch
from dicom_listener.spool import file_meta
from dicom_listener.spool.durable import COMPLETE, Spool
from dicom_listener.spool.file_meta import C_STORE, Reception
from dicom_listener.spool.waiting import WaitingFiles, received, tag
from tests.integration.dicom_listener.objects import encode, image
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import SpawnProcess
    from multiprocessing.synchronize import Barrier

    from db.settings import Settings

#: Images of a study.
IMAGES = 100
#: All of one length, to be replaced in an encoded data set.
UID = "2.25.1{:037d}"
#: Dispatchers of an installation.
DISPATCHERS = 2
#: Images of the STAT study beside a backlog, and its quiet time.
STAT_IMAGES, STAT_QUIET_SECONDS = 3, 1.0
BEGUN = text("SELECT EXISTS (SELECT FROM studies WHERE study_instance_uid = ANY (:uids))")
STATE = text("SELECT state FROM studies WHERE study_instance_uid = :uid")


def write(settings: Settings, count: int, *, images: int = IMAGES, urgent: bool = False) -> list[str]:
    """Write *count* acknowledged files into the inbox, in studies of *images*; return the studies' UIDs.

    Their headers are unsealed.
    """
    spool = Spool(settings.spool)
    spool.prepare()
    now = dt.datetime.now(dt.UTC)
    reception = Reception(C_STORE, "bench", "CT1", "PRELIM", "127.0.0.1", int(urgent), now)
    template = encode(image(SOPInstanceUID=UID.format(0), StudyInstanceUID=UID.format(1)))
    first = uuid.uuid4().int % 10**30 * 10**7
    studies = [UID.format(first + count + number // images) for number in range(count)]
    for number, study in enumerate(studies):
        uid = UID.format(first + number)
        data = template.replace(UID.format(0).encode(), uid.encode()).replace(UID.format(1).encode(), study.encode())
        head = file_meta.encode(CTImageStorage, uid, ExplicitVRLittleEndian, reception)
        name = f"{uuid.uuid4().hex}{tag(study_key(study), urgent=urgent)}{COMPLETE}"
        (spool.inbox / name).write_bytes(head + data)
    # They are durable, as acknowledged files are: the dispatcher's first flush must not write them.
    os.sync()
    return sorted(set(studies))


def rate(settings: Settings, count: int, dispatchers: int = DISPATCHERS) -> float:
    """Write *count* files and return the number that *dispatchers* index a second, until the inbox is empty."""
    write(settings, count)
    with _running(settings, dispatchers) as processes:
        began = time.perf_counter()
        for process in processes:
            process.join()
        seconds = time.perf_counter() - began
    assert not any(received(Spool(settings.spool))), "a dispatcher ended early"
    return count / seconds


def stat_seconds(settings: Settings, backlog: int) -> float:
    """Return the seconds beyond its quiet time after which a STAT study settles beside *backlog* waiting files.

    It is received while one dispatcher indexes the backlog; then the backlog is removed.
    """
    limits = settings.study.model_copy(update={"settle_seconds": STAT_QUIET_SECONDS})
    settings = settings.model_copy(update={"study": limits})
    studies = write(settings, backlog)
    with _running(settings, 1) as (dispatcher,):
        # The dispatcher has listed the backlog and indexes it.
        wait_until(lambda: _has_begun(settings, studies), 120)
        (study,) = write(settings, STAT_IMAGES, images=STAT_IMAGES, urgent=True)
        began = time.perf_counter()
        wait_until(lambda: _state(settings, study) == "settled" or not dispatcher.is_alive(), 120)
        seconds = time.perf_counter() - began
        assert any(received(Spool(settings.spool))), "the backlog was indexed before the study settled"
        dispatcher.terminate()
    for path in received(Spool(settings.spool)):
        path.unlink()
    return seconds - STAT_QUIET_SECONDS


def _has_begun(settings: Settings, studies: list[str]) -> bool:
    with statements(settings.database()) as session:
        return bool(session.scalar(BEGUN, {"uids": studies}))


def _state(settings: Settings, study: str) -> str | None:
    with statements(settings.database()) as session:
        state: str | None = session.scalar(STATE, {"uid": study})
    return state


@contextmanager
def _running(settings: Settings, dispatchers: int) -> Iterator[list[SpawnProcess]]:
    """Start dispatchers, which begin together; they end when the inbox is empty."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(dispatchers + 1)
    processes = [context.Process(target=_dispatch, args=(settings, start), daemon=True) for _ in range(dispatchers)]
    for process in processes:
        process.start()
    start.wait()
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _dispatch(settings: Settings, start: Barrier) -> None:
    limit_statements(settings, connections=dispatch.CONNECTIONS)
    spool = Spool(settings.spool)
    waiting = WaitingFiles(spool)
    start.wait()
    while any(received(spool)):
        dispatch.settle_and_index(settings, waiting)
