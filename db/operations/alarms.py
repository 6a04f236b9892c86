"""Alarms: pending work that makes no progress, processes without a heartbeat, and limits that are reached.

A worker can be connected to Redis and consume no messages (celery issue 10302), so heartbeats prove little. The alarms
compare pending work with the times of the last claim and the last report.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from db.access import audit_queue
from db.jobs import trace_queue
from db.models.operations import ALIVE_SECONDS
from db.operations import disk, heartbeats, listener_status, outcomes
from db.operations.canaries import canaries
from db.operations.heartbeats import Role
from db.operations.progress import FAILED_IN_A_ROW, read
from db.storage import moves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from db.models import Process
    from db.operations.disk import Disk
    from db.operations.progress import Progress
    from db.settings import Settings

#: Codes of alarms.
CODES = (
    "no_worker",
    "checkpoint_damaged",
    "gpu_lost",
    "nothing_claimed",
    "nothing_written",
    "everything_fails",
    "not_rescued",
    "no_dispatcher",
    "nothing_settled",
    "identity_conflict",
    "no_listener",
    "no_api",
    "disk_full",
    "disk_low",
    "only_urgent_received",
    "intake_near_limit",
    "certificate_ends",
    "associations_exhausted",
    "associations_rejected",
    "objects_refused",
    "files_unreadable",
    "nothing_indexed",
    "index_damaged",
    "quarantined",
    "storage_waiting",
    "storage_refused",
    "reason_rising",
    "canary_missed",
    "backup_overdue",
    "backup_unverified",
    "audit_syslog",
    "traces_waiting",
)


@dataclass(frozen=True, slots=True)
class Alarm:
    """A condition that needs an operator: a stable code, and a sentence with cause and remedy."""

    code: str
    detail: str


def raised(session: Session, settings: Settings, alive: Sequence[Process] | None = None) -> list[Alarm]:
    """Return the current alarms: for work without progress, and for refusals, of the last `alarm_seconds`.

    *alive* are the processes with a heartbeat, if the caller has read them.
    """
    after_seconds = settings.operations.alarm_seconds
    alive = heartbeats.alive(session) if alive is None else alive
    progress = read(session, after_seconds)
    unsettled_seconds = settings.study.settle_cap_seconds + after_seconds
    found = (
        _waiting(progress, alive, after_seconds),
        _failing(progress),
        _not_rescued(progress, after_seconds),
        _no_dispatcher(progress, alive),
        _unsettled(progress, unsettled_seconds),
        _held(progress),
    )
    measured = spool_disk(alive, settings)
    pairs = (
        None if measured is None else measured.alarm(),
        _silent(progress, alive, Role.LISTENER, "`prelim listen`: no study is received"),
        _silent(progress, alive, Role.API, "`prelim serve`: no report can be read"),
        listener_status.intake_alarm(listener_status.current(alive)),
        listener_status.certificate_alarm(listener_status.current(alive)),
        *listener_status.alarms(listener_status.current(alive), after_seconds),
        _damaged_checkpoint(alive),
        progress.gpu_alarm(),
        _unreadable(alive),
        _unindexed(alive, unsettled_seconds),
        _damaged_index(alive),
        _quarantined(progress),
        moves.alarm(moves.waiting(session), after_seconds),
        outcomes.alarm(outcomes.latest(session)) if progress.frequent else None,
        canaries.alarm(canary_age(progress, alive), progress.canary_problem, settings.operations.canary_seconds),
        audit_queue.raised(session, settings, begun=progress.audit_sent, running_seconds=_running_seconds(alive) or 0),
        trace_queue.raised(session, settings, begun=progress.traces_sent, running_seconds=_running_seconds(alive) or 0),
        progress.backup_alarm(),
    )
    return [alarm for alarm in found if alarm is not None] + [Alarm(*pair) for pair in pairs if pair is not None]


def local(settings: Settings) -> list[Alarm]:
    """Return the alarms that need no database: a full disk can be the reason why it does not answer."""
    measured = disk.measure_existing(settings.spool)
    pair = None if measured is None else measured.alarm()
    return [] if pair is None else [Alarm(*pair)]


def spool_disk(alive: Sequence[Process], settings: Settings) -> Disk | None:
    """Measure the spool's disk here or, if the spool is on another machine, return the last measure of a dispatcher."""
    infos = [process.info.get("disk") for process in _of(alive, Role.DISPATCHER)]
    return disk.measure_existing(settings.spool) or next((disk.Disk(**info) for info in infos if info), None)


def _of(alive: Sequence[Process], role: Role) -> list[Process]:
    return [process for process in alive if process.role == role]


def _silent(progress: Progress, alive: Sequence[Process], role: Role, consequence: str) -> tuple[str, str] | None:
    """Return the alarm for a role that had a heartbeat once and has none.

    The listener's is written by the dispatcher. Without one, or just after its start, nothing is known.
    """
    running = [found.seen_at - found.started_at for found in _of(alive, Role.DISPATCHER)]
    known = max(running, default=dt.timedelta()).total_seconds() >= ALIVE_SECONDS
    if not known or role not in progress.roles or _of(alive, role):
        return None
    return f"no_{role}", f"no {role} is alive; see its log and start {consequence}"


