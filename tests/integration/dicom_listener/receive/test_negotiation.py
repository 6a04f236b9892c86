"""Association negotiation: proposed and accepted contexts, extended negotiation, PDU length."""

from __future__ import annotations

import shutil
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE, evt
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation, UserIdentityNegotiation
from pynetdicom.presentation import build_context, build_role

from dicom_listener.dicom.uids import STORAGE_COMMITMENT_PUSH_MODEL, VERIFICATION
from dicom_listener.receive.listener import Listener
from tests.conftest import missing
from tests.fuzz import wire
from tests.fuzz.wire import Client, ct_slice
from tests.integration.dicom_listener.listening import settings_for, stored
from tests.integration.dicom_listener.objects import image

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings

QUERY = "1.2.840.10008.5.1.4.1.2.2.1"
RETIRED_ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6"
PRIVATE = "1.3.46.670589.2.3.1.1"


def associate(listener: Listener, *contexts: Any, **more: Any) -> Any:
    association = AE("CT_1").associate("127.0.0.1", listener.port, contexts=list(contexts), **more)
    assert association.is_established
    return association


@pytest.mark.parametrize(
    ("proposed", "chosen"),
    [
        ([ImplicitVRLittleEndian, ExplicitVRLittleEndian], ImplicitVRLittleEndian),
        ([ExplicitVRLittleEndian, ImplicitVRLittleEndian], ExplicitVRLittleEndian),
        ([RLELossless, ExplicitVRLittleEndian], RLELossless),
        ([ExplicitVRBigEndian, ExplicitVRLittleEndian], ExplicitVRBigEndian),
        (["1.2.840.10008.1.2.4.110", ExplicitVRLittleEndian], ExplicitVRLittleEndian),
        (["1.3.46.670589.33.1", ImplicitVRLittleEndian], ImplicitVRLittleEndian),
        (["1.2.840.10008.1.2.4.102", ExplicitVRLittleEndian], "1.2.840.10008.1.2.4.102"),
        ([ImplicitVRLittleEndian], ImplicitVRLittleEndian),
        ([JPEG2000Lossless, ImplicitVRLittleEndian], JPEG2000Lossless),
        (["1.3.46.670589.33.1"], "1.3.46.670589.33.1"),
    ],
)
def test_first_syntax_that_can_be_decoded_is_accepted_else_the_first(
    listener: Listener, proposed: list[str], chosen: str
) -> None:
    association = associate(listener, build_context(CTImageStorage, proposed))
    assert [context.transfer_syntax for context in association.accepted_contexts] == [[chosen]]
    association.release()


def test_each_syntax_in_a_context_of_its_own_is_accepted(listener: Listener) -> None:
    syntaxes = [
        JPEG2000Lossless,
        RLELossless,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        "1.2.840.10008.1.2.4.110",
    ]
    association = associate(listener, *(build_context(CTImageStorage, syntax) for syntax in syntaxes))
    accepted = [context.transfer_syntax[0] for context in association.accepted_contexts]
    association.release()

    assert accepted == syntaxes


def test_syntaxes_that_are_stored_only_are_logged(listener: Listener) -> None:
    with structlog.testing.capture_logs() as logs:
        contexts = [build_context(CTImageStorage, "1.2.840.10008.1.2.4.110"), build_context(CTImageStorage)]
        associate(listener, *contexts).release()

    [entry] = [entry for entry in logs if entry["event"] == "association.syntaxes_not_decoded"]
    assert entry["transfer_syntaxes"] == ["1.2.840.10008.1.2.4.110 (JPEG XL Lossless)"]


@pytest.mark.parametrize(
    ("number", "syntax"), [(1, RLELossless), (2, JPEG2000Lossless), (3, ExplicitVRLittleEndian), (4, JPEGLSLossless)]
)
def test_dcmsend_delivers_the_bytes_of_the_pixels(
    listener: Listener, settings: Settings, tmp_path: Path, number: int, syntax: str
) -> None:
    program = shutil.which("dcmsend")
    if program is None:
        missing("DCMTK's dcmsend (Debian package dcmtk)")
    dataset = image(SOPInstanceUID=f"1.2.{number}", Rows=64, Columns=64)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.PixelData = bytes(range(64)) * 64
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(tmp_path / "sent.dcm", enforce_file_format=True)

    subprocess.run([str(program), "127.0.0.1", str(listener.port), tmp_path / "sent.dcm"], check=True, timeout=30)

    [(meta, data_set)] = stored(settings)
    assert meta.transfer_syntax_uid == syntax
    assert dataset.PixelData in data_set


@pytest.mark.parametrize(
    "sop_class", [RETIRED_ULTRASOUND, PRIVATE, "1.2.3.4.5", VERIFICATION, STORAGE_COMMITMENT_PUSH_MODEL]
)
def test_retired_private_and_unknown_sop_classes_are_accepted(listener: Listener, sop_class: str) -> None:
    association = associate(listener, build_context(sop_class))
    assert [context.abstract_syntax for context in association.accepted_contexts] == [sop_class]
    association.release()


