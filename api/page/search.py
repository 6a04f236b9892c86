"""Search form of the work list: its fields are in the URL, and an empty field is no filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import Query
from pydantic import Field

from api.v1.requests import work_list
from db.operations.filters import Filters, Sort
from db.states import DisplayedState  # noqa: TC001 - FastAPI reads annotations at run time

Text = Annotated[str, Query(), Field(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]
Uid = Annotated[str, Query(), Field(max_length=64, pattern=r"^[0-9. ]*$")]
#: As fields of forms for dates send it, or as in DICOM.
Date = Annotated[str, Query(), Field(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8})?$")]


@dataclass(frozen=True, slots=True)
class Search:
    """Filters and order of a work list, with the fields that they came from, the empty ones left out."""

    filters: Filters
    sort: Sort
    fields: dict[str, str]

    def url(self, **changed: str) -> str:
        """Return the address of the same list with some fields changed; an empty one is left out."""
        fields = {name: value for name, value in (self.fields | changed).items() if value}
        return f"/?{urlencode(fields)}" if fields else "/"


async def search(
    state: Annotated[DisplayedState | Literal[""], Query()] = "",
    modality: Text = "",
    body_part: Text = "",
    ae_title: Text = "",
    study_date_from: Date = "",
    study_date_to: Date = "",
    study_instance_uid: Uid = "",
    patient_id: Text = "",
    accession_number: Text = "",
    description: Text = "",
    priority: Annotated[work_list.Level | Literal[""], Query()] = "",
    attention: Annotated[Literal["", "true"], Query()] = "",
    unread: Annotated[Literal["", "true"], Query()] = "",
    sort: Annotated[Sort | Literal[""], Query()] = "",
) -> Search:
    """Return the search of a request; raises ApiError 422."""
    texts = {
        "modality": modality.strip(),
        "body_part": body_part.strip(),
        "ae_title": ae_title.strip(),
        "study_date_from": study_date_from.replace("-", ""),
        "study_date_to": study_date_to.replace("-", ""),
        "study_instance_uid": study_instance_uid.strip(),
        "patient_id": patient_id.strip(),
        "accession_number": accession_number.strip(),
        "description": description.strip(),
    }
    given: dict[str, Any] = {name: text or None for name, text in texts.items()}
    filters = await work_list.filters(
        state=state or None,
        priority=priority or None,
        attention=bool(attention) or None,
        unread=bool(unread) or None,
        **given,
    )
    order = Sort(sort or Sort.ARRIVAL)
    others = {"state": state, "priority": priority, "attention": attention, "unread": unread, "sort": sort}
    fields = {name: str(value) for name, value in (texts | others).items() if value}
    return Search(filters, order, fields)
