"""C-ECHO and C-STORE over loopback, with pynetdicom as the sender."""

from __future__ import annotations

import contextlib
import csv
import gc
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.dsutils import split_dataset

from dicom_listener.scu import send
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received
from tests.integration.dicom_listener.listening import file_of_pydicom, node, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from db.settings import Settings
    from dicom_listener.receive.listener import Listener


def test_c_echo_succeeds(listener: Listener) -> None:
    assert send.echo(node(listener)) == 0


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_echo_fails_when_nothing_listens(listener: Listener) -> None:
    gone = node(listener)
    listener.stop()
    assert send.echo(gone) == 1


class NeverPaused(threading.Event):
    """Flag of pynetdicom's own loop: set, the loop runs beside the sender, as it may for a moment after a response."""

    def clear(self) -> None:
        return


def test_reactor_of_pynetdicom_takes_no_response(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    flags: list[threading.Event] = []

    class Flag(threading.Event):
        def __init__(self) -> None:
            super().__init__()
            if threading.get_ident() == threading.main_thread().ident:  # not of the listener
                flags.append(self)

    (file,) = send.sendable([file_of_pydicom("CT_small.dcm")])
    with contextlib.ExitStack() as opened:
        with monkeypatch.context() as patch:
            patch.setattr(threading, "Event", Flag)
            association = opened.enter_context(send._associated(node(listener), [send._context(file)]))
        assert flags
        for flag in flags:
            flag.__class__ = NeverPaused
            flag.set()
        association.dimse_timeout = 3
        answers = [send._send_one(association, file).status for _ in range(300)]
        # Only a paused loop lets the association be released.
        for flag in flags:
            flag.__class__ = threading.Event

    assert answers == [0] * 300


class Impatient(AE):
    """AE with an idle timeout of a second instead of a minute."""

    def __init__(self, ae_title: str) -> None:
        super().__init__(ae_title)
        self.network_timeout = 1


@contextlib.contextmanager
def receiver(store: Callable[[evt.Event], int]) -> Iterator[send.Node]:
    """A receiver made of pynetdicom that handles C-STORE by *store*."""
    ae = AE("RECEIVER")
    ae.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
    server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield send.Node("127.0.0.1", int(server.server_address[1]), "RECEIVER")
    finally:
        server.shutdown()


def test_response_may_take_longer_than_the_idle_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    def store(_: evt.Event) -> int:
        time.sleep(2.5)
        return 0

    monkeypatch.setattr(send, "AE", Impatient)
    with receiver(store) as slow:
        sent = list(send.send_files([file_of_pydicom("CT_small.dcm")], slow))

    assert [result.status for result in sent] == [0]


# pynetdicom leaves the socket of an aborted association to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_receiver_without_response_ends_the_association_and_is_reported_for_every_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = threading.Event()

    def store(_: evt.Event) -> int:
        go_on.wait(60)
        return 0

    monkeypatch.setattr(send, "RESPONSE_SECONDS", 1)
    with receiver(store) as silent:
        try:
            sent = list(send.send_files([file_of_pydicom("CT_small.dcm")] * 3, silent))
        finally:
            go_on.set()
    gc.collect()

    assert [(result.status, result.detail) for result in sent] == [(None, send.NO_RESPONSE)] * 3


def test_every_test_file_gets_its_expected_status(listener: Listener, settings: Settings, test_data: Path) -> None:
    with (test_data / "dicom" / "MANIFEST.csv").open(newline="") as file:
        manifest = {test_data / "dicom" / row["file"]: row for row in csv.DictReader(file)}
    sendable = {path for path, row in manifest.items() if row["sendable"] == "yes"}
    refused = {path for path, row in manifest.items() if row["reject_stage"] == "at C-STORE"}

    results = {result.path: result for result in send.send_files(manifest, node(listener))}

    assert results.keys() == manifest.keys()
    assert {path for path in sendable if results[path].status == 0} == sendable - refused
    assert {hex(results[path].status or 0)[:3] for path in refused} == {"0xc"}
    kept = Counter(data_set for _, data_set in stored(settings))
    assert kept == Counter(path.read_bytes()[split_dataset(path)[1] :] for path in sendable - refused)


def test_data_set_is_stored_byte_for_byte(listener: Listener, settings: Settings) -> None:
    source = file_of_pydicom("JPEG2000.dcm")
    [result] = send.send_files([source], node(listener, calling="CT_1"))

    assert result.status == 0
    [(meta, data_set)] = stored(settings)
    source_meta, offset = split_dataset(source)
    assert data_set == source.read_bytes()[offset:]
    assert meta.transfer_syntax_uid == source_meta.TransferSyntaxUID
    assert meta.reception.calling_ae_title == "CT_1"
    assert meta.reception.called_ae_title == "PRELIM"


def test_stored_file_is_a_dicom_file_with_an_empty_preamble(listener: Listener, settings: Settings) -> None:
    list(send.send_files([file_of_pydicom("CT_small.dcm")], node(listener)))

    [path] = received(Spool(settings.spool))
    dataset = pydicom.dcmread(path)
    assert dataset.preamble == bytes(128)
    assert dataset.file_meta.SendingApplicationEntityTitle == "PRELIM_SCU"
    assert dataset.pixel_array.shape == (128, 128)
