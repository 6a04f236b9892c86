"""Values that PostgreSQL can store: text without NUL and surrogates, finite numbers."""

from __future__ import annotations

import math
import re
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from db.errors import PermanentFailure, Reason

if TYPE_CHECKING:
    from db.reports.versions import Draft

SURROGATE = re.compile("[\ud800-\udfff]")


def storable(draft: Draft) -> Draft:
    """Return the draft without NUL characters, and with U+FFFD instead of lone surrogates.

    Raises PermanentFailure for a number that is not finite, and for a report whose text is then empty: another attempt
    would end in the same way.
    """
    cleaned: Draft = clean(draft, "report")
    if not (cleaned.findings.strip() or cleaned.impression.strip()):
        raise PermanentFailure(Reason.NOT_STORABLE, "the text of the report has only characters that cannot be stored")
    return cleaned


def storable_text(text: str) -> str:
    """Return *text* without NUL characters, and with U+FFFD instead of lone surrogates."""
    return SURROGATE.sub("\ufffd", text.replace("\0", ""))


def clean(value: Any, name: str) -> Any:
    """Return a value, and all that it contains, as PostgreSQL can store it; *name* is for the error.

    Raises PermanentFailure for a number that is not finite.
    """
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise PermanentFailure(Reason.NOT_STORABLE, f"{name} is {value}, which is no finite number")
    if isinstance(value, dict):
        return {clean(key, name): clean(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item, name) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: clean(getattr(value, field.name), field.name) for field in fields(value)})
    return value
