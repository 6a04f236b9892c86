"""Is the house well? Open to everyone, and says nothing about anyone."""

from fastapi import APIRouter, Request, Response

from api.errors import UNREACHABLE
from api.schemas import Health
from db import overview, processes
from db.session import transaction

router = APIRouter(prefix="/v1", tags=["health"])


@router.get("/health", responses={503: {"model": Health}})
def health(request: Request, response: Response) -> Health:
    """Whether reports are being written: 200 when the database answers and a worker lives, else 503."""
    try:
        with transaction(request.app.state.settings.database()) as session:
            workers = len(processes.alive(session, overview.WORKER_ROLE))
    except UNREACHABLE:
        response.status_code = 503
        return Health(status="degraded", database="unreachable", workers=0)
    if not workers:
        response.status_code = 503
    return Health(status="ok" if workers else "degraded", database="ok", workers=workers)
