"""Send C-ECHO and C-STORE requests, to test a site: `prelim echo` and `prelim send`.

Data sets are sent byte for byte in the transfer syntax of their files: nothing is decoded, no fault corrected.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pydicom.config import disable_value_validation
from pydicom.errors import InvalidDicomError
from pynetdicom import AE
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import split_dataset
from pynetdicom.presentation import build_context
from rich.console import Console
from rich.progress import track
from rich.table import Table

from db.errors import ConfigurationError, PrelimError
from dicom_listener.dicom import data_sets
from dicom_listener.dicom.statuses import SUCCESS, Refusal
from dicom_listener.dicom.uids import VERIFICATION
from dicom_listener.receive.upper_layer.negotiation import MAX_CONTEXTS

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from pynetdicom.association import Association
    from pynetdicom.presentation import PresentationContext

#: Bytes of a received PDU; the receiver limits those sent.
PDU_BYTES = 131072
#: Seconds for a connection or a response: a receiver that flushes to a slow disk needs some.
RESPONSE_SECONDS = 60
#: Bytes of the data set read for its UIDs; they are among the first elements.
HEAD_BYTES = 65536
MEDIUM = 0  # the priority, PS3.7 9.3.1.1
NO_RESPONSE = "no response"
#: Statuses B000 to BFFF.
WARNING = 0xB000


class AssociationFailed(PrelimError):
    """Raised when the receiver cannot be reached or rejects the association, with the cause."""


@dataclass(frozen=True, slots=True)
class Node:
    """A DICOM node, by host, port and called AE title, and the client's calling AE title."""

    host: str
    port: int
    called: str
    calling: str = "PRELIM_SCU"
    tls: ssl.SSLContext | None = None

    @property
    def tls_args(self) -> tuple[ssl.SSLContext, str] | None:
        """TLS arguments of pynetdicom's `associate`."""
        return None if self.tls is None else (self.tls, self.host)


@dataclass(frozen=True, slots=True)
class Sendable:
    """A file and the UIDs of its C-STORE request."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    #: Byte at which the data set begins.
    offset: int


@dataclass(frozen=True, slots=True)
class Result:
    """Result of one file: the receiver's *status*, None without a response; *detail* is the cause."""

    path: Path
    status: int | None
    detail: str = ""
    #: False if no SCU can send it.
    sendable: bool = True

    @property
    def stored(self) -> bool:
        """True if the receiver has stored it: success or a warning (PS3.4 B.2.3)."""
        return self.status is not None and (self.status == SUCCESS or self.status & 0xF000 == WARNING)


def echo(node: Node) -> int:
    """Send a C-ECHO to *node*, print the status and return the exit status."""
    console = Console(markup=False, highlight=False)
    try:
        with _associated(node, [(VERIFICATION, None)]) as association:
            status = association.send_c_echo()
    except AssociationFailed as error:
        console.print(f"{node.host}:{node.port}: {error}")
        return 1
    text = f"status {status.Status:04X}" if "Status" in status else NO_RESPONSE
    console.print(f"{node.host}:{node.port}: {text}")
    return 0 if "Status" in status and status.Status == SUCCESS else 1


def send(paths: Sequence[Path], node: Node) -> int:
    """Send files and directories to *node*, print the results; returns 0 if every sendable file was stored.

    1 if there was no such file: a wrong path must not look like a transfer.
    """
    console = Console(markup=False, highlight=False)
    files = sorted(_files(paths))
    results = []
    for result in track(send_files(files, node), "Sending", total=len(files), console=console):
        results.append(result)
        if result.status != 0:
            status = "not sent" if result.status is None else f"{result.status:04X}"
            console.print(f"{result.path}: {status} {result.detail}", highlight=False, soft_wrap=True)
    console.print(_summary(results))
    sent = [result for result in results if result.sendable]
    if not sent:
        console.print("nothing was sent: no file is a DICOM object that can be sent")
    return 0 if sent and all(result.stored for result in sent) else 1


def send_files(files: Iterable[Path], node: Node) -> Iterator[Result]:
    """Send *files* in as few associations as their presentation contexts allow; yields a result for each."""
    sendable = []
    for path in files:
        inspected = _inspect(path)
        if isinstance(inspected, Result):
            yield inspected
        else:
            sendable.append(inspected)
    for batch in _batches(sendable):
        yield from _send_batch(batch, node)


def sendable(paths: Sequence[Path]) -> list[Sendable]:
    """Return the files in *paths* that can be sent."""
    return [found for path in sorted(_files(paths)) if isinstance(found := _inspect(path), Sendable)]


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise ConfigurationError(f"{path} does not exist: pass DICOM files or directories")
        if path.is_dir():
            yield from (inside for inside in path.rglob("*") if inside.is_file() and inside.suffix != ".csv")
        else:
            yield path


def _inspect(path: Path) -> Sendable | Result:
    try:
        with disable_value_validation():  # faults are for the receiver to find
            meta, offset = split_dataset(path)
        transfer_syntax_uid = str(meta.TransferSyntaxUID)
        sop_class_uid, sop_instance_uid = _read_uids(path, offset, transfer_syntax_uid)
    except (OSError, ValueError, KeyError, NotImplementedError, Refusal, InvalidDicomError) as error:
        return Result(path, None, f"no readable DICOM file ({type(error).__name__})", sendable=False)
    except AttributeError:
        return Result(path, None, "File Meta Information without a transfer syntax", sendable=False)
    if not sop_class_uid or not sop_instance_uid:
        return Result(path, None, "no SOP Class UID or SOP Instance UID", sendable=False)
    return Sendable(path, sop_class_uid, sop_instance_uid, transfer_syntax_uid, offset)