def _damaged_checkpoint(alive: Sequence[Process]) -> tuple[str, str] | None:
    """Return the alarm for a file of a worker's checkpoint that changed on disk."""
    found = [process.info.get("checkpoint_damaged") for process in _of(alive, Role.WORKER)]
    name = next((name for name in found if name), None)
    if name is None:
        return None
    return "checkpoint_damaged", (
        f"{name} of the checkpoint has changed on disk and its worker writes no report: restore the file or convert the"
        " checkpoint again, check the disk, and restart the worker"
    )


def _unreadable(alive: Sequence[Process]) -> tuple[str, str] | None:
    """Return the alarm for received files that wait because the disk cannot read them."""
    found = [process.info.get("unreadable") for process in _of(alive, Role.DISPATCHER)]
    worst = max((info for info in found if info), key=lambda info: info["files"], default=None)
    if worst is None:
        return None
    waiting = "1 received file waits" if worst["files"] == 1 else f"{worst['files']} received files wait"
    return "files_unreadable", (
        f"{waiting} in spool/inbox and cannot be read ({worst['error']}): check disk, mount and owner of"
        " PRELIM_DATA_DIR; the log of `prelim dispatch` has the names"
    )


def _unindexed(alive: Sequence[Process], after_seconds: float) -> tuple[str, str] | None:
    """Return the alarm for a received file that waits longer than a study may receive images."""
    found = [process.info.get("oldest_waiting_seconds") for process in _of(alive, Role.DISPATCHER)]
    oldest = max((seconds for seconds in found if seconds), default=0)
    if oldest < after_seconds:
        return None
    return "nothing_indexed", (
        f"a received file has waited for {oldest:.0f} s and is in no study: see the log of `prelim dispatch` for the"
        " file and the error; after an outage, start another dispatcher"
    )


def _damaged_index(alive: Sequence[Process]) -> tuple[str, str] | None:
    """Return the alarm for a snapshot of the reference index that the workers cannot read."""
    name = max((process.info.get("damaged_snapshot") or "" for process in _of(alive, Role.WORKER)), default="")
    if not name:
        return None
    return "index_damaged", (
        f"the newest snapshot of the reference index, {name}, is damaged; the one before it serves, without the cases"
        " added since: see `prelim index verify`, then restore the files or run `prelim index build`"
    )


def _quarantined(progress: Progress) -> tuple[str, str] | None:
    count = progress.quarantined
    if not count:
        return None
    objects = "1 object of the last 24 h is" if count == 1 else f"{count} objects of the last 24 h are"
    return "quarantined", f"{objects} in quarantine and in no report: see `prelim quarantine list`"


def _waiting(progress: Progress, alive: Sequence[Process], after_seconds: float) -> Alarm | None:
    """Return the first failing step for waiting jobs: worker, claim, result."""
    waiting = progress.overdue
    if waiting is None:
        return None
    if not _of(alive, Role.WORKER):
        return Alarm("no_worker", f"no worker is alive and a job has waited for {waiting:.0f} s: start `prelim work`")
    if not _within(progress.claimed, after_seconds):
        return Alarm(
            "nothing_claimed",
            f"the workers claim no job and one has waited for {waiting:.0f} s: restart them and check Redis",
        )
    if not _within(progress.written, after_seconds):
        return Alarm(
            "nothing_written",
            "jobs are claimed but no report or answer is written: see `prelim status` and the workers' logs",
        )
    return None


def _failing(progress: Progress) -> Alarm | None:
    if not progress.failing:
        return None
    remedy = "see the last error in `prelim status`, remove its cause, then run `prelim retry` for each study"
    return Alarm("everything_fails", f"the last {FAILED_IN_A_ROW} studies failed: {remedy}")


def _not_rescued(progress: Progress, after_seconds: float) -> Alarm | None:
    expired = progress.lease_ended
    if expired is None or expired < after_seconds:
        return None
    return Alarm(
        "not_rescued",
        f"the lease of a job expired {expired:.0f} s ago and the job was not queued again:"
        " restart `prelim dispatch`; see its log",
    )


def canary_age(progress: Progress, alive: Sequence[Process]) -> float | None:
    """Return the time since the last canary with a report; before the first one, since the oldest process started."""
    return _running_seconds(alive) if progress.canary is None else progress.canary


def _running_seconds(alive: Sequence[Process]) -> float | None:
    return max(((found.seen_at - found.started_at).total_seconds() for found in alive), default=None)


def _no_dispatcher(progress: Progress, alive: Sequence[Process]) -> Alarm | None:
    """Raise an alarm if no dispatcher is alive, except in an installation that was never used."""
    if _of(alive, Role.DISPATCHER) or not (progress.in_use or progress.roles):
        return None
    return Alarm("no_dispatcher", "no dispatcher is alive and new studies get no report: start `prelim dispatch`")


def _unsettled(progress: Progress, after_seconds: float) -> Alarm | None:
    arriving = progress.revision_started
    if arriving is None or arriving < after_seconds:
        return None
    return Alarm(
        "nothing_settled",
        f"a study has been arriving for {arriving:.0f} s and was not settled: restart `prelim dispatch`; see its log",
    )


def _held(progress: Progress) -> Alarm | None:
    """Raise an alarm at once: no report is written before a person has decided."""
    held = progress.held
    if not held:
        return None
    studies = "1 study is" if held == 1 else f"{held} studies are"
    return Alarm(
        "identity_conflict",
        f"{studies} held because objects with different demographics arrived under one Study Instance UID:"
        " see `prelim list --state held`, then decide with `prelim identity`",
    )


def _within(seconds: float | None, limit: float) -> bool:
    return seconds is not None and seconds < limit
