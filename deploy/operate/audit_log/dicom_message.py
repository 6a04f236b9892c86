"""DICOM audit messages (PS3.15 A.5), one for each row of the audit log."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.operate.audit_log.records import Record

#: Event (PS3.16 CID 400) of each action, and its code for what was done (A.5.2): read, execute, update, delete.
EVENTS = {
    "read": ("110103", "DICOM Instances Accessed", "R"),
    "query": ("110112", "Query", "E"),
    "create": ("110103", "DICOM Instances Accessed", "U"),
    "delete": ("110105", "DICOM Study Deleted", "D"),
    "login": ("110114", "User Authentication", "E"),
    "logout": ("110114", "User Authentication", "E"),
}
#: Event type (CID 401) of a login and a logout.
TYPES = {"login": ("110122", "Login"), "logout": ("110123", "Logout")}
SOURCE = "prelim"
#: Octets of a message: every repository must accept 32,768 with the header of syslog (PS3.15 A.6).
MAX_OCTETS = 32_000
#: Studies of a message; fewer if their Patient IDs are long: one has up to 1024 bytes (dicom_listener.dicom.elements),
#: which XML writes with six each at most.
MAX_SUBJECTS = 40
#: Types of the identifier of a study (CID 404, and one of Prelim for a study whose patient is erased).
STUDY_UID, OWN_ID = ("110180", "Study Instance UID"), ("study-id", "Study id of Prelim", "prelim")
#: Characters that XML 1.0 does not have, not even as references; headers of broken senders do.
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def bounded(record: Record) -> Iterator[Record]:
    """Yield the record in parts of some of its studies, each of which has a message of at most MAX_OCTETS."""
    for part in record.parts(MAX_SUBJECTS):
        number = len(part.subjects)
        if number > 1 and len(message(part).encode()) > MAX_OCTETS:
            for half in part.parts((number + 1) // 2):
                yield from bounded(half)
        else:
            yield part


def message(record: Record) -> str:
    """Return the audit message of a row as XML on one line; a character that XML does not have becomes U+FFFD."""
    root = Element("AuditMessage")
    _event(root, record)
    # The requestor: a person, or the program that holds a key.
    SubElement(
        root,
        "ActiveParticipant",
        UserID=record.principal or "unknown",
        UserIsRequestor="true",
        NetworkAccessPointID=record.address or "unknown",
        NetworkAccessPointTypeCode="2",
    )
    SubElement(root, "ActiveParticipant", UserID=SOURCE, UserIsRequestor="false")
    SubElement(root, "AuditSourceIdentification", AuditSourceID=SOURCE)
    for subject in record.subjects:
        study = SubElement(
            root,
            "ParticipantObjectIdentification",
            ParticipantObjectID=subject.study_instance_uid or str(subject.study_id),
            ParticipantObjectTypeCode="2",
            ParticipantObjectTypeCodeRole="3",
        )
        _code(study, "ParticipantObjectIDTypeCode", *(STUDY_UID if subject.study_instance_uid else OWN_ID))
        if subject.patient_id:
            patient = SubElement(
                root,
                "ParticipantObjectIdentification",
                ParticipantObjectID=subject.patient_id,
                ParticipantObjectTypeCode="1",
                ParticipantObjectTypeCodeRole="1",
            )
            _code(patient, "ParticipantObjectIDTypeCode", "2", "Patient Number", "RFC-3881")
    return NOT_IN_XML.sub("\ufffd", tostring(root, encoding="unicode"))


def _event(root: Element, record: Record) -> None:
    code, meaning, action = EVENTS[record.action]
    event = SubElement(
        root,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=record.at.isoformat(),
        EventOutcomeIndicator=record.outcome,
    )
    _code(event, "EventID", code, meaning)
    if record.action in TYPES:
        _code(event, "EventTypeCode", *TYPES[record.action])
    outcome = SubElement(event, "EventOutcomeDescription")
    outcome.text = f"{record.route}: {record.status}; chain {record.chain}, row {record.sequence}, {record.hash}"


def _code(parent: Element, tag: str, code: str, meaning: str, system: str = "DCM") -> None:
    SubElement(parent, tag, {"csd-code": code, "codeSystemName": system, "originalText": meaning})