def _read_uids(path: Path, offset: int, transfer_syntax_uid: str) -> tuple[str, str]:
    """Read the UIDs from the data set: the File Meta Information of edited files often has others."""
    reader = data_sets.reader(transfer_syntax_uid, {data_sets.SOP_CLASS_UID, data_sets.SOP_INSTANCE_UID})
    with path.open("rb") as file:
        file.seek(offset)
        reader.feed(file.read(HEAD_BYTES))
    sop_class_uid, sop_instance_uid = (
        reader.values.get(tag, b"").decode("latin-1").rstrip("\0 ")
        for tag in (data_sets.SOP_CLASS_UID, data_sets.SOP_INSTANCE_UID)
    )
    return sop_class_uid, sop_instance_uid


def _batches(files: Sequence[Sendable]) -> Iterator[list[Sendable]]:
    """Group files so that the contexts of a group fit into one association: one per SOP class and transfer syntax."""
    ordered = sorted(files, key=_context)
    contexts = itertools.groupby(ordered, key=_context)
    while batch := [list(group) for _, group in itertools.islice(contexts, MAX_CONTEXTS)]:
        yield list(itertools.chain.from_iterable(batch))


def _context(file: Sendable) -> tuple[str, str | None]:
    return file.sop_class_uid, file.transfer_syntax_uid


def _send_batch(files: Sequence[Sendable], node: Node) -> Iterator[Result]:
    waiting = list(files)
    try:
        with _associated(node, sorted({_context(file) for file in files})) as association:
            while waiting and association.is_established:
                yield _send_one(association, waiting.pop(0))
    except AssociationFailed as error:
        detail = str(error)
    else:
        detail = NO_RESPONSE
    yield from (Result(file.path, None, detail) for file in waiting)


def _send_one(association: Association, file: Sendable) -> Result:
    try:
        with disable_value_validation():
            request = _request(file)
    except ValueError:
        return Result(file.path, None, "a UID has more than 64 characters", sendable=False)
    context = next((c for c in association.accepted_contexts if _offers(c, file)), None)
    if context is None:
        return Result(file.path, None, "SOP class and transfer syntax not accepted by the receiver")
    request.DataSet = BytesIO(file.path.read_bytes()[file.offset :])  # `send_c_store` takes the UIDs of the file meta
    with disable_value_validation():
        response = exchange(association, request, context.context_id or 0)
    if response is None or response.Status is None:
        return Result(file.path, None, NO_RESPONSE)
    return Result(file.path, int(response.Status), str(response.ErrorComment or ""))


def _request(file: Sendable) -> C_STORE:
    request = C_STORE()
    request.MessageID = 1
    request.Priority = MEDIUM
    request.AffectedSOPClassUID = file.sop_class_uid
    request.AffectedSOPInstanceUID = file.sop_instance_uid
    return request


def _offers(context: PresentationContext, file: Sendable) -> bool:
    return (context.abstract_syntax, context.transfer_syntax[0]) == (file.sop_class_uid, file.transfer_syntax_uid)


def exchange(association: Association, request: Any, context_id: int) -> Any:
    """Send a DIMSE request and return its response; after a timeout, abort the association and return None.

    A late response would be mistaken for that of the next request. Call `take_over_responses` first.
    """
    association.dimse.send_msg(request, context_id)
    response = association.dimse.get_msg(block=True)[1]
    if response is None and association.is_established:
        association.abort()
    return response


def take_over_responses(association: Association) -> None:
    """Deliver all responses to `exchange`, none to pynetdicom's own loop, which drops those it does not expect.

    Pausing the loop, as pynetdicom's `send_*` methods do, is not enough: its flag stays set for a moment after it was
    woken, and then it takes the next response. Here the loop polls and gets nothing; `exchange` blocks.
    """
    get_msg = DIMSEServiceProvider.get_msg
    association.dimse.get_msg = (  # type: ignore[method-assign]
        lambda block=False: get_msg(association.dimse, block=True) if block else (None, None)
    )


@contextlib.contextmanager
def _associated(node: Node, contexts: Sequence[tuple[str, str | None]]) -> Iterator[Any]:
    ae = AE(node.calling)
    ae.maximum_pdu_size = PDU_BYTES
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = RESPONSE_SECONDS
    # Counted from the response before: it would end a wait that has only begun.
    ae.network_timeout = None
    requested = [build_context(sop_class, syntax) for sop_class, syntax in contexts]
    association = ae.associate(node.host, node.port, contexts=requested, ae_title=node.called, tls_args=node.tls_args)
    if not association.is_established:
        raise AssociationFailed(_cause(association))
    take_over_responses(association)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _cause(association: Any) -> str:
    if not association.is_rejected:
        return "cannot be reached"
    rejection = association.acceptor.primitive
    return f"association rejected ({rejection.result_str}: {rejection.reason_str})".lower()


def _summary(results: Sequence[Result]) -> Table:
    table = Table("status", "files", title="Results")
    statuses = Counter("not sent" if result.status is None else f"{result.status:04X}" for result in results)
    for status, files in sorted(statuses.items()):
        table.add_row("0000 success" if status == "0000" else status, str(files))
    return table
