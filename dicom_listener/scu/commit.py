"""Request storage commitment of a node, as a modality does before it deletes (`prelim commit`)."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING, Any

from pydicom import Dataset, Sequence
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from rich.console import Console
from rich.table import Table

from dicom_listener.dicom.uids import STORAGE_COMMITMENT_INSTANCE, STORAGE_COMMITMENT_PUSH_MODEL
from dicom_listener.scu.send import RESPONSE_SECONDS, Node, sendable

if TYPE_CHECKING:
    from collections.abc import Sequence as Several
    from pathlib import Path

#: Seconds for the result after the request.
RESULT_SECONDS = 60


def commit(paths: Several[Path], node: Node, *, listen_port: int | None = None) -> int:
    """Request storage commitment of the objects in *paths* and print the result; returns 0 if all are committed.

    The result is accepted on the association of the request and, if given, on *listen_port*.
    """
    console = Console()
    results: queue.Queue[Dataset] = queue.Queue()
    handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, _take, [results])]
    ae = AE(node.calling)
    ae.add_supported_context(STORAGE_COMMITMENT_PUSH_MODEL, scu_role=True, scp_role=True)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = RESPONSE_SECONDS
    server = None
    if listen_port is not None:
        server = ae.start_server(("", listen_port), block=False, evt_handlers=handlers)
    try:
        result = _request_commitment(ae, node, paths, handlers, results)
    finally:
        if server is not None:
            server.shutdown()
    console.print(result if isinstance(result, str) else _table(result))
    return 0 if isinstance(result, Dataset) and "FailedSOPSequence" not in result else 1


def _request_commitment(
    ae: AE, node: Node, paths: Several[Path], handlers: list[Any], results: queue.Queue[Dataset]
) -> Dataset | str:
    """Return the result, or the cause of its absence as text."""
    contexts = [build_context(STORAGE_COMMITMENT_PUSH_MODEL)]
    association = ae.associate(
        node.host, node.port, contexts=contexts, ae_title=node.called, evt_handlers=handlers, tls_args=node.tls_args
    )
    if not association.is_established:
        return f"{node.host}:{node.port} does not accept storage commitment requests"
    try:
        status, _ = association.send_n_action(
            _request(paths), 1, STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_INSTANCE
        )
        if "Status" not in status or status.Status != 0:
            return f"request refused: {status.get('ErrorComment', '')}"
        return results.get(timeout=RESULT_SECONDS)
    except queue.Empty:
        return f"no result within {RESULT_SECONDS} s"
    finally:
        association.release()


def _request(paths: Several[Path]) -> Dataset:
    request = Dataset()
    request.TransactionUID = generate_uid()
    request.ReferencedSOPSequence = Sequence()
    for file in sendable(paths):
        reference = Dataset()
        reference.ReferencedSOPClassUID = file.sop_class_uid
        reference.ReferencedSOPInstanceUID = file.sop_instance_uid
        request.ReferencedSOPSequence.append(reference)
    return request


def _take(event: Any, results: queue.Queue[Dataset]) -> tuple[int, None]:
    results.put(event.event_information)
    return 0, None


def _table(result: Dataset) -> Table:
    table = Table("SOP Instance UID", "result", title="Storage commitment")
    for item in result.get("ReferencedSOPSequence", ()):
        table.add_row(item.ReferencedSOPInstanceUID, "committed")
    for item in result.get("FailedSOPSequence", ()):
        table.add_row(item.ReferencedSOPInstanceUID, f"not committed ({item.FailureReason:04X})")
    return table
