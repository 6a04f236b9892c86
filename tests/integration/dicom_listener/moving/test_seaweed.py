"""A real S3 service: signatures, conditions and checksums; killed and started again while senders send."""

from __future__ import annotations

import datetime as dt
import io
import os
import threading
import time
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select

from db.models import Instance
from db.session import transaction
from db.storage import bucket, object_files
from db.storage.errors import StorageError
from deploy.operate import audit
from deploy.operate.doctor import object_storage
from deploy.operate.doctor.doctor import finding_of
from deploy.operate.doctor.finding import Installation, Level
from dicom_listener.indexing import indexer
from dicom_listener.moving import mover
from dicom_listener.receive.listener import Listener
from dicom_listener.spool.durable import Spool
from tests.fuzz.wire import Client, ct_slice
from tests.integration.dicom_listener.listening import settings_for
from tests.object_storage import Seaweed, seaweed, settings_of
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings

pytestmark = pytest.mark.slow

SENDERS, OBJECTS = 8, 40


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed(tmp_path_factory.mktemp("seaweed")) as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path, database_url: str, service: Seaweed) -> Settings:
    values = settings_of(service.endpoint, f"prelim-{time.time_ns()}")
    settings = settings_for(tmp_path, database_url=SecretStr(database_url), **values)
    Spool(settings.spool).prepare()
    return settings


def test_service_keeps_what_prelim_relies_on(settings: Settings) -> None:
    found = {check.name: finding_of(check, Installation(settings)) for check in object_storage.CHECKS}

    new = found.pop("storage_prefix")
    assert (new.level, new.found) == (Level.NOT_CHECKED, "no object is old enough to have a row for certain")
    assert {finding.level for finding in found.values()} == {Level.OK}, found
    assert len(found) == 4


def test_object_in_parts_is_put_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # The least part of S3 but the last is 5 MiB.
    monkeypatch.setattr(bucket, "MULTIPART", 5 << 20)
    monkeypatch.setattr(bucket, "PART", 5 << 20)
    content = os.urandom((5 << 20) + 1000)
    digest = sha256(content).hexdigest()
    objects = object_files.required(object_files.bucket(settings))

    assert objects.put("ab/large.dcm", io.BytesIO(content), len(content), digest)
    assert not objects.put("ab/large.dcm", io.BytesIO(content), len(content), digest)
    received = bytearray()
    objects.get("ab/large.dcm", received.extend)
    assert bytes(received) == content
    assert objects.head("ab/large.dcm") == bucket.Stored(len(content), digest)


def test_upload_without_an_end_is_listed_and_aborted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = object_files.required(object_files.bucket(settings))
    monkeypatch.setattr(bucket, "MULTIPART", 10)
    monkeypatch.setattr(bucket, "PART", 10)
    with pytest.raises(StorageError):
        objects.put("ab/large.dcm", io.BytesIO(b"a file that was changed"), 23, sha256(b"another file").hexdigest())
    (found,) = objects.uploads()
    assert found.key == "ab/large.dcm"
    assert found.begun_at is not None
    assert [*objects.uploads("cd/")] == []

    mover.Mover(settings).sweep()
    assert [*objects.uploads()] == [found], "it may go on"
    monkeypatch.setattr(mover, "ABANDONED", -dt.timedelta(hours=1))
    mover.Mover(settings).sweep()
    assert [*objects.uploads()] == []


def test_objects_are_listed_with_the_time_of_their_put(settings: Settings) -> None:
    objects = object_files.required(object_files.bucket(settings))
    assert objects.put("ab/small.dcm", io.BytesIO(b"object"), 6, sha256(b"object").hexdigest())

    (found,) = objects.objects()
    assert found.key == "ab/small.dcm"
    assert [*objects.objects("ab/small.dcm")] == []
    assert [*objects.objects("ab/a")] == [found]
    assert abs(dt.datetime.now(dt.UTC) - found.modified_at) < dt.timedelta(minutes=10)


def test_no_sender_notices_that_the_service_is_killed_and_started_again(settings: Settings, service: Seaweed) -> None:
    stop, slowest, refused = threading.Event(), [0.0], [0]

    def index() -> None:
        while not stop.is_set():
            if not indexer.run_once(settings):
                stop.wait(0.05)

    def send(port: int, sender: int) -> None:
        with Client(port) as client:
            client.associate()
            for number in range(OBJECTS):
                uid = f"1.2.{sender}.{number}"
                begun = time.monotonic()
                refused[0] += client.store(uid, ct_slice(uid, pixels=20_000)) != 0
                slowest[0] = max(slowest[0], time.monotonic() - begun)
            client.release()

    threads = [threading.Thread(target=index), threading.Thread(target=mover.run, args=(settings, stop))]
    with Listener(settings) as listener:
        senders = [threading.Thread(target=send, args=(listener.port, number)) for number in range(SENDERS)]
        for thread in (*threads, *senders[: SENDERS // 2]):
            thread.start()
        wait_until(lambda: moved(settings) > 0)
        service.stop(kill=True)
        for thread in senders[SENDERS // 2 :]:
            thread.start()
        for thread in senders:
            thread.join()
        away = moved(settings)
        service.start()
        wait_until(lambda: moved(settings) > away, 60)
        begun, left = time.monotonic(), SENDERS * OBJECTS - moved(settings)
        wait_until(lambda: moved(settings) == SENDERS * OBJECTS, 60)
    stop.set()
    for thread in threads:
        thread.join()
    rate = left / (time.monotonic() - begun)
    print(f"refused {refused[0]}, slowest acknowledgement {slowest[0]:.2f} s, {left} moved at {rate:.0f}/s")  # noqa: T201 - a figure

    assert refused[0] == 0
    assert slowest[0] < 5
    assert audit.check(settings) == []


def moved(settings: Settings) -> int:
    with transaction(settings.database()) as session:
        found = select(func.count()).select_from(Instance).where(Instance.object_sha256.is_not(None))
        return session.scalar(found) or 0
