"""`prelim commit`: ask a node for storage commitment, as a modality does before it deletes."""

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
from dicom_listener.scu.send import ANSWER_SECONDS, Node, sendable

if TYPE_CHECKING:
    from collections.abc import Sequence as Several
    from pathlib import Path

#: Seconds to wait for the report.
REPORT_SECONDS = 60


def commit(paths: Several[Path], node: Node, *, listen_port: int | None = None) -> int:
    """Ask *node* to commit to the objects in *paths* and print its report; returns 0 when it commits to all.

    The report is taken on the association that asked, and on *listen_port*, for a node that calls back.
    """
    console = Console()
    reports: queue.Queue[Dataset] = queue.Queue()
    handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, _take, [reports])]
    ae = AE(node.calling)
    ae.add_supported_context(STORAGE_COMMITMENT_PUSH_MODEL, scu_role=True, scp_role=True)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ANSWER_SECONDS
    server = None
    if listen_port is not None:
        server = ae.start_server(("", listen_port), block=False, evt_handlers=handlers)
    try:
        report = _ask(ae, node, paths, handlers, reports)
    finally:
        if server is not None:
            server.shutdown()
    console.print(report if isinstance(report, str) else _table(report))
    return 0 if isinstance(report, Dataset) and "FailedSOPSequence" not in report else 1


def _ask(ae: AE, node: Node, paths: Several[Path], handlers: list[Any], reports: queue.Queue[Dataset]) -> Dataset | str:
    """The report, or why there is none."""
    contexts = [build_context(STORAGE_COMMITMENT_PUSH_MODEL)]
    association = ae.associate(
        node.host, node.port, contexts=contexts, ae_title=node.called, evt_handlers=handlers, tls_args=node.tls_args
    )
    if not association.is_established:
        return f"{node.host}:{node.port} does not take storage commitment requests"
    try:
        status, _ = association.send_n_action(
            _request(paths), 1, STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_INSTANCE
        )
        if "Status" not in status or status.Status != 0:
            return f"the request is refused: {status.get('ErrorComment', '')}"
        return reports.get(timeout=REPORT_SECONDS)
    except queue.Empty:
        return f"no report within {REPORT_SECONDS} s"
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


def _take(event: Any, reports: queue.Queue[Dataset]) -> tuple[int, None]:
    reports.put(event.event_information)
    return 0, None


def _table(report: Dataset) -> Table:
    table = Table("SOP Instance UID", "answer", title="Storage commitment")
    for item in report.get("ReferencedSOPSequence", ()):
        table.add_row(item.ReferencedSOPInstanceUID, "committed")
    for item in report.get("FailedSOPSequence", ()):
        table.add_row(item.ReferencedSOPInstanceUID, f"not committed ({item.FailureReason:04X})")
    return table
