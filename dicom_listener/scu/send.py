"""The sending side, to test a site: `prelim echo` and `prelim send`.

Files travel byte for byte in their own transfer syntax: nothing is decoded, so that odd files arrive as they are.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from dataclasses import dataclass
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
from dicom_listener.receive.negotiation import MOST_CONTEXTS

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from pynetdicom.association import Association
    from pynetdicom.presentation import PresentationContext

#: Largest PDU we take, in bytes. What we send is bounded by the receiver.
PDU_BYTES = 131072
#: Seconds to wait for a connection or an answer: a receiver that flushes to a slow disk needs some.
ANSWER_SECONDS = 60
#: Bytes read to learn a file's UIDs; they are among the first elements.
HEAD_BYTES = 65536
MEDIUM = 0  # the priority, PS3.7 9.3.1.1
NO_ANSWER = "no answer"
#: Statuses B000 to BFFF.
WARNING = 0xB000


class NoAssociation(PrelimError):
    """Raised when the receiver cannot be reached or does not want an association; says which."""


@dataclass(frozen=True, slots=True)
class Node:
    """A DICOM node to talk to, and the name we use."""

    host: str
    port: int
    called: str
    calling: str = "PRELIM_SCU"
    tls: ssl.SSLContext | None = None

    @property
    def tls_args(self) -> tuple[ssl.SSLContext, str] | None:
        """What pynetdicom's `associate` takes."""
        return None if self.tls is None else (self.tls, self.host)


@dataclass(frozen=True, slots=True)
class Sendable:
    """A file with what a C-STORE must announce."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    #: Where the data set begins, in bytes.
    offset: int


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one file: *status* is the receiver's, None where it gave none; *detail* says why."""

    path: Path
    status: int | None
    detail: str = ""
    #: Whether any SCU could have sent it.
    sendable: bool = True

    @property
    def taken(self) -> bool:
        """Whether the receiver has it: success, or a warning (PS3.4 B.2.3)."""
        return self.status is not None and (self.status == SUCCESS or self.status & 0xF000 == WARNING)


def echo(node: Node) -> int:
    """Ask *node* whether it is there; prints the answer and returns the exit status."""
    console = Console(markup=False, highlight=False)
    try:
        with _associated(node, [(VERIFICATION, None)]) as association:
            status = association.send_c_echo()
    except NoAssociation as error:
        console.print(f"{node.host}:{node.port}: {error}")
        return 1
    answered = "Status" in status
    console.print(f"{node.host}:{node.port}: " + (f"answers with {status.Status:04X}" if answered else "no answer"))
    return 0 if answered and status.Status == 0 else 1


def send(paths: Sequence[Path], node: Node) -> int:
    """Send files and folders to *node*, print what became of them, return 0 when every sendable one was taken."""
    console = Console(markup=False, highlight=False)
    files = sorted(_files(paths))
    results = []
    for result in track(send_files(files, node), "Sending", total=len(files), console=console):
        results.append(result)
        if result.status != 0:
            answer = "not sent" if result.status is None else f"{result.status:04X}"
            console.print(f"{result.path}: {answer} {result.detail}", highlight=False)
    console.print(_summary(results))
    return 1 if any(result.sendable and not result.taken for result in results) else 0


def send_files(files: Iterable[Path], node: Node) -> Iterator[Result]:
    """Send *files*, in as few associations as their presentation contexts allow."""
    sendable = []
    for path in files:
        looked_at = _look_at(path)
        if isinstance(looked_at, Result):
            yield looked_at
        else:
            sendable.append(looked_at)
    for batch in _batches(sendable):
        yield from _send_batch(batch, node)


def sendable(paths: Sequence[Path]) -> list[Sendable]:
    """The files among *paths* that can be sent."""
    return [found for path in sorted(_files(paths)) if isinstance(found := _look_at(path), Sendable)]


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise ConfigurationError(f"{path} does not exist: name DICOM files, or folders of them")
        if path.is_dir():
            yield from (inside for inside in path.rglob("*") if inside.is_file() and inside.suffix != ".csv")
        else:
            yield path


