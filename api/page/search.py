"""Search form of the work list: its fields are in the URL, and an empty field is no filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import Query
from pydantic import Field

from api.v1.requests import work_list
from db.operations.filters import Filters, Sort
from db.states import DisplayedState  # noqa: TC001 - FastAPI reads annotations at run time

Text = Annotated[str, Query(), Field(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]


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
        "patient_id": patient_id.strip(),
        "accession_number": accession_number.strip(),
        "description": description.strip(),
    }
    filters = await work_list.filters(
        state=state or None,
        priority=priority or None,
        attention=bool(attention) or None,
        unread=bool(unread) or None,
        modality=texts["modality"] or None,
        patient_id=texts["patient_id"] or None,
        accession_number=texts["accession_number"] or None,
        description=texts["description"] or None,
    )
    order = Sort(sort or Sort.ARRIVAL)
    others = {"state": state, "priority": priority, "attention": attention, "unread": unread, "sort": sort}
    fields = {name: str(value) for name, value in (texts | others).items() if value}
    return Search(filters, order, fields)
