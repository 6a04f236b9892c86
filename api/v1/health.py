"""Health of the system; needs no key and holds no patient data."""

from fastapi import APIRouter, Request, Response

from api.errors import UNREACHABLE
from api.v1.schemas import Health
from db.operations import alarms, heartbeats
from db.session import transaction

router = APIRouter(prefix="/v1", tags=["health"])


@router.get("/health", responses={503: {"model": Health}})
def health(request: Request, response: Response) -> Health:
    """Check the system: 200 if the database is reachable, a worker is alive and no alarm is raised, else 503."""
    settings = request.app.state.settings
    try:
        with transaction(settings.database()) as session:
            workers = len(heartbeats.alive(session, heartbeats.Role.WORKER))
            raised = alarms.raised(session, settings)
    except UNREACHABLE:
        response.status_code = 503
        return Health(status="degraded", database="unreachable", workers=0)
    healthy = workers > 0 and not raised
    response.status_code = 200 if healthy else 503
    return Health(
        status="ok" if healthy else "degraded", database="ok", workers=workers, alarms=[a.code for a in raised]
    )
