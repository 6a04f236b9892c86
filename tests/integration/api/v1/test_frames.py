"""Stored frames by the API: those of one study, audited, with the values that were received."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import TYPE_CHECKING

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset

from db.models import AuditRow, Instance
from db.session import transaction
from db.storage import object_files
from tests.object_storage import PREFIX, Put

if TYPE_CHECKING:
    import uuid
    from pathlib import Path

    import numpy.typing as npt
    from fastapi.testclient import TestClient

    from tests.integration.api.arrivals import Arrivals
    from tests.object_storage import FakeStorage


def radiograph(pixels: npt.NDArray[np.uint16], path: Path) -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    dataset.Modality, dataset.PatientName, dataset.PatientOrientation = "DX", "Doe^Jane", ["L", "F"]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def stored(arrivals: Arrivals, study_id: uuid.UUID, folder: Path, pixels: npt.NDArray[np.uint16]) -> str:
    """Write the file of the study's only image; return the id of the image."""
    with transaction(arrivals.url) as session:
        row = session.query(Instance).filter_by(study_id=study_id).one()
        radiograph(pixels, folder / row.file_path)
        return str(row.id)


PIXELS = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def test_frame_is_read_with_its_values_and_is_an_audited_read(
    client: TestClient, arrivals: Arrivals, tmp_path: Path
) -> None:
    study_id = arrivals.reported()
    image_id = stored(arrivals, study_id, tmp_path, PIXELS)
    [series] = client.get(f"/v1/studies/{study_id}/instances").json()["series"]
    assert [image["id"] for image in series["images"]] == [image_id]
    path = f"/v1/studies/{study_id}/instances/{image_id}/frames/1"
    answer = client.get(path)
    (length,) = struct.unpack_from("<I", answer.content)

    assert json.loads(answer.content[4 : 4 + length])["edges"]["right"] == "L"
    assert answer.content[4 + length :][: PIXELS.nbytes] == PIXELS.tobytes()
    assert b"Doe" not in answer.content
    assert client.get(path, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    with transaction(arrivals.url) as session:
        rows = [row for row in session.query(AuditRow) if row.route.endswith("/frames/{frame}")]
        assert [row.status for row in rows] == [200, 304]
        assert {(row.action, tuple(row.studies)) for row in rows} == {("read", (study_id,))}


def test_frames_of_other_studies_missing_files_and_missing_frames_are_not_found(
    client: TestClient, arrivals: Arrivals, tmp_path: Path
) -> None:
    study_id, other = arrivals.reported(), arrivals.reported()
    image_id = stored(arrivals, study_id, tmp_path, PIXELS)
    of_other = client.get(f"/v1/studies/{other}/instances/{image_id}/frames/1")
    beyond = client.get(f"/v1/studies/{study_id}/instances/{image_id}/frames/2")
    (tmp_path / "spool").rename(tmp_path / "moved")
    missing = client.get(f"/v1/studies/{study_id}/instances/{image_id}/frames/1")

    assert [answer.status_code for answer in (of_other, beyond, missing)] == [404, 404, 404]
    assert of_other.json()["code"] == "not_found"
    assert (beyond.json()["code"], beyond.json()["reason_detail"]) == ("no_picture", "the frame does not exist")
    assert missing.json()["reason_detail"] == "the stored file is missing"


def test_frame_of_a_moved_file_is_read_from_the_object_storage(
    client: TestClient, arrivals: Arrivals, tmp_path: Path, object_storage: FakeStorage
) -> None:
    study_id = arrivals.reported()
    image_id = stored(arrivals, study_id, tmp_path, PIXELS)
    state = client.app.state  # type: ignore[attr-defined]
    state.settings = state.settings.replace(**object_storage.settings)
    with transaction(arrivals.url) as session:
        row = session.query(Instance).filter_by(study_id=study_id).one()
        content = (tmp_path / row.file_path).read_bytes()
        (tmp_path / row.file_path).unlink()
        row.file_path = f"spool/store/ab/{image_id}.dcm"
        row.object_sha256 = hashlib.sha256(content).hexdigest()
        key = f"{PREFIX}/{object_files.key(row.file_path)}"
    path = f"/v1/studies/{study_id}/instances/{image_id}/frames/1"

    object_storage.away = True
    waiting = client.get(path)
    object_storage.away = False
    lost = client.get(path)
    object_storage.objects[key] = Put(content)
    found = client.get(path)

    assert [answer.status_code for answer in (waiting, lost, found)] == [503, 404, 200]
    assert "object storage" in waiting.json()["detail"]
    assert lost.json()["reason"] == "missing"
    assert PIXELS.tobytes() in found.content
