"""Interoperability with Orthanc, which does not use pynetdicom: C-STORE and storage commitment."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from dicom_listener.commitment import deliver
from dicom_listener.indexing import indexer
from dicom_listener.receive.listener import Listener
from dicom_listener.receive.peers import PeerDirectory
from dicom_listener.scu import send
from dicom_listener.scu.send import Node
from tests.conftest import missing
from tests.integration.dicom_listener.listening import file_of_pydicom, settings_for, stored
from tests.integration.dicom_listener.test_killed import free_port
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings

pytestmark = pytest.mark.slow
PROGRAM = shutil.which("Orthanc", path="/usr/sbin:/usr/bin")


class Orthanc:
    """A running Orthanc with the listener as its modality `prelim`."""

    def __init__(self, folder: Path, prelim_port: int) -> None:
        self.dicom_port, self.http_port = free_port(), free_port()
        prelim = {"AET": "PRELIM", "Host": "127.0.0.1", "Port": prelim_port, "AllowStorageCommitment": True}
        configuration = {
            "StorageDirectory": str(folder),
            "IndexDirectory": str(folder),
            "DicomAet": "ORTHANC",
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "AuthenticationEnabled": False,
            "DicomModalities": {"prelim": prelim},
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen([PROGRAM or "", folder / "orthanc.json"], stdout=log, stderr=log)

    def ask(self, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def answers(self) -> bool:
        try:
            return bool(self.ask("/system"))
        except OSError:
            return False


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return settings_for(tmp_path, database_url=SecretStr(database_url), peers_file=tmp_path / "peers.toml")


@pytest.fixture
def orthanc(settings: Settings) -> Iterator[Orthanc]:
    if PROGRAM is None:
        missing("Orthanc (Debian package orthanc)")
    assert settings.dicom.peers_file is not None
    settings.dicom.peers_file.write_text("")
    folder = settings.operations.data_dir / "orthanc"
    folder.mkdir()
    with Listener(settings) as listener:
        orthanc = Orthanc(folder, listener.port)
        peer = f'[[peer]]\nae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {orthanc.dicom_port}\n'
        settings.dicom.peers_file.write_text(peer)
        try:
            wait_until(orthanc.answers)
            yield orthanc
        finally:
            orthanc.process.terminate()
            orthanc.process.wait()


def test_orthanc_stores_and_gets_its_commitment_result(orthanc: Orthanc, settings: Settings) -> None:
    files = [file_of_pydicom("CT_small.dcm"), file_of_pydicom("MR_small.dcm")]
    sent = list(send.send_files(files, Node("127.0.0.1", orthanc.dicom_port, "ORTHANC")))
    assert [result.status for result in sent] == [0, 0]
    orthanc.ask("/modalities/prelim/store", orthanc.ask("/instances"))
    objects = [[meta.sop_class_uid, meta.sop_instance_uid] for meta, _ in stored(settings)]
    assert len(objects) == 2

    requested = orthanc.ask("/modalities/prelim/storage-commitment", {"DicomInstances": objects})
    indexer.run_once(settings)
    stop = threading.Event()
    delivering = threading.Thread(target=deliver.run, args=(settings, PeerDirectory(settings.dicom.peers_file), stop))
    delivering.start()
    try:
        wait_until(lambda: orthanc.ask(requested["Path"])["Status"] != "Pending")
    finally:
        stop.set()
        delivering.join()
    result = orthanc.ask(requested["Path"])
    assert result["Status"] == "Success"
    assert len(result["Success"]) == 2
