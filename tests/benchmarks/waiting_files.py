"""A spool of waiting files, and the rate at which dispatchers index it."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import time
import uuid
from typing import TYPE_CHECKING

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from db.session import limit_statements
from db.studies.settling import study_key
from dicom_listener import dispatch
from dicom_listener.spool import file_meta
from dicom_listener.spool.durable import COMPLETE, Spool
from dicom_listener.spool.file_meta import C_STORE, Reception
from dicom_listener.spool.waiting import WaitingFiles, received, tag
from tests.integration.dicom_listener.objects import encode, image

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

    from db.settings import Settings

#: Images of a study.
IMAGES = 100
#: All of one length, to be replaced in an encoded data set.
UID = "2.25.1{:037d}"
#: Dispatchers of an installation.
DISPATCHERS = 2


def write(settings: Settings, count: int) -> None:
    """Write *count* acknowledged files into the inbox, in studies of IMAGES; their headers are unsealed."""
    spool = Spool(settings.spool)
    spool.prepare()
    reception = Reception(C_STORE, "bench", "CT1", "PRELIM", "127.0.0.1", 0, dt.datetime.now(dt.UTC))
    template = encode(image(SOPInstanceUID=UID.format(0), StudyInstanceUID=UID.format(1)))
    first = uuid.uuid4().int % 10**30 * 10**7
    for number in range(count):
        uid, study = UID.format(first + number), UID.format(first + count + number // IMAGES)
        data = template.replace(UID.format(0).encode(), uid.encode()).replace(UID.format(1).encode(), study.encode())
        head = file_meta.encode(CTImageStorage, uid, ExplicitVRLittleEndian, reception)
        name = f"{uuid.uuid4().hex}{tag(study_key(study), urgent=False)}{COMPLETE}"
        (spool.inbox / name).write_bytes(head + data)


def rate(settings: Settings, count: int) -> float:
    """Write *count* files and return the number that DISPATCHERS index a second, until the inbox is empty."""
    write(settings, count)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(DISPATCHERS + 1)
    processes = [context.Process(target=_dispatch, args=(settings, start), daemon=True) for _ in range(DISPATCHERS)]
    for process in processes:
        process.start()
    start.wait()
    began = time.perf_counter()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - began
    assert not any(received(Spool(settings.spool))), "a dispatcher ended early"
    return count / seconds


def _dispatch(settings: Settings, start: Barrier) -> None:
    limit_statements(settings, connections=dispatch.CONNECTIONS)
    spool = Spool(settings.spool)
    waiting = WaitingFiles(spool)
    start.wait()
    while any(received(spool)):
        dispatch.settle_and_index(settings, waiting)
