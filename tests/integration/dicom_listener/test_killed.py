"""kill -9 at every step, then a restart: every acknowledged object is stored, complete and indexed once."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select

from db.models import Instance, Quarantined
from db.session import transaction
from db.storage import bucket
from deploy.operate import audit
from dicom_listener.indexing import indexer
from dicom_listener.moving.mover import Mover
from dicom_listener.receive.listener import Listener
from dicom_listener.spool import file_meta
from dicom_listener.spool.durable import Spool
from tests.fuzz.wire import Client, ct_slice
from tests.integration.dicom_listener.listening import settings_for, slot_of_listener, stored
from tests.integration.dicom_listener.objects import image, receive
from tests.polling import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.object_storage import FakeStorage

pytestmark = pytest.mark.slow

#: Bytes of an object that comes in three fragments, and of one that comes in one.
LARGE, SMALL = 40_000, 400
#: Each step of taking an object, and its call in the third one; the start of the listener links two files.
RECEIVING = [
    ("before os.writev", 8, LARGE),
    ("after os.writev", 8, LARGE),
    ("before os.pwrite", 3, LARGE),
    ("after os.pwrite", 3, LARGE),
    ("before os.fdatasync", 3, LARGE),
    ("after os.fdatasync", 3, LARGE),
    ("before os.link", 5, LARGE),
    ("after os.link", 5, LARGE),
    ("before dicom_listener.receive.dimse.response", 3, LARGE),
    ("after dicom_listener.receive.upper_layer.wire.Wire.write", 4, LARGE),
    ("before dicom_listener.spool.associations.AssociationMarks.remove", 1, LARGE),
    ("before os.writev", 3, SMALL),
    ("after os.writev", 3, SMALL),
    ("after os.fdatasync", 3, SMALL),
]
#: Each step of giving files their rows: a new one, a duplicate and a conflict.
INDEXING = [
    ("before os.link", 1),
    ("after os.link", 3),
    ("before dicom_listener.indexing.indexer.sync_directory", 1),
    ("after dicom_listener.indexing.indexer.sync_directory", 1),
    ("before db.studies.batches.record", 1),
    ("after db.studies.lifecycle.record_instance", 2),
    ("after db.studies.batches.record", 1),
    ("after db.studies.lifecycle.quarantine", 1),
    ("before pathlib.Path.unlink", 1),
    ("after pathlib.Path.unlink", 1),
    ("after pathlib.Path.unlink", 2),
    ("after pathlib.Path.unlink", 3),
]
#: Each step of moving two files to the object storage, in one request each, or in parts of so many bytes.
MOVING = [
    ("before db.storage.bucket.Bucket.put", 1, 1 << 20),
    ("after db.storage.bucket.Bucket.put", 1, 1 << 20),
    ("after db.storage.bucket.Bucket.put", 2, 1 << 20),
    ("after db.storage.bucket.Bucket._put_part", 2, 500),
    ("before db.storage.moves.mark", 1, 1 << 20),
    ("after db.storage.moves.mark", 1, 1 << 20),
    ("before pathlib.Path.unlink", 1, 1 << 20),
    ("after pathlib.Path.unlink", 1, 1 << 20),
    ("before db.storage.moves.deleted", 1, 1 << 20),
    ("after db.storage.moves.deleted", 1, 1 << 20),
]


def run_until_killed(what: str, folder: Path, where: str, step: str, call: int) -> subprocess.Popen[bytes]:
    module = "tests.integration.dicom_listener.killed"
    return subprocess.Popen(
        [sys.executable, "-m", module, what, str(folder), where, step, str(call)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.mark.parametrize(("step", "call", "size"), RECEIVING)
def test_acknowledged_object_survives_a_kill(tmp_path: Path, step: str, call: int, size: int) -> None:
    port = free_port()
    process = run_until_killed("listen", tmp_path, str(port), step, call)
    acknowledged = []
    wait_until(lambda: connects(port))
    with contextlib.suppress(OSError), Client(port) as client:
        client.associate()
        for number in range(6):
            uid = f"1.2.{number}"
            if client.store(uid, ct_slice(uid, pixels=size)) == 0:
                acknowledged.append(uid)
        client.release()
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert len(acknowledged) >= 2

    settings = settings_for(tmp_path)
    with Listener(settings):
        pass
    assert set(acknowledged) <= {meta.sop_instance_uid for meta, _ in stored(settings)}
    slot = slot_of_listener(settings)
    assert all(file_meta.is_complete(path) for path in slot.inbox.glob("*.dcm"))
    assert list(slot.inbox.glob("*.part")) == []
    assert list(slot.associations.iterdir()) == []


@pytest.mark.parametrize(("step", "call"), INDEXING)
def test_killed_indexing_is_repaired_by_the_next(tmp_path: Path, database_url: str, step: str, call: int) -> None:
    settings = settings_for(tmp_path, database_url=SecretStr(database_url))
    first = image()
    for dataset in (first, first, image(SOPInstanceUID=first.SOPInstanceUID), image()):
        receive(settings, dataset)
    process = run_until_killed("index", tmp_path, database_url, step, call)
    assert process.wait(timeout=60) == -signal.SIGKILL

    indexer.run_once(settings)
    with transaction(database_url) as session:
        counts = [session.scalar(select(func.count()).select_from(table)) for table in (Instance, Quarantined)]
    spool = Spool(settings.spool)
    files = [len(list(folder.rglob("*.dcm"))) for folder in (spool.inbox, spool.store, spool.quarantine)]
    assert (counts, files) == ([2, 1], [0, 2, 1])


@pytest.mark.parametrize(("step", "call", "part"), MOVING)
def test_killed_move_is_continued_by_the_next(
    tmp_path: Path,
    database_url: str,
    object_storage: FakeStorage,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    call: int,
    part: int,
) -> None:
    settings = settings_for(tmp_path, database_url=SecretStr(database_url), **object_storage.settings)
    contents = sorted(receive(settings, image()).read_bytes() for _ in range(2))
    indexer.run_once(settings)
    where = f"{database_url} {settings.storage.storage_endpoint} {part}"
    process = run_until_killed("move", tmp_path, where, step, call)
    assert process.wait(timeout=120) == -signal.SIGKILL

    for name in ("MULTIPART", "PART"):
        monkeypatch.setattr(bucket, name, part)
    mover = Mover(settings)
    while mover.run_once():
        pass
    assert sorted(found.body for found in object_storage.objects.values()) == contents
    assert object_storage.uploads == {}
    assert list(Spool(settings.spool).store.rglob("*.dcm")) == []
    assert audit.check(settings) == []
