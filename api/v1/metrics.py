"""What Prometheus scrapes: how many studies are in which state, who is alive, and the alarms. Numbers only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from api.access.authenticate import Database  # noqa: TC001 - FastAPI reads it at run time
from db.operations import alarms, heartbeats, overview
from db.operations.heartbeats import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.orm import Session

    from db.settings import Settings

router = APIRouter(tags=["health"])
ROLES = (Role.WORKER, Role.DISPATCHER)
#: Figures of worker.model.engine.metrics.Metrics, as the workers write them into the process table.
ENGINE = {
    "queued": "Requests that wait for a slot.",
    "running": "Requests that hold a slot.",
    "rows": "Slots.",
    "mean_batch": "Requests per decode step, over all steps.",
    "tokens_per_second": "Tokens written per second, over the last 10 s.",
    "first_token_seconds": "Median time to the first token of the latest 100 requests.",
    "kv_tokens_used": "Tokens in the cache.",
    "kv_tokens": "Tokens that the cache has room for.",
}


# Not of the versioned interface: Prometheus wants this address.
@router.get("/metrics", include_in_schema=False)
def metrics(request: Request, session: Database) -> Response:
    """The state of the house in Prometheus' text format; open to everyone, and says nothing about anyone."""
    registry = CollectorRegistry()
    registry.register(House(session, request.app.state.settings))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class House(Collector):
    """Reads the database once a scrape: there is nothing to keep up to date between two."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self._session = session
        self._settings = settings

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing beforehand: registering must not read the database."""
        return []

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Every alarm has its line at all times, so that a rule can be written before it is ever raised."""
        after, cap = self._settings.operations.alarm_seconds, self._settings.study.settle_cap_seconds
        raised = {alarm.code for alarm in alarms.raised(self._session, after_seconds=after, cap_seconds=cap)}
        yield _gauge(
            "prelim_alarm",
            "1 where work is there and does not get done.",
            "code",
            {code: int(code in raised) for code in alarms.CODES},
        )
        yield _gauge("prelim_studies", "Studies by displayed state.", "state", overview.counts(self._session))
        yield _gauge(
            "prelim_processes_alive",
            "Processes that gave a sign of life in the last 30 s.",
            "role",
            {role: len(heartbeats.alive(self._session, role)) for role in ROLES},
        )
        yield from self._engines()

    def _engines(self) -> Iterable[GaugeMetricFamily]:
        """What the workers' engines said of themselves with their last sign of life, by worker."""
        workers = heartbeats.alive(self._session, Role.WORKER)
        engines = {worker.name: worker.info["engine"] for worker in workers if "engine" in worker.info}
        for name, about in ENGINE.items():
            values = {worker: figures[name] for worker, figures in engines.items() if name in figures}
            yield _gauge(f"prelim_engine_{name}", about, "worker", values)


def _gauge(name: str, about: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
