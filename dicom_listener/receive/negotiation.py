"""Negotiate associations (PS3.8 7.1, PS3.7 D): encoded and decided by pynetdicom, within limits of size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context, negotiate_unrestricted

from db.studies import transfer_syntaxes
from db.studies.sop_classes import is_reportable
from dicom_listener.dicom import uids
from dicom_listener.receive.upper_layer import ASSOCIATE_RQ, INVALID_PARAMETER, PDU_HEADER, Abort
from dicom_listener.spool.file_meta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pynetdicom.presentation import PresentationContext

#: Presentation contexts of an association: their ids are the odd numbers below 256 (PS3.8 9.3.2.2).
MAX_CONTEXTS = 128


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ: result, source and reason (PS3.8 9.3.4), and the cause as text for log and counters."""

    result: int
    source: int
    reason: int
    cause: str

    def encode(self) -> bytes:
        """Return the content of the PDU."""
        return bytes((0, self.result, self.source, self.reason))


#: Calling AE title of the regular check whether the listener answers: its associations are not logged or counted.
CHECK_AE_TITLE = "PRELIM-CHECK"
#: Result of a rejection after which the peer may try again.
TRANSIENT = 2
CALLING_AE_TITLE_NOT_RECOGNIZED = Rejection(1, 1, 3, "calling AE title not recognized")
CALLED_AE_TITLE_NOT_RECOGNIZED = Rejection(1, 1, 7, "called AE title not recognized")
#: No reason given: the title is known, so that "not recognized" would mislead the peer's administrator.
ADDRESS_NOT_ALLOWED = Rejection(1, 1, 1, "address not allowed for this calling AE title")
LOCAL_LIMIT_EXCEEDED = Rejection(TRANSIENT, 3, 2, "limit of associations reached")
ADDRESS_LIMIT_EXCEEDED = Rejection(TRANSIENT, 3, 2, "limit of associations of one address reached")
AE_TITLE_LIMIT_EXCEEDED = Rejection(TRANSIENT, 3, 2, "limit of associations of one AE title at an address reached")


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """Decoded A-ASSOCIATE-RQ of the peer."""

    calling_ae_title: str
    called_ae_title: str
    #: Bytes of a P-DATA-TF that the peer accepts; 0 is no limit.
    max_pdu_bytes: int
    _primitive: Any = field(repr=False)

    @property
    def is_echo_only(self) -> bool:
        """True if no SOP class other than Verification is proposed."""
        proposed = self._primitive.presentation_context_definition_list
        return all(context.abstract_syntax == uids.VERIFICATION for context in proposed)

    def accept(self, contexts: Sequence[PresentationContext], max_pdu_bytes: int) -> tuple[bytes, dict[int, Context]]:
        """Return the content of the A-ASSOCIATE-AC, and the accepted contexts by id.

        Storage, private and unknown SOP classes are accepted with every transfer syntax: of several, with the first one
        proposed that can be decoded. SOP classes of *contexts* are accepted with the transfer syntaxes named there.
        Proposed roles get no answer, which means the default roles (PS3.7 D.3.3.4).
        """
        proposed = self._primitive.presentation_context_definition_list
        for context in proposed:
            context.transfer_syntax = _with_chosen_first(context.transfer_syntax)
        results, _ = negotiate_unrestricted(proposed, list(contexts), None)
        accepted = {
            int(context.context_id or 0): Context(str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context in results
            if context.result == 0
        }
        return self._answer(results, max_pdu_bytes), accepted

    def _answer(self, results: Sequence[PresentationContext], max_pdu_bytes: int) -> bytes:
        answer = A_ASSOCIATE()
        answer.application_context_name = self._primitive.application_context_name
        answer.calling_ae_title = self._primitive.calling_ae_title
        answer.called_ae_title = self._primitive.called_ae_title
        answer.result, answer.result_source = 0, 1
        answer.presentation_context_definition_results_list = list(results)
        answer.user_information = _user_information(max_pdu_bytes)
        pdu = A_ASSOCIATE_AC()
        pdu.from_primitive(answer)
        encoded: bytes = pdu.encode()
        return encoded[PDU_HEADER.size :]


def parse(content: memoryview) -> Proposal:
    """Decode an A-ASSOCIATE-RQ; raises Abort if it is malformed or exceeds the limit of contexts."""
    try:
        pdu = A_ASSOCIATE_RQ()
        pdu.decode(PDU_HEADER.pack(ASSOCIATE_RQ, len(content)) + bytes(content))
        primitive = pdu.to_primitive()
        proposal = Proposal(
            _title(primitive.calling_ae_title),
            _title(primitive.called_ae_title),
            int(primitive.maximum_length_received or 0),
            primitive,
        )
        contexts = primitive.presentation_context_definition_list
    # pynetdicom's decoder raises many types of exceptions for malformed bytes.
    except Exception as error:
        raise Abort(f"malformed A-ASSOCIATE-RQ ({type(error).__name__})", INVALID_PARAMETER) from error
    if not 0 < len(contexts) <= MAX_CONTEXTS or not all(context.transfer_syntax for context in contexts):
        raise Abort(f"{len(contexts)} presentation contexts, or one without a transfer syntax", INVALID_PARAMETER)
    return proposal


def not_decoded(contexts: Iterable[Context]) -> list[str]:
    """Return the transfer syntaxes of accepted image contexts whose objects are stored, but not read; described."""
    syntaxes = {context.transfer_syntax for context in contexts if is_reportable(context.abstract_syntax)}
    others = sorted(syntaxes - transfer_syntaxes.DECODED)
    return [transfer_syntaxes.described(uid) for uid in others if not transfer_syntaxes.is_video(uid)]


def supported(*, mpps: bool) -> list[PresentationContext]:
    """Return the supported presentation contexts other than storage."""
    classes = [uids.VERIFICATION, uids.STORAGE_COMMITMENT_PUSH_MODEL] + [uids.MODALITY_PERFORMED_PROCEDURE_STEP] * mpps
    syntaxes = [transfer_syntaxes.EXPLICIT_VR_LITTLE_ENDIAN, transfer_syntaxes.IMPLICIT_VR_LITTLE_ENDIAN]
    return [build_context(sop_class, syntaxes) for sop_class in classes]


def _title(received: str | None) -> str:
    """Return an AE title without the control characters that a peer may send."""
    return "".join(character for character in received or "" if " " <= character <= "~").strip()


def _with_chosen_first(proposed: list[UID]) -> list[UID]:
    first = transfer_syntaxes.chosen(proposed)
    return sorted(proposed, key=lambda syntax: syntax != first)


def _user_information(max_pdu_bytes: int) -> list[Any]:
    length = MaximumLengthNotification()
    length.maximum_length_received = max_pdu_bytes
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    name = ImplementationVersionNameNotification()
    name.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [length, implementation, name]
