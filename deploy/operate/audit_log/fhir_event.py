"""FHIR R4 AuditEvents after IHE BALP (Basic Audit Log Patterns), one for each patient that a row concerns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.operate.audit_log.records import Record, Subject

DCM = "http://dicom.nema.org/resources/ontology/DCM"
PROFILES = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit"
ENTITIES = "http://terminology.hl7.org/CodeSystem"
#: FHIR interaction, action code and BALP profile of each action on patient data.
INTERACTIONS = {
    "read": ("read", "R", "PatientRead"),
    "query": ("search", "E", "PatientQuery"),
    "create": ("create", "C", "PatientCreate"),
    "delete": ("delete", "D", "PatientDelete"),
}
#: DICOM event type of a login and a logout.
TYPES = {"login": ("110122", "Login"), "logout": ("110123", "Logout")}


def events(record: Record) -> Iterator[dict[str, Any]]:
    """Yield the AuditEvents of a row: one for each study, or one without a patient."""
    for subject in record.subjects:
        yield _event(record, subject)
    if not record.subjects:
        yield _event(record, None)


def _event(record: Record, subject: Subject | None) -> dict[str, Any]:
    event: dict[str, Any] = {"resourceType": "AuditEvent"}
    event |= _kind(record, has_patient=bool(subject and subject.patient_id))
    event |= {
        "recorded": record.at.isoformat(),
        "outcome": record.outcome,
        "outcomeDesc": f"{record.route}: {record.status}; chain {record.chain}, row {record.sequence}, {record.hash}",
        "agent": _agents(record),
        "source": {"observer": {"display": "prelim"}},
    }
    return event | ({"entity": list(_entities(subject))} if subject else {})


def _kind(record: Record, *, has_patient: bool) -> dict[str, Any]:
    if record.action in TYPES:
        code, display = TYPES[record.action]
        kind = {"system": DCM, "code": "110114", "display": "User Authentication"}
        return {"type": kind, "subtype": [{"system": DCM, "code": code, "display": display}], "action": "E"}
    interaction, action, profile = INTERACTIONS[record.action]
    plain = profile if has_patient else profile.removeprefix("Patient")
    return {
        "meta": {"profile": [f"{PROFILES}.{plain}"]},
        "type": {"system": f"{ENTITIES}/audit-event-type", "code": "rest", "display": "Restful Operation"},
        "subtype": [{"system": "http://hl7.org/fhir/restful-interaction", "code": interaction}],
        "action": action,
    }


def _agents(record: Record) -> list[dict[str, Any]]:
    """Return the client, the server and the user or key."""
    who = {"display": record.principal or "unknown"}
    return [
        {
            "type": _coded(DCM, "110152", "Destination Role ID"),
            "who": who,
            "requestor": False,
            "network": {"address": record.address or "unknown", "type": "2"},
        },
        {"type": _coded(DCM, "110153", "Source Role ID"), "who": {"display": "prelim"}, "requestor": False},
        {
            "type": _coded(f"{ENTITIES}/v3-ParticipationType", "IRCP", "information recipient"),
            "who": who,
            "requestor": True,
        },
    ]


def _entities(subject: Subject) -> Iterator[dict[str, Any]]:
    study = f"urn:oid:{subject.study_instance_uid}" if subject.study_instance_uid else f"urn:uuid:{subject.study_id}"
    if subject.patient_id:
        yield _entity({"identifier": {"value": subject.patient_id}}, ("1", "Person"), ("1", "Patient"))
    yield _entity({"identifier": {"value": study}}, ("2", "System Object"), ("4", "Domain Resource"))


def _entity(what: dict[str, Any], kind: tuple[str, str], role: tuple[str, str]) -> dict[str, Any]:
    return {
        "what": what,
        "type": {"system": f"{ENTITIES}/audit-entity-type", "code": kind[0], "display": kind[1]},
        "role": {"system": f"{ENTITIES}/object-role", "code": role[0], "display": role[1]},
    }


def _coded(system: str, code: str, display: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": display}]}
