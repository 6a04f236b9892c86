"""Metrics for Prometheus: studies, outcomes, processes, alarms, refusals, disk and engine figures; numbers only."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from api.access.authenticate import authorize
from db.access import audit_queue
from db.jobs import trace_queue
from db.operations import (
    alarms,
    disk,
    heartbeats,
    listener_status,
    outcomes,
    overview,
    progress,
    quarantine,
    queue_figures,
)
from db.operations.heartbeats import Role
from db.operations.totals import totals
from db.session import statements
from db.storage import moves

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.orm import Session

    from db.models import Process
    from db.settings import Settings

router = APIRouter(tags=["health"])
#: Processes that have series of their own; of more, `prelim_processes_alive` and the sums are left.
MAX_LABELLED = 50
ROLES = (Role.WORKER, Role.DISPATCHER, Role.LISTENER, Role.API)
#: Figures of worker.model.engine.metrics.Metrics, which workers store with their heartbeat.
ENGINE = {
    "queued": "Requests that wait for a slot.",
    "running": "Requests that hold a slot.",
    "rows": "Slots.",
    "mean_batch": "Requests per decode step, over all steps.",
    "tokens_per_second": "Tokens written per second, over the last 10 s.",
    "first_token_seconds": "Median time to the first token of the latest 100 requests.",
    "kv_tokens_used": "Tokens in the cache.",
    "kv_tokens": "Tokens that the cache has room for.",
    "stalled_seconds": "Time that the current step has taken; 0 without work.",
}
#: Figures whose sums are exported, too: those of the labelled workers are of the first MAX_LABELLED only.
SUMS = ("queued", "running", "rows", "tokens_per_second")
#: A part of PRELIM_ENGINE_STALL_SECONDS (two minutes by default), after which the worker ends itself.
STALLED_SECONDS = 30.0


# Outside the versioned interface: Prometheus expects this path.
@router.get("/metrics", include_in_schema=False)
def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format, without patient data; needs a key if the site says so."""
    settings = request.app.state.settings
    if settings.api.metrics_access == "key":
        authorize(request, "metrics")
    # No transaction is open while the disk is measured.
    with statements(settings.database()) as session:
        registry = CollectorRegistry()
        registry.register(SystemCollector(session, settings))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class SystemCollector(Collector):
    """Collector that reads the database at each scrape and keeps nothing in between."""

    def __init__(self, session: Session, settings: Settings) -> None:
        self._session = session
        self._settings = settings

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return nothing: registering must not read the database."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics; every alarm code is present, so that rules can refer to it before it is raised."""
        alive = heartbeats.alive(self._session)
        raised = {alarm.code for alarm in alarms.raised(self._session, self._settings, alive)}
        about = "1 while the alarm is raised: an operator must act."
        yield _gauge("prelim_alarm", about, "code", {code: int(code in raised) for code in alarms.CODES})
        yield _gauge("prelim_studies", "Studies by displayed state.", "state", overview.counts(self._session))
        about = "Files in quarantine, in no report."
        yield _gauge("prelim_quarantined", about, "reason", quarantine.counts(self._session))
        numbers = {str(role): sum(process.role == role for process in alive) for role in ROLES}
        yield _gauge("prelim_processes_alive", "Processes with a heartbeat in the last 30 s.", "role", numbers)
        yield self._releases(alive)
        yield from self._totals()
        yield from self._certificates(alive)
        yield from self._queue(alive)
        yield from self._listeners(alive)
        yield from self._storage()
        yield from self._outcomes()
        yield from self._disk(alive)
        yield from self._engines(alive)
        yield from self._ages(alive)
        yield from self._audit_log()
        yield from self._traces()

    def _releases(self, alive: Sequence[Process]) -> Metric:
        """Return the processes by release; the dispatcher writes a listener's heartbeat with the listener's own."""
        numbers = Counter((process.info["release"], process.role) for process in alive if "release" in process.info)
        family = GaugeMetricFamily("prelim_build_info", "Processes by release.", labels=["release", "role"])
        for labels, number in numbers.items():
            family.add_metric(labels, number)
        return family

    def _totals(self) -> Iterable[Metric]:
        """Yield what has been counted since the installation; every combination of labels is present from the start."""
        found = totals.read(self._session)
        about = "Duration of reports by step: settle, wait, write, and total from the first image of a revision."
        steps = HistogramMetricFamily("prelim_report_duration_seconds", about, labels=["step", "priority"])
        for labels, durations in found.durations.items():
            bounds = [*map(str, map(float, totals.BUCKETS)), "+Inf"]
            steps.add_metric(labels, list(zip(bounds, durations.up_to, strict=True)), durations.seconds)
        ended = CounterMetricFamily("prelim_jobs_ended", "Ended jobs by kind and state.", labels=["kind", "state"])
        for labels, number in found.ended.items():
            ended.add_metric(labels, number)
        yield from (steps, ended)
        yield CounterMetricFamily("prelim_objects_indexed", "Received objects with a row.", found.objects)
        yield CounterMetricFamily("prelim_object_bytes", "Bytes of these objects.", found.bytes)

    def _certificates(self, alive: Sequence[Process]) -> Iterable[Metric]:
        """Yield the time until the first certificate that a listener has loaded ends; nothing without TLS."""
        ends = listener_status.certificate_end(listener_status.current(alive))
        if ends is not None:
            about = "Time until the first certificate that a listener serves ends; negative afterwards."
            yield GaugeMetricFamily("prelim_certificate_remaining_seconds", about, ends - time.time())

    def _queue(self, alive: Sequence[Process]) -> Iterable[Metric]:
        """Yield what waits, how long reports take, and the processes for which the broker does not work."""
        waiting = queue_figures.waiting(self._session)
        yield GaugeMetricFamily("prelim_queued_jobs", "Jobs that wait.", waiting.jobs)
        about = "Time since the oldest waiting job was queued; 0 if none waits."
        yield GaugeMetricFamily("prelim_oldest_waiting_seconds", about, waiting.oldest_seconds)
        about = "Quantiles of the latest 1000 reports of a day: waiting for a worker, and writing."
        family = GaugeMetricFamily("prelim_report_seconds", about, labels=["step", "quantile"])
        for labels, seconds in queue_figures.durations(self._session).items():
            family.add_metric(labels, seconds)
        yield family
        outages = [(process.name, process.info.get("broker_outage")) for process in alive]
        about = "Time for which the broker has not worked for a process."
        values = {name: float(outage["seconds"]) for name, outage in outages if outage}
        yield GaugeMetricFamily("prelim_broker_outages", "Processes for which the broker does not work.", len(values))
        yield _gauge("prelim_broker_outage_seconds", about, "process", _first(values))

    def _listeners(self, alive: Sequence[Process]) -> Iterable[Metric]:
        found = listener_status.current(alive)
        values = _first({status.process: status.open for status in found})
        yield _gauge("prelim_associations_open", "Open associations of each process.", "listener", values)
        limits = {parent: limit for parent, (_, limit, _) in listener_status.totals(found).items()}
        about = "Limit of the open associations of all processes of a listener, by the one that accepts."
        yield _gauge("prelim_associations_limit", about, "listener", _first(limits))
        levels = _first({status.process: int(status.level) for status in found})
        about = "What a listener receives: 0 all, 1 all and near a mark, 2 urgent objects only, 3 nothing."
        yield _gauge("prelim_intake_level", about, "listener", levels)
        about = "Rejected associations and refused requests since the start of the listener."
        family = CounterMetricFamily("prelim_refusals", about, labels=["kind", "cause"])
        refused = listener_status.refusals(found)
        counts: Counter[tuple[str, str]] = Counter()
        for each in refused:
            counts[each.kind, each.cause] += each.times
        for labels, count in counts.items():
            family.add_metric(labels, count)
        yield family
        about = "Time since the last of them. An alert reads it: a series of the counter begins with the first refusal."
        ages = GaugeMetricFamily("prelim_refusal_age_seconds", about, labels=["kind", "cause"])
        for kind, cause in counts:
            ages.add_metric((kind, cause), min(e.seconds_ago for e in refused if (e.kind, e.cause) == (kind, cause)))
        yield ages

    def _storage(self) -> Iterable[GaugeMetricFamily]:
        """Yield what waits to be moved to the object storage; nothing without one."""
        if self._settings.storage.storage_url is None:
            return
        found = moves.waiting(self._session)
        yield GaugeMetricFamily("prelim_storage_waiting", "Files to be moved to the object storage.", found.files)
        about = "Time for which the oldest of them has waited."
        yield GaugeMetricFamily("prelim_storage_oldest_seconds", about, max(found.oldest_seconds, 0.0))
        about = "Files that cannot be moved for now: unreadable, or other than the object of their key."
        yield GaugeMetricFamily("prelim_storage_refused", about, found.set_aside)

    def _outcomes(self) -> Iterable[GaugeMetricFamily]:
        """Yield the ended jobs by reason; a report has the reason `reported`."""
        values = {found.reason or "reported": found.hour for found in outcomes.latest(self._session)}
        yield _gauge("prelim_ended_last_hour", "Jobs that ended in the last hour, by reason.", "reason", values)

    def _disk(self, alive: Sequence[Process]) -> Iterable[GaugeMetricFamily]:
        """Yield the free space of the spool's disk, and the reserve at which objects are refused."""
        found = alarms.spool_disk(alive, self._settings)
        if found is None:
            return
        yield GaugeMetricFamily("prelim_disk_free_bytes", "Free bytes on the disk of the spool.", found.bytes)
        yield GaugeMetricFamily("prelim_disk_reserved_bytes", "Objects are refused below.", disk.RESERVED_BYTES)
        if found.inodes is not None:
            yield GaugeMetricFamily("prelim_disk_free_inodes", "Free inodes on the disk of the spool.", found.inodes)
            yield GaugeMetricFamily("prelim_disk_reserved_inodes", "Objects are refused below.", disk.RESERVED_INODES)

    def _audit_log(self) -> Iterable[GaugeMetricFamily]:
        """Yield what waits for the audit record repository, if the log is sent to one."""
        found = audit_queue.waiting(self._session)
        if found is not None:
            about = "Rows of the audit log that the audit record repository does not have."
            yield GaugeMetricFamily("prelim_audit_rows_waiting", about, found.rows)
            about = "Time for which the oldest of them waits; 0 if none waits."
            yield GaugeMetricFamily("prelim_audit_waiting_seconds", about, found.seconds)

    def _traces(self) -> Iterable[Metric]:
        """Yield the figures of the traces, if they are sent to a collector."""
        found = trace_queue.figures(self._session)
        if found is not None:
            yield GaugeMetricFamily("prelim_traces_waiting", "Ended jobs whose trace waits.", found.waiting)
            about = "Time since the end of the oldest of them; 0 if none waits."
            yield GaugeMetricFamily("prelim_traces_waiting_seconds", about, found.seconds)
            yield CounterMetricFamily("prelim_traces_sent", "Jobs whose trace the collector has.", found.sent)
            about = "Jobs whose trace was not sent, because it waited for a day."
            yield CounterMetricFamily("prelim_traces_skipped", about, found.skipped)
            about = "Spans that the collector rejected in batches that it accepted."
            yield CounterMetricFamily("prelim_trace_spans_rejected", about, found.rejected)

    def _ages(self, alive: Sequence[Process]) -> Iterable[GaugeMetricFamily]:
        """Yield the ages of the last canary, backup and verification; of the latter two nothing before the first."""
        operations = self._settings.operations
        found = progress.read(self._session, operations.alarm_seconds)
        canary = alarms.canary_age(found, alive)
        if canary is not None and operations.canary_seconds:
            about = "Time since a canary got its report; before the first time, since the oldest process started."
            yield GaugeMetricFamily("prelim_canary_age_seconds", about, canary)
            about = "Time between two canaries."
            yield GaugeMetricFamily("prelim_canary_interval_seconds", about, operations.canary_seconds)
        if found.backed_up is not None and found.backup_verified is not None:
            yield GaugeMetricFamily("prelim_backup_age_seconds", "Time since the last backup.", found.backed_up)
            about = "Time since a backup was verified; before the first time, since the first backup."
            yield GaugeMetricFamily("prelim_backup_verified_age_seconds", about, found.backup_verified)

    def _engines(self, alive: Sequence[Process]) -> Iterable[GaugeMetricFamily]:
        """Yield the engine figures of each worker's last heartbeat."""
        workers = [process for process in alive if process.role == Role.WORKER]
        engines = {worker.name: worker.info["engine"] for worker in workers if "engine" in worker.info}
        stalled = sum(figures.get("stalled_seconds", 0) >= STALLED_SECONDS for figures in engines.values())
        about = f"Engines whose current step has taken {STALLED_SECONDS:.0f} s; of all workers."
        yield GaugeMetricFamily("prelim_engines_stalled", about, stalled)
        for name in SUMS:
            about = f"Sum of prelim_engine_{name} over all workers."
            total = sum(figures.get(name, 0) for figures in engines.values())
            yield GaugeMetricFamily(f"prelim_engines_{name}", about, total)
        for name, about in ENGINE.items():
            values = {worker: figures[name] for worker, figures in engines.items() if name in figures}
            yield _gauge(f"prelim_engine_{name}", about, "worker", _first(values))


def _first(values: Mapping[str, float]) -> dict[str, float]:
    """Return the values of the first MAX_LABELLED processes: the number of series must not grow with theirs."""
    return dict(list(values.items())[:MAX_LABELLED])


def _gauge(name: str, about: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
