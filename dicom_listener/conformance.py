"""Print the DICOM conformance statement (PS3.2) of the running configuration, as Markdown (`prelim conformance`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.uid import UID
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts

from db.limits import MAX_ELEMENTS, MAX_INFLATED_BYTES, MAX_NESTING
from db.studies import transfer_syntaxes
from dicom_listener.dicom import uids
from dicom_listener.dicom.statuses import Refusal
from dicom_listener.receive import seats
from dicom_listener.receive.c_store import CStoreHandler
from dicom_listener.receive.peers import Rules, read_rules
from dicom_listener.receive.upper_layer import association, negotiation
from dicom_listener.spool.file_meta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from db.settings import Settings


def statement(settings: Settings) -> str:
    """Return the conformance statement; raises ConfigurationError if the peers file is invalid."""
    sections = (_overview, _services, _negotiation, _statuses, _storage, _security)
    return "\n".join(line for section in sections for line in section(settings)) + "\n"


def _overview(settings: Settings) -> Iterator[str]:
    yield from ("# DICOM conformance statement", "")
    yield from _table(
        ("", ""),
        ("Product", "Prelim, listener"),
        ("Implementation Class UID", IMPLEMENTATION_CLASS_UID),
        ("Implementation Version Name", IMPLEMENTATION_VERSION_NAME),
        ("AE title", settings.dicom.ae_title),
        ("TCP port", f"{settings.dicom.dicom_port}{' (TLS)' if settings.dicom.tls_certificate else ''}"),
    )
    yield from (
        "Prelim stores received objects and writes preliminary reports on their images. It is not an archive: query",
        "and retrieve are not supported.",
        "",
    )


def _services(settings: Settings) -> Iterator[str]:
    yield from ("## Services", "")
    rows = [
        ("Verification", "SCP", uids.VERIFICATION),
        (
            "Storage",
            "SCP",
            f"all {len(AllStoragePresentationContexts)} storage classes of PS3.4; retired, private and unknown ones",
        ),
        ("Storage Commitment Push Model", "SCP", uids.STORAGE_COMMITMENT_PUSH_MODEL),
    ]
    if settings.dicom.mpps:
        rows.append(("Modality Performed Procedure Step", "SCP", uids.MODALITY_PERFORMED_PROCEDURE_STEP))
    yield from _table(("Service class", "Role", "SOP classes"), *rows)
    yield from (
        "### Transfer syntaxes for storage",
        "",
        "Of the transfer syntaxes of a presentation context, the first one proposed that can be decoded is accepted,",
        "else the first one. All are accepted, unknown and private ones too: their objects are stored, and the report",
        "states which images could not be read. The known ones are:",
        "",
    )
    known = sorted({*ALL_TRANSFER_SYNTAXES, *transfer_syntaxes.DECODED}, key=lambda uid: [*map(int, uid.split("."))])
    yield from (f"- {_syntax_name(uid)} ({uid}){_only_stored(uid)}" for uid in known)
    yield ""


def _syntax_name(uid: str) -> str:
    known = UID(uid).name
    return transfer_syntaxes.NAMES.get(uid, "unnamed") if known == uid else known


def _only_stored(uid: str) -> str:
    return "" if uid in transfer_syntaxes.DECODED else ": stored, not decoded"


def _negotiation(settings: Settings) -> Iterator[str]:
    yield from ("## Associations", "")
    yield from _table(
        ("", ""),
        ("Application context", f"{negotiation.APPLICATION_CONTEXT_NAME}; another one is rejected (permanent)"),
        (
            "Concurrent associations",
            f"{settings.dicom.max_associations}; more are rejected (transient, local limit exceeded)",
        ),
        ("of one address", str(settings.dicom.max_associations_per_address)),
        ("of one AE title at an address", str(settings.dicom.max_associations_per_ae_title)),
        ("Beyond these, for Verification only", f"{seats.ECHO_SEATS}, {seats.ECHO_SEATS_PER_ADDRESS} of one address"),
        ("Maximum PDU length received", f"{settings.dicom.max_pdu_bytes} bytes; a longer one aborts the association"),
        ("Presentation contexts", f"up to {negotiation.MAX_CONTEXTS}"),
        ("Asynchronous operations", "not supported (1, 1)"),
        ("Role selection", "the SCU role is confirmed to the requestor, the SCP role is not"),
        ("ARTIM", f"{association.ARTIM_SECONDS} s"),
        ("Idle association", f"closed after {association.IDLE_SECONDS} s"),
        ("Pending connections of one address", f"{seats.MAX_PENDING_PER_ADDRESS}; one more closes the oldest"),
    )


def _statuses(_: Settings) -> Iterator[str]:
    yield from ("## Statuses", "", "0000 is returned only if the object survives a power cut.", "")
    rows = (
        (f"{refusal.status:04X}", (refusal.__doc__ or "").removeprefix("Raised when ").rstrip("."))
        for refusal in sorted(Refusal.__subclasses__(), key=lambda refusal: refusal.status)
    )
    yield from _table(("Status", "Returned when"), *rows)


def _storage(settings: Settings) -> Iterator[str]:
    yield from ("## Storage", "")
    yield from _table(
        ("", ""),
        ("Stored", "byte for byte as received, without coercion; the preamble is zeroed"),
        ("The same object again", "success; no new report"),
        ("Another object with a known SOP Instance UID", "success; the first is used, the second is quarantined"),
        ("Maximum size of a data set", f"{CStoreHandler.max_bytes} bytes"),
        ("Deflated data sets", f"up to {MAX_INFLATED_BYTES} bytes inflated"),
        ("Nesting and elements", f"up to {MAX_NESTING} open sequences and items, {MAX_ELEMENTS} elements"),
        (
            "A study is complete",
            f"{settings.study.settle_seconds:g} s after its last object, if no open association has sent objects of it",
        ),
        ("at the latest", f"{settings.study.settle_cap_seconds:g} s after its first object"),
    )


def _security(settings: Settings) -> Iterator[str]:
    rules = Rules() if settings.dicom.peers_file is None else read_rules(settings.dicom.peers_file)
    peers = "any" if rules.peers is None else ", ".join(sorted(rules.peers)) or "none"
    clients = "required" if settings.dicom.tls_client_ca else "not requested"
    tls = (
        f"TLS 1.2 and later, AEAD cipher suites with ECDHE only (BCP 195); client certificates {clients}"
        if settings.dicom.tls_certificate
        else "none"
    )
    yield from ("## Security", "")
    yield from _table(
        ("", ""),
        ("Called AE titles", ", ".join(sorted(rules.called)) or "any"),
        ("Calling AE titles", peers),
        ("Encryption", tls),
        ("Character sets", "all of PS3.5; stored unchanged, displayed as Unicode"),
    )


def _table(head: tuple[str, ...], *rows: tuple[str, ...]) -> Iterator[str]:
    for cells in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(cells)} |"
    yield ""
