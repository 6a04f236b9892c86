"""Parse durations of options: 90m, 24h, 30d."""

import datetime as dt
import re

import typer

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
#: Digits of a number: a longer one would exceed the dates that the database can store.
_DURATION = re.compile(r"([1-9]\d{0,4})([mhd])")


def duration(text: str) -> dt.timedelta:
    """Return the duration; raises BadParameter."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise typer.BadParameter(f"{text!r}: expected a number and a unit, such as 90m, 24h or 30d")
    return dt.timedelta(**{_UNITS[found[2]]: int(found[1])})
