"""Repair by the indexer: an object that is sent again replaces a stored file that is missing or damaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from db.models import Instance, Quarantined, Study
from db.session import transaction
from deploy.operate import audit
from dicom_listener.indexing import headers, indexer
from dicom_listener.spool.durable import Spool
from tests.integration.dicom_listener.indexing.spool_rows import files, rows
from tests.integration.dicom_listener.objects import image, receive

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings


def damage(path: Path, kind: str) -> None:
    """Damage a stored file; `loop` and `directory` are damaged entries, which rename cannot always replace."""
    if kind == "bit":
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))
        return
    path.unlink()
    if kind == "loop":
        path.symlink_to(path)
    elif kind == "directory":
        (path / "lost").mkdir(parents=True)


@pytest.mark.parametrize("kind", ["missing", "bit", "loop", "directory"])
def test_resent_object_repairs_its_missing_or_damaged_file(settings: Settings, kind: str) -> None:
    dataset = image()
    receive(settings, dataset)
    indexer.run_once(settings)
    [before] = rows(settings, Instance)
    damage(settings.operations.data_dir / before.file_path, kind)

    receive(settings, dataset, calling_ae_title="A_LONGER_TITLE")
    receive(settings, dataset)
    indexer.run_once(settings)

    [instance] = rows(settings, Instance)
    stored = settings.operations.data_dir / instance.file_path
    assert headers.digest(stored) == headers.Digest(instance.file_bytes, instance.sha256)
    assert (instance.file_path == before.file_path) is (kind != "directory")
    assert [path for path in Spool(settings.spool).store.glob("*/*.dcm") if path.is_file()] == [stored]
    assert files(settings)["inbox"] == 0


def report(settings: Settings) -> None:
    """Let the study be reported, as after its job."""
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE studies SET state = 'reported', settled_at = now(), settle_reason = 'quiet'"))


@pytest.mark.parametrize(
    ("values", "is_taken"),
    [
        ({"InstanceCreationTime": "101112"}, True),
        ({"PatientID": "P-2"}, False),
        ({"StudyInstanceUID": "2.25.1"}, False),
        ({"SeriesInstanceUID": "2.25.1"}, False),
    ],
)
def test_other_version_of_an_object_replaces_a_lost_file_of_its_study_only(
    settings: Settings, values: dict[str, str], is_taken: bool
) -> None:
    dataset = image()
    receive(settings, dataset)
    indexer.run_once(settings)
    [before] = rows(settings, Instance)
    (settings.operations.data_dir / before.file_path).unlink()
    report(settings)

    receive(settings, image(**{element.keyword: element.value for element in dataset} | values))
    indexer.run_once(settings)

    [instance] = rows(settings, Instance)
    stored = settings.operations.data_dir / instance.file_path
    assert stored.exists() is is_taken
    assert len(rows(settings, Quarantined)) == (not is_taken)
    assert rows(settings, Study)[0].revision == instance.revision == (2 if is_taken else 1), "its pixels may differ"
    if is_taken:
        assert headers.digest(stored) == headers.Digest(instance.file_bytes, instance.sha256)
        assert audit.check(settings) == []
        assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 0}


@pytest.mark.parametrize("step", ["pathlib.Path.replace", "dicom_listener.indexing.repair.sync_directory"])
def test_repair_that_was_interrupted_is_repeated(
    settings: Settings, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    dataset = image()
    receive(settings, dataset)
    indexer.run_once(settings)
    [before] = rows(settings, Instance)
    (settings.operations.data_dir / before.file_path).unlink()
    receive(settings, dataset, calling_ae_title="A_LONGER_TITLE")
    with monkeypatch.context() as patch:
        patch.setattr(step, crash)
        with pytest.raises(Crash):
            indexer.run_once(settings)
    indexer.run_once(settings)

    [instance] = rows(settings, Instance)
    assert (settings.operations.data_dir / instance.file_path).stat().st_size == instance.file_bytes
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 0}
