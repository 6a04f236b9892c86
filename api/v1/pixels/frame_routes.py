"""Routes of the stored images: their list, and one frame with its values, to be windowed by the viewer."""

import uuid
from itertools import groupby
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response
from pydantic import Field

from api.access.authenticate import Images
from api.errors import ApiError, ErrorCode, NotFound, Problem
from api.v1 import reading
from api.v1.body import Body
from api.v1.pixels.decoders import Busy, Decoders, NoPicture
from api.v1.requests.conditional import matches
from db.errors import Reason
from db.reports import stored_images
from db.storage import object_files
from db.storage.errors import StorageError, Unavailable
from db.storage.object_files import StoredFile

#: Greatest frame of an object.
MAX_FRAME = 250_000
#: Changed with the format of the message: a browser must not use an older one.
FORMAT = 1

router = APIRouter(prefix="/v1/studies/{study_id}", tags=["images"])


class StoredImage(Body):
    """A stored image; the number of its frames is in the description of each frame."""

    id: uuid.UUID
    sop_instance_uid: str
    instance_number: int | None


class StoredSeries(Body):
    """Stored images of one series, by instance number."""

    series_instance_uid: str
    series_number: int | None
    modality: str
    images: list[StoredImage]


class StoredImages(Body):
    """Stored images of a study, by series number."""

    not_for_diagnosis: str = Field(
        default="Pictures of Prelim are not for diagnosis.", description="Sentence to show beside them."
    )
    complete: bool = Field(description="False: the study has more images than are listed.")
    series: list[StoredSeries]


@router.get("/instances", responses={404: {"model": Problem}})
def instances(request: Request, caller: Images, study_id: uuid.UUID) -> StoredImages:
    """Return the stored images of a study. They are those that were received, not those given to the model."""
    reading.study(caller, study_id)
    _decoders(request).warm()
    rows = stored_images.images(caller.session, study_id)
    series = [
        StoredSeries(
            series_instance_uid=uid,
            series_number=number,
            modality=modality,
            images=[StoredImage.model_validate(row) for row in members],
        )
        for (number, uid, modality), members in groupby(
            rows, key=lambda row: (row.series_number, row.series_instance_uid, row.modality)
        )
    ]
    return StoredImages(series=series, complete=len(rows) < stored_images.MAX_IMAGES)


_answers: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}}, "description": "Message of the frame: docs/api.md#frames."},
    304: {"description": "Not modified."},
    404: {"model": Problem, "description": "No such frame, or it cannot be shown: `reason` says why."},
}


@router.get("/instances/{instance_id}/frames/{frame}", response_class=Response, responses=_answers)
def frame(
    request: Request,
    caller: Images,
    study_id: uuid.UUID,
    instance_id: uuid.UUID,
    frame: Annotated[int, Path(ge=1, le=MAX_FRAME, description="From 1.")],
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return one stored frame: its values as stored, its rescale and windows, and the edges of the patient."""
    reading.study(caller, study_id)
    row = stored_images.image(caller.session, study_id, instance_id)
    if row is None:
        raise NotFound("image not found", "take it from the images of the study")
    tag = f'"{row.sha256[:32]}-{frame}-{FORMAT}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Authorization, Cookie"}
    if matches(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    # No transaction is open while a file is read and a frame is decoded.
    caller.session.expunge(row)
    caller.session.commit()
    body = _of_file(request, row, frame)
    return Response(body, media_type="application/octet-stream", headers=headers)


def _decoders(request: Request) -> Decoders:
    found: Decoders = request.app.state.decoders
    return found


def _of_file(request: Request, row: StoredFile, frame: int) -> bytes:
    """Return the message of a frame, of a file that may have been moved to the object storage."""
    try:
        with object_files.opened(request.app.state.settings) as stored:
            return _message(_decoders(request), stored.path(row), frame)
    except Unavailable as error:
        hint = "look at it in the PACS, or try again in a moment"
        problem = Problem(error=ErrorCode.UNAVAILABLE, message=str(error), hint=hint)
        raise ApiError(503, problem, {"Retry-After": "10"}) from error
    except StorageError as error:
        code, detail = Reason.MISSING, "its object is lost or damaged in the object storage; `prelim audit` names it"
        message = f"the frame cannot be shown: {detail}"
        hint = "look at it in the PACS"
        problem = Problem(error=ErrorCode.NO_PICTURE, message=message, hint=hint, reason=code, reason_detail=detail)
        raise ApiError(404, problem) from error


def _message(decoders: Decoders, path: Any, frame: int) -> bytes:
    try:
        return decoders.message(path, frame - 1)
    except NoPicture as error:
        problem = Problem(
            error=ErrorCode.NO_PICTURE,
            message=f"the frame cannot be shown: {error.detail}",
            hint="look at it in the PACS",
            reason=error.reason,
            reason_detail=error.detail,
        )
        raise ApiError(404, problem) from error
    except Busy as error:
        message, hint = "all decoders are busy", "try again in a moment"
        problem = Problem(error=ErrorCode.UNAVAILABLE, message=message, hint=hint)
        raise ApiError(503, problem, {"Retry-After": "2"}) from error