def _look_at(path: Path) -> Sendable | Result:
    try:
        with disable_value_validation():  # what is odd is the receiver's to judge
            meta, offset = split_dataset(path)
        transfer_syntax_uid = str(meta.TransferSyntaxUID)
        sop_class_uid, sop_instance_uid = _announced(path, offset, transfer_syntax_uid)
    except (OSError, ValueError, KeyError, NotImplementedError, Refusal, InvalidDicomError) as error:
        return Result(path, None, f"cannot be read as a DICOM file ({type(error).__name__})", sendable=False)
    except AttributeError:
        return Result(path, None, "has no File Meta Information that names its transfer syntax", sendable=False)
    if not sop_class_uid or not sop_instance_uid:
        return Result(path, None, "does not say which SOP class and instance it is", sendable=False)
    return Sendable(path, sop_class_uid, sop_instance_uid, transfer_syntax_uid, offset)


def _announced(path: Path, offset: int, transfer_syntax_uid: str) -> tuple[str, str]:
    """What the data set calls itself: the File Meta Information of copied files is often another's."""
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
    """Files whose contexts fit into one association: one context for each pair of SOP class and transfer syntax."""
    ordered = sorted(files, key=_context)
    contexts = itertools.groupby(ordered, key=_context)
    while batch := [list(group) for _, group in itertools.islice(contexts, MOST_CONTEXTS)]:
        yield list(itertools.chain.from_iterable(batch))


def _context(file: Sendable) -> tuple[str, str | None]:
    return file.sop_class_uid, file.transfer_syntax_uid


def _send_batch(files: Sequence[Sendable], node: Node) -> Iterator[Result]:
    waiting = list(files)
    try:
        with _associated(node, sorted({_context(file) for file in files})) as association:
            while waiting and association.is_established:
                yield _send_one(association, waiting.pop(0))
    except NoAssociation as error:
        detail = str(error)
    else:
        detail = NO_ANSWER
    yield from (Result(file.path, None, detail) for file in waiting)


def _send_one(association: Association, file: Sendable) -> Result:
    try:
        with disable_value_validation():
            request = _request(file)
    except ValueError:
        return Result(file.path, None, "its UIDs are longer than DICOM allows", sendable=False)
    # As Association.send_c_store does with a path; that one announces the File Meta Information's UIDs.
    request._dataset_path = (file.path, file.offset)  # noqa: SLF001
    context = next((c for c in association.accepted_contexts if _offers(c, file)), None)
    if context is None:
        return Result(file.path, None, "the receiver does not accept its SOP class and transfer syntax")
    with disable_value_validation():
        answer = exchange(association, request, context.context_id or 0)
    if answer is None or answer.Status is None:
        return Result(file.path, None, NO_ANSWER)
    return Result(file.path, int(answer.Status), str(answer.ErrorComment or ""))


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
    """Send a DIMSE request as it is, and return its answer; None where none comes, and the association is over.

    A late answer would be taken for that of the next request. The association must be one of `keep_answers`.
    """
    association.dimse.send_msg(request, context_id)
    answer = association.dimse.get_msg(block=True)[1]
    if answer is None and association.is_established:
        association.abort()
    return answer


def keep_answers(association: Association) -> None:
    """Keep answers from pynetdicom's own loop, which drops whatever it does not expect.

    It can be paused, as its `send_*` do, but its flag still says so for a moment after it was woken, and then it takes
    the next answer from us. So it is told of none: it asks without waiting, and we wait.
    """
    take = DIMSEServiceProvider.get_msg
    association.dimse.get_msg = (  # type: ignore[method-assign]
        lambda block=False: take(association.dimse, block=True) if block else (None, None)
    )


@contextlib.contextmanager
def _associated(node: Node, contexts: Sequence[tuple[str, str | None]]) -> Iterator[Any]:
    ae = AE(node.calling)
    ae.maximum_pdu_size = PDU_BYTES
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ANSWER_SECONDS
    # Counts from the answer before: it would end a wait that has only begun.
    ae.network_timeout = None
    requested = [build_context(sop_class, syntax) for sop_class, syntax in contexts]
    association = ae.associate(node.host, node.port, contexts=requested, ae_title=node.called, tls_args=node.tls_args)
    if not association.is_established:
        raise NoAssociation(_why_not(association))
    keep_answers(association)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _why_not(association: Any) -> str:
    if not association.is_rejected:
        return "cannot be reached"
    said = association.acceptor.primitive
    return f"rejects the association ({said.result_str}: {said.reason_str})".lower()


def _summary(results: Sequence[Result]) -> Table:
    table = Table("answer", "files", title="What became of the files")
    answers = Counter("not sent" if result.status is None else f"{result.status:04X}" for result in results)
    for answer, files in sorted(answers.items()):
        table.add_row("0000 success" if answer == "0000" else answer, str(files))
    return table
