"""Health of the system; needs no key and holds no patient data."""

import asyncio

from fastapi import APIRouter, Request, Response

from api.errors import UNREACHABLE
from api.v1.schemas import Health, ListenerProcess, Live
from db.operations import alarms, heartbeats, listener_status
from db.operations.readiness import ANSWER_SECONDS, SharedQuery
from db.session import statements
from db.settings import Settings

#: Seconds for which an answer is given again: requests without a key must not load the database.
VALID_SECONDS = 1.0

router = APIRouter(prefix="/v1", tags=["health"])


def check(settings: Settings) -> SharedQuery[Health]:
    """Return the query of one application's health."""
    return SharedQuery(lambda: _health(settings), VALID_SECONDS)


@router.get("/live")
async def live() -> Live:
    """Answer while the process serves requests, with or without a database: for liveness probes."""
    return Live()


@router.get("/health", responses={503: {"model": Health}})
async def health(request: Request, response: Response) -> Health:
    """Check the system: 200 if the database is reachable, a worker is alive and no alarm is raised, else 503.

    Answers within a second, even if the database hangs.
    """
    # Not in the pool of threads, which other requests occupy while the database hangs.
    answer: asyncio.Future[Health] = asyncio.wrap_future(request.app.state.health.start())
    # An error after the wait has no receiver, and asyncio would log that.
    answer.add_done_callback(asyncio.Future.exception)
    await asyncio.wait((answer,), timeout=ANSWER_SECONDS)
    try:
        found = answer.result()
    except (*UNREACHABLE, asyncio.InvalidStateError):  # the latter: not done
        codes = [alarm.code for alarm in alarms.local(request.app.state.settings)]
        found = Health(status="degraded", database="unreachable", workers=0, alarms=codes)
    response.status_code = 200 if found.status == "ok" else 503
    return found


def _health(settings: Settings) -> Health:
    with statements(settings.database()) as session:
        alive = heartbeats.alive(session)
        raised = alarms.raised(session, settings, alive)
    workers = sum(process.role == heartbeats.Role.WORKER for process in alive)
    listeners = [
        ListenerProcess(process=found.process, open_associations=found.open, draining=found.draining)
        for found in listener_status.current(alive)
    ]
    healthy = workers > 0 and not raised
    return Health(
        status="ok" if healthy else "degraded",
        database="ok",
        workers=workers,
        listeners=listeners,
        alarms=[alarm.code for alarm in raised],
    )
