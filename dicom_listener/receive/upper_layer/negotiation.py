"""Decide on proposed presentation contexts and roles (PS3.8 7.1, PS3.7 D); pynetdicom sends the decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pynetdicom.presentation import build_context, build_role, negotiate_unrestricted

from db.studies import transfer_syntaxes
from db.studies.sop_classes import is_reportable
from dicom_listener.dicom import uids
from dicom_listener.receive.pdus import INVALID_PARAMETER, Abort

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydicom.uid import UID
    from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
    from pynetdicom.presentation import PresentationContext

#: Presentation contexts of an association: their ids are the odd numbers below 256 (PS3.8 9.3.2.2).
MAX_CONTEXTS = 128
#: The application context of DICOM.
APPLICATION_CONTEXT_NAME = "1.2.840.10008.3.1.1.1"
#: Result of an accepted presentation context (PS3.8 9.3.3.2).
ACCEPTANCE = 0


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ: result, source and reason (PS3.8 9.3.4), and the cause as text for log and counters."""

    result: int
    source: int
    reason: int
    cause: str


#: Calling AE title of the regular check whether the listener answers: its associations are not logged or counted.
CHECK_AE_TITLE = "PRELIM-CHECK"
#: Result of a rejection after which the peer may try again.
TRANSIENT = 2
APPLICATION_CONTEXT_NOT_SUPPORTED = Rejection(1, 1, 2, "application context name not supported")
CALLING_AE_TITLE_NOT_RECOGNIZED = Rejection(1, 1, 3, "calling AE title not recognized")
CALLED_AE_TITLE_NOT_RECOGNIZED = Rejection(1, 1, 7, "called AE title not recognized")
#: No reason given: the title is known, so that "not recognized" would mislead the peer's administrator.
ADDRESS_NOT_ALLOWED = Rejection(1, 1, 1, "address not allowed for this calling AE title")
LOCAL_LIMIT_EXCEEDED = Rejection(TRANSIENT, 3, 2, "limit of associations reached")
ADDRESS_LIMIT_EXCEEDED = Rejection(TRANSIENT, 3, 2, "limit of associations of one address reached")
#: Temporary congestion: no limit is reached.
NOT_ANSWERED = Rejection(TRANSIENT, 3, 1, "the process that accepts connections does not answer")
#: Of an AE title whose priority the site has set to routine or low; others are refused object by object.
ONLY_URGENT = Rejection(TRANSIENT, 3, 1, "only urgent objects are received now")
AE_TITLE_LIMIT_EXCEEDED = Rejection(TRANSIENT, 3, 2, "limit of associations of one AE title at an address reached")


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    abstract_syntax: str
    transfer_syntax: str


def check(proposed: Sequence[PresentationContext]) -> None:
    """Raise Abort if a request exceeds the limit of contexts, or has none or one without a syntax (PS3.8 9.3.2.2)."""
    if not 0 < len(proposed) <= MAX_CONTEXTS:
        raise Abort(f"{len(proposed)} presentation contexts", INVALID_PARAMETER)
    if not all(context.abstract_syntax and context.transfer_syntax for context in proposed):
        raise Abort("a presentation context without abstract or transfer syntax", INVALID_PARAMETER)


def reject_application(name: str | None) -> Rejection | None:
    """Return the rejection of another application context than that of DICOM (PS3.7 A.2.1); None for this one."""
    return None if str(name).strip("\0 ") == APPLICATION_CONTEXT_NAME else APPLICATION_CONTEXT_NOT_SUPPORTED


def is_echo_only(proposed: Iterable[PresentationContext]) -> bool:
    """Return whether no SOP class other than Verification is proposed."""
    return all(context.abstract_syntax == uids.VERIFICATION for context in proposed)


def stores(proposed: Iterable[PresentationContext], supported: Iterable[PresentationContext]) -> bool:
    """Return whether a storage SOP class is proposed; *supported* are the other ones."""
    others = {context.abstract_syntax for context in supported}
    return any(context.abstract_syntax not in others for context in proposed)


def title(received: str | None) -> str:
    """Return an AE title without the control characters that a peer may send."""
    return "".join(character for character in received or "" if " " <= character <= "~").strip()


def decide(
    proposed: list[PresentationContext], supported: list[PresentationContext], scu_roles: Iterable[UID]
) -> tuple[list[PresentationContext], list[SCP_SCU_RoleSelectionNegotiation]]:
    """Accept or reject each *proposed* context; return the results, and the answers to proposed roles.

    Storage, private and unknown SOP classes are accepted with every transfer syntax: of several, with the first one
    proposed that can be decoded. *supported* SOP classes are accepted with the transfer syntaxes named there. The peer
    gets the SCU role of the SOP classes *scu_roles*, for which it proposes it, and the SCP role of none; a SOP class
    without an answer has the default roles, which are the same (PS3.7 D.3.3.4).
    """
    for context in proposed:
        context.transfer_syntax = _with_chosen_first(context.transfer_syntax)
    # Its own answers to roles leave out the SOP classes other than storage.
    results, _ = negotiate_unrestricted(proposed, supported, None)
    accepted_classes = {context.abstract_syntax for context in results if context.result == ACCEPTANCE}
    return results, [build_role(sop_class, scu_role=True) for sop_class in scu_roles if sop_class in accepted_classes]


def accepted(contexts: Iterable[PresentationContext]) -> dict[int, Context]:
    """Return accepted contexts by id."""
    return {
        int(context.context_id or 0): Context(str(context.abstract_syntax), str(context.transfer_syntax[0]))
        for context in contexts
    }


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


def _with_chosen_first(proposed: list[UID]) -> list[str | bytes | UID]:
    first = transfer_syntaxes.chosen(proposed)
    return sorted(proposed, key=lambda syntax: syntax != first)