def test_unsupported_context_is_rejected_beside_a_supported_one(listener: Listener) -> None:
    association = associate(listener, build_context(QUERY), build_context(CTImageStorage))
    assert [context.abstract_syntax for context in association.accepted_contexts] == [CTImageStorage]
    assert [context.result for context in association.rejected_contexts] == [3]
    association.release()


def test_extended_negotiation_is_tolerated(listener: Listener) -> None:
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 5
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field = 1, b"technologist"
    identity.positive_response_requested = False
    roles = build_role(CTImageStorage, scu_role=True, scp_role=True)
    association = associate(
        listener, build_context(CTImageStorage), build_context(VERIFICATION), ext_neg=[window, identity, roles]
    )
    assert association.send_c_echo().Status == 0
    assert [context.as_scu for context in association.accepted_contexts] == [True, True]
    association.release()


@pytest.mark.parametrize(
    ("versions", "answer"),
    [(1, wire.ASSOCIATE_AC), (0xFFFF, wire.ASSOCIATE_AC), (0, wire.ASSOCIATE_RJ), (2, wire.ASSOCIATE_RJ)],
)
def test_request_with_version_1_among_its_versions_is_accepted(listener: Listener, versions: int, answer: int) -> None:
    request = bytearray(wire.associate_rq())
    request[6:8] = versions.to_bytes(2)
    with Client(listener.port) as client:
        kind, content = client.ask(bytes(request))
    assert kind == answer
    if kind == wire.ASSOCIATE_RJ:
        assert tuple(content[1:]) == (1, 2, 2), "permanent, by the ACSE provider: protocol version not supported"


@pytest.mark.parametrize(
    "sop_class",
    [CTImageStorage, PRIVATE, VERIFICATION, STORAGE_COMMITMENT_PUSH_MODEL],
)
@pytest.mark.parametrize(
    ("scu", "scp", "answer"), [(True, False, [(True, False)]), (True, True, [(True, False)]), (False, True, [])]
)
def test_scu_role_of_every_sop_class_is_confirmed(
    listener: Listener, sop_class: str, scu: bool, scp: bool, answer: list[tuple[bool, bool]]
) -> None:
    role = build_role(sop_class, scu_role=scu, scp_role=scp)
    association = associate(listener, build_context(sop_class), ext_neg=[role])
    answers = association.acceptor.role_selection.values()
    assert [(found.scu_role, found.scp_role) for found in answers] == answer
    association.release()


def test_contexts_of_one_sop_class_keep_their_own_syntaxes(listener: Listener) -> None:
    orders = [[ImplicitVRLittleEndian, ExplicitVRLittleEndian], [ExplicitVRLittleEndian, ImplicitVRLittleEndian]]
    contexts = [build_context(CTImageStorage, order) for order in orders]
    association = associate(listener, *contexts, build_context(VERIFICATION, RLELossless))
    accepted = [context.transfer_syntax[0] for context in association.accepted_contexts]
    assert accepted == [ImplicitVRLittleEndian, ExplicitVRLittleEndian]
    assert [context.result for context in association.rejected_contexts] == [4]
    association.release()


def test_maximum_pdu_length_is_configurable(tmp_path: Path) -> None:
    with Listener(settings_for(tmp_path, max_pdu_bytes=65536)) as listener:
        association = associate(listener, build_context(VERIFICATION))
        assert association.acceptor.maximum_length == 65536
        association.release()


def test_response_is_fragmented_for_a_small_maximum_pdu_length(listener: Listener) -> None:
    answers: list[bytes] = []
    handlers: list[Any] = [(evt.EVT_DATA_RECV, lambda event: answers.append(event.data))]
    association = associate(listener, build_context(VERIFICATION), max_pdu=32, evt_handlers=handlers)
    assert association.send_c_echo().Status == 0
    association.release()
    pieces = [answer for answer in answers if answer[0] == wire.P_DATA_TF]
    assert len(pieces) > 1
    assert max(map(len, pieces)) <= 32 + 6


def test_many_associations_store_at_once(listener: Listener, settings: Settings) -> None:
    answers: list[int] = []

    def send(sender: int) -> None:
        with Client(listener.port) as client:
            client.associate()
            for number in range(20):
                uid = f"1.2.{sender}.{number}"
                answers.append(client.store(uid, ct_slice(uid, pixels=30_000)))
            client.release()

    senders = [threading.Thread(target=send, args=(sender,)) for sender in range(1, 9)]
    for thread in senders:
        thread.start()
    for thread in senders:
        thread.join()
    assert answers == [0] * 160
    kept = {meta.sop_instance_uid: data_set for meta, data_set in stored(settings)}
    assert kept == {
        uid: ct_slice(uid, pixels=30_000) for uid in (f"1.2.{s}.{n}" for s in range(1, 9) for n in range(20))
    }
