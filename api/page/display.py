"""Format DICOM values for display."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from db.states import DisplayedState
from db.studies.identity.identity import LABELS, labels
from db.studies.priority import ROUTINE, STAT

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from db.operations.overview import StudyLine

#: Names of the header values of a study that may be too long to be read (PS3.6).
NAMES = LABELS | {"study_description": "Study Description"}
#: Labels of the displayed states of a study.
STATES = {
    DisplayedState.RECEIVING: "Receiving",
    DisplayedState.SETTLED: "Complete",
    DisplayedState.QUEUED: "Queued",
    DisplayedState.RUNNING: "Writing",
    DisplayedState.HELD: "Held",
    DisplayedState.REPORTED: "Preliminary",
    DisplayedState.NOT_REPORTABLE: "Not reportable",
    DisplayedState.FAILED: "Failed",
    DisplayedState.CANCELLED: "Cancelled",
}


def person(name: str) -> str:
    """Return the first filled group of a person name (PS3.5 6.2.1) as `Family, Prefix Given Middle Suffix`."""
    group = next((group for group in name.split("=") if group.strip("^ ")), "")
    family, given, middle, prefix, suffix = (part.strip() for part in (group.split("^") + [""] * 5)[:5])
    rest = " ".join(part for part in (prefix, given, middle, suffix) if part)
    return ", ".join(part for part in (family, rest) if part)


def patient(study: StudyLine) -> str:
    """Return the name of a study's patient, or why there is none."""
    missing = "Name too long, not read" if "patient_name" in study.not_read else "No name"
    return person(study.patient_name) or missing


def not_read(study: StudyLine) -> str:
    """Return the names of the header values of a study that were too long to be read; empty if all were read."""
    return ", ".join(NAMES.get(name, name) for name in study.not_read)


def date(value: str) -> str:
    """Return a date (PS3.5 section 6.2, DA: YYYYMMDD) as `YYYY-MM-DD`; any other value unchanged."""
    if len(value) == len("YYYYMMDD") and value.isascii() and value.isdigit():
        return f"{value[:4]}-{value[4:6]}-{value[6:]}"
    return value


def moment(value: dt.datetime) -> str:
    """Return a time in the server's zone, with the name of the zone."""
    return value.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def duration(value: dt.timedelta) -> str:
    """Return a time span in its largest unit, rounded down: `3 min`."""
    seconds = max(int(value.total_seconds()), 0)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def state(value: str) -> str:
    """Return the label of a displayed state."""
    return STATES[DisplayedState(value)]


def priority(value: int) -> str:
    """Return the name of a priority other than routine."""
    return "STAT" if value >= STAT else "High" if value > ROUTINE else "Low"


#: Words for what marks a study, beside the names of checks and verdicts.
ATTENTION = {
    "failed": "no report",
    "report": "its draft",
    "contradicted": "contradicted finding",
    "unsupported": "unsupported finding",
    "critical_omitted": "critical finding left out",
    "empty_impression": "no impression",
    "prior": "comparison with a prior study",
    "truncation": "text cut short",
}


def attention(names: Sequence[str]) -> str:
    """Return why a study needs attention, in words."""
    return ", ".join(dict.fromkeys(ATTENTION.get(name, name.replace("_", " ")) for name in names))


def fields(names: list[str]) -> str:
    """Return the names of the fields in which identities differ."""
    return labels(names)


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a report's text."""
    return [line.strip() for line in text.splitlines() if line.strip()]


#: Words for the turns of an image before it is given to the model (worker.images.render.orientation).
TURNS = {
    "flip_horizontal": "mirrored from left to right",
    "flip_vertical": "mirrored from top to bottom",
    "rotate_90": "turned by 90 degrees",
    "rotate_180": "turned by 180 degrees",
    "rotate_270": "turned by 270 degrees",
    "transpose": "mirrored along a diagonal",
    "transverse": "mirrored along a diagonal",
}


def turned(transform: dict[str, Any]) -> str:
    """Return a sentence about the turn of an image for the model; empty if it was not turned."""
    turn = transform.get("orientation", {}).get("turn", "none")
    return "" if turn == "none" else f"It is {TURNS.get(turn, turn)} against the stored image."


def pretty(value: Any) -> str:
    """Return a JSON value, indented."""
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
