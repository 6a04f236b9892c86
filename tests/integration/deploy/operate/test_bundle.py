"""A bundle describes a failed study and holds no patient data."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian
from sqlalchemy import select, text

from db.errors import UnknownStudy
from db.jobs import claims
from db.models import Instance
from db.session import transaction
from deploy.operate import bundle
from dicom_listener.indexing import indexer
from tests.integration.db.conftest import Arrivals
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import encode, image, receive

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings

PATIENT = {
    "PatientName": "Phantom^Ada",
    "PatientID": "SECRET-1",
    "PatientBirthDate": "19151210",
    "AccessionNumber": "SECRET-2",
    "StudyDate": "20260102",
    "StudyDescription": "SECRET-3",
    "InstitutionName": "SECRET-4",
}


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return settings_for(tmp_path, database_url=SecretStr(database_url))


def failed_study(settings: Settings, *, odd_rows: bytes = b"") -> str:
    """UID of a study whose only attempt had an unexpected error; *odd_rows* is its value of Rows (0028,0010)."""
    sent = image(**PATIENT)
    receive(settings, sent, data=with_rows(encode(sent), odd_rows) if odd_rows else None)
    indexer.run_once(settings)
    arrivals = Arrivals(settings.database(), uid=sent.StudyInstanceUID)
    arrivals.settle()
    claim = arrivals.claim()
    assert claim is not None
    with transaction(settings.database()) as session:
        again = {"pause_seconds": 1, "max_attempts": 1, "frames": ["worker/pipeline.py:7 write"]}
        claims.retry_later(session, claim, "unexpected", "ValueError", **again)
    return str(sent.StudyInstanceUID)


def with_rows(encoded: bytes, value: bytes) -> bytes:
    rows = b"\x28\x00\x10\x00US"
    before, after = encoded.split(rows + b"\x02\x00\x08\x00")
    return before + rows + len(value).to_bytes(2, "little") + value + after


def deflate_and_cut_short(stored: Path) -> None:
    dataset = dcmread(stored)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(stored, implicit_vr=False, little_endian=True)
    stored.write_bytes(stored.read_bytes()[:-20])


def test_bundle_holds_headers_attempts_and_versions(settings: Settings, tmp_path: Path) -> None:
    bundle.write(settings, failed_study(settings), tmp_path / "bundle.json")

    written = json.loads((tmp_path / "bundle.json").read_text())
    assert written["instances"][0]["header"]["Rows"] == "8"
    assert written["jobs"][0]["frames"] == ["worker/pipeline.py:7 write"]
    assert written["study"]["reason"] == "unexpected"
    assert written["versions"]["prelim"]


def test_bundle_holds_no_patient_data(settings: Settings, tmp_path: Path) -> None:
    uid = failed_study(settings)
    bundle.write(settings, uid, tmp_path / "bundle.json")

    written = (tmp_path / "bundle.json").read_text()
    assert not [value for value in (*PATIENT.values(), "Phantom", uid) if value in written]


def test_unreadable_file_is_listed(settings: Settings, tmp_path: Path) -> None:
    uid = failed_study(settings)
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE instances SET file_path = 'gone'"))
    bundle.write(settings, uid, tmp_path / "bundle.json")

    written = json.loads((tmp_path / "bundle.json").read_text())
    assert written["instances"][0]["header"] == {"unreadable": "FileNotFoundError"}


def test_pipe_at_the_place_of_a_file_is_listed(settings: Settings, tmp_path: Path) -> None:
    uid = failed_study(settings)
    os.mkfifo(settings.operations.data_dir / "pipe")
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE instances SET file_path = 'pipe'"))
    bundle.write(settings, uid, tmp_path / "bundle.json")

    written = json.loads((tmp_path / "bundle.json").read_text())
    assert written["instances"][0]["header"] == {"unreadable": "OSError"}


def test_unreadable_element_is_listed_by_its_error_and_not_quoted(settings: Settings, tmp_path: Path) -> None:
    uid = failed_study(settings, odd_rows=b"Ada")
    bundle.write(settings, uid, tmp_path / "bundle.json")

    written = (tmp_path / "bundle.json").read_text()
    header = json.loads(written)["instances"][0]["header"]
    assert (header["Rows"], header["Columns"]) == ({"unreadable": "pydicom.errors.BytesLengthException"}, "8")
    assert "Ada" not in written


def test_truncated_deflated_file_is_listed_by_its_error(settings: Settings, tmp_path: Path) -> None:
    uid = failed_study(settings)
    with transaction(settings.database()) as session:
        deflate_and_cut_short(settings.operations.data_dir / session.scalars(select(Instance.file_path)).one())
    bundle.write(settings, uid, tmp_path / "bundle.json")

    written = json.loads((tmp_path / "bundle.json").read_text())
    assert written["instances"][0]["header"] == {"unreadable": "zlib.error"}


def test_unknown_study_has_no_bundle(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UnknownStudy):
        bundle.write(settings, "unknown", tmp_path / "bundle.json")
