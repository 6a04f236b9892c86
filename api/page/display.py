"""DICOM values as people read them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from db.states import DisplayedState

if TYPE_CHECKING:
    import datetime as dt

#: What the displayed states of a study are called.
STATES = {
    DisplayedState.RECEIVING: "Receiving",
    DisplayedState.SETTLED: "Complete",
    DisplayedState.QUEUED: "Queued",
    DisplayedState.RUNNING: "Writing",
    DisplayedState.REPORTED: "Preliminary",
    DisplayedState.NOT_REPORTABLE: "Not reportable",
    DisplayedState.FAILED: "Failed",
    DisplayedState.CANCELLED: "Cancelled",
}


def person(name: str) -> str:
    """A person name (PS3.5 section 6.2.1) as `Family, Prefix Given Middle Suffix`; the first group that is filled."""
    group = next((group for group in name.split("=") if group.strip("^ ")), "")
    family, given, middle, prefix, suffix = (part.strip() for part in (group.split("^") + [""] * 5)[:5])
    rest = " ".join(part for part in (prefix, given, middle, suffix) if part)
    return ", ".join(part for part in (family, rest) if part)


def date(value: str) -> str:
    """A date (PS3.5 section 6.2, DA: YYYYMMDD) as `YYYY-MM-DD`; anything else as it stands."""
    if len(value) == len("YYYYMMDD") and value.isascii() and value.isdigit():
        return f"{value[:4]}-{value[4:6]}-{value[6:]}"
    return value


def moment(value: dt.datetime) -> str:
    """A time in the server's zone, with the zone's name: a radiologist must not have to guess."""
    return value.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def state(value: str) -> str:
    """A displayed state in words."""
    return STATES[DisplayedState(value)]


def paragraphs(text: str) -> list[str]:
    """A report's text as its paragraphs."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def pretty(value: Any) -> str:
    """A JSON value, indented."""
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
