"""Parameters of the work list: filters, order, position."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlencode

from fastapi import Query
from pydantic import AwareDatetime, BeforeValidator, Field

from api.errors import ApiError, ErrorCode, Problem
from api.v1.requests import cursor
from db.operations.filters import Filters, Sort, words
from db.states import DisplayedState  # noqa: TC001
from db.studies import priority as priorities

if TYPE_CHECKING:
    from fastapi import Request

    from api.access.authenticate import Caller
    from api.v1.requests.cursor import Cursors
    from db.operations.filters import Position

#: Printable text of a DICOM attribute: LO has 64 characters (PS3.5 section 6.2).
Text = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
Uid = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[0-9.]+$")]
Date = Annotated[str, Field(pattern=r"^[0-9]{8}$")]


def _written_out(value: object) -> object:
    """Return a time as text; raises ValueError for a number, which pydantic would read as seconds since 1970."""
    if isinstance(value, str) and not _TIME.match(value):
        raise ValueError("expected a time with its zone, as 2026-11-28T07:00:00Z")
    return value


#: RFC 3339.
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}")
Time = Annotated[AwareDatetime, BeforeValidator(_written_out)]
Cursor = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_-]+$")]
Level = Literal["LOW", "ROUTINE", "HIGH", "STAT"]
Attention = Annotated[
    bool | None,
    Query(description="True: failed, held, or its report has a warning or a critical or contradicted finding."),
]
Unread = Annotated[
    bool | None, Query(description="True: reported, and no reader has sent feedback on the current version.")
]


async def filters(
    state: Annotated[DisplayedState | None, Query(description="Only studies in this state.")] = None,
    modality: Annotated[Text | None, Query(description="As in DICOM: CT.")] = None,
    body_part: Annotated[Text | None, Query(description="As in DICOM: CHEST.")] = None,
    ae_title: Annotated[Text | None, Query(description="Calling AE title of the first object.")] = None,
    received_since: Annotated[Time | None, Query(description="First object at this time or later.")] = None,
    received_before: Annotated[Time | None, Query(description="First object earlier.")] = None,
    study_date_from: Annotated[Date | None, Query(description="YYYYMMDD.")] = None,
    study_date_to: Annotated[Date | None, Query(description="YYYYMMDD, included.")] = None,
    patient_id: Annotated[Text | None, Query(description="Exactly.")] = None,
    accession_number: Annotated[Text | None, Query(description="Exactly.")] = None,
    study_instance_uid: Annotated[Uid | None, Query(description="Exactly.")] = None,
    description: Annotated[Text | None, Query(description="Beginnings of words, all of them, in any case.")] = None,
    priority: Annotated[Level | None, Query(description="This priority or a higher one.")] = None,
    attention: Attention = None,
    unread: Unread = None,
) -> Filters:
    """Return the filters of a request; raises ApiError 422. Asynchronous: it waits for nothing, and takes no thread."""
    if description is not None and not words(description):
        raise invalid("description: expected letters or digits")
    return Filters(
        state=state,
        modality=modality,
        body_part=body_part,
        ae_title=ae_title,
        received_since=_bounded(received_since, "received_since"),
        received_before=_bounded(received_before, "received_before"),
        study_date_from=study_date_from,
        study_date_to=study_date_to,
        patient_id=patient_id,
        accession_number=accession_number,
        study_instance_uid=study_instance_uid,
        description=description,
        priority=None if priority is None else priorities.LEVELS[priority],
        attention=attention,
        unread=unread,
    )


def _bounded(time: dt.datetime | None, name: str) -> dt.datetime | None:
    """Return *time* in UTC, so that equal times have one cursor; near the ends of the calendar it has no other zone."""
    if time is not None and not 1 < time.year < 9999:  # noqa: PLR2004 - the calendar
        raise invalid(f"{name}: expected a year from 2 to 9998")
    return time and time.astimezone(dt.UTC)


def cursors(caller: Caller, chosen: Filters, sort: Sort) -> Cursors:
    """Return the cursors of a work list."""
    seen = caller.principal.ae_titles
    restriction = None if seen is None else tuple(sorted(seen))
    return cursor.of_list(caller.session, "studies", chosen, sort, restriction)


def position(own: Cursors, after: str | None) -> Position | None:
    """Return the start of a page; raises ApiError 422 for a cursor of another list."""
    try:
        return None if after is None else own.decode(after)
    except ValueError as error:
        raise invalid(f"after: {error}") from error


def link(request: Request, following: str | None) -> dict[str, str]:
    """Return the header that leads to the next page (RFC 8288); empty on the last one."""
    if following is None:
        return {}
    query = urlencode(dict(request.query_params) | {"after": following})
    return {"Link": f'<{request.url.path}?{query}>; rel="next"'}


def invalid(message: str) -> ApiError:
    """Return the error of an invalid parameter; *message* does not repeat its value."""
    return ApiError(422, Problem(error=ErrorCode.INVALID_REQUEST, message=message, hint="see /docs for the parameters"))
