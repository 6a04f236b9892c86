"""Route of the files in quarantine."""

import datetime as dt
import uuid
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from api.access.authenticate import Worklist
from api.errors import Problem
from api.v1.body import Body
from db.operations import quarantine

#: Files on one page.
MAX_FILES = 1000

router = APIRouter(
    prefix="/v1",
    tags=["quarantine"],
    responses={401: {"model": Problem}, 403: {"model": Problem}},
)


class QuarantinedFile(Body):
    """An acknowledged file that is in no report."""

    id: uuid.UUID
    reason: str = Field(description="Stable code.", examples=[*quarantine.REASONS])
    detail: str
    received_at: dt.datetime
    calling_ae_title: str
    sop_instance_uid: str | None
    file_bytes: int
    study_id: uuid.UUID | None = Field(description="Study that has another object with this SOP Instance UID.")


class Quarantine(Body):
    """Files in quarantine, the latest first, and their numbers by reason."""

    files: list[QuarantinedFile]
    counts: dict[str, int]


@router.get("/quarantine")
def files(
    caller: Worklist,
    study_id: Annotated[uuid.UUID | None, Query(description="Only files with UIDs of this study's objects.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_FILES)] = 100,
) -> Quarantine:
    """Return the files in quarantine, the latest first."""
    session, seen = caller.session, caller.principal.ae_titles
    found = quarantine.files(session, limit=limit, study_id=study_id, ae_titles=seen)
    caller.disclose({file.study_id for file in found if file.study_id is not None})
    counts = quarantine.counts(session, seen)
    return Quarantine(files=[QuarantinedFile.model_validate(file) for file in found], counts=counts)
