"""Ages of pending work and of the latest progress, in one statement.

What a clock that went back since has dated into the future does not count: an alarm would be silent until then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from db.limits import MAX_SKEW
from db.operations.heartbeats import Role
from db.operations.outcomes import MIN_JOBS

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.orm import Session


#: Studies: three failures in a row point to the system, two can be a coincidence.
FAILED_IN_A_ROW = 3
#: Age of the last backup, and of the last verification: both run weekly at least, with a day for a failed one.
BACKUP_SECONDS = 8 * 86_400.0


class Progress(NamedTuple):
    """Seconds since each moment, None if there is none; counts; roles once alive."""

    #: A waiting job could be claimed: the most urgent one that waits too long, else None.
    overdue: float | None
    claimed: float | None
    #: A report or an answer was written.
    written: float | None
    #: The lease of a running job ended.
    lease_ended: float | None
    #: The revision of a study that is still receiving began.
    revision_started: float | None
    #: Studies held for a person's decision.
    held: int
    #: Objects of the last 24 h in quarantine.
    quarantined: int
    roles: Collection[str]
    in_use: bool
    #: The last FAILED_IN_A_ROW studies of a day that ended failed; not reportable and cancelled ones do not count.
    failing: bool
    #: A reason is frequent enough in the last hour for its alarm.
    frequent: bool
    #: The last backup ended.
    backed_up: float | None
    #: A canary last had its report; before the first time, since the first canary.
    canary: float | None
    #: Why the last canary that ended had no report; empty or None: it had one, or none has ended.
    canary_problem: str | None
    #: A backup was last verified; before the first time, since the first backup.
    backup_verified: float | None
    #: The audit log is sent to a repository, and traces to a collector.
    audit_sent: bool
    traces_sent: bool
    #: Hosts and names of the lost GPUs. Workers of an earlier release name none: then their hosts, until another worker
    #: begins there, for a day.
    gpu_lost: str | None
    #: The oldest study arrived, or the audit log began if that was earlier; None without a study.
    in_use_for: float | None
    is_backup_verified: bool

    def backup_alarm(self) -> tuple[str, str] | None:
        """Return code and sentence of the alarm for backups that were not made, have stopped or are not verified.

        Before the first one, an installation has as long as after each: a demo ends earlier.
        """
        made, verified = self.backed_up, self.backup_verified
        if made is None and (self.in_use_for or 0) > BACKUP_SECONDS:
            return "backup_overdue", "no complete backup was ever made: run `prelim backup` daily (docs/backup.md)"
        if made is not None and made > BACKUP_SECONDS:
            days = f"{made / 86400:.0f} days ago"
            return "backup_overdue", f"the last complete backup ended {days}: see the log of `prelim backup`"
        if verified is not None and verified > BACKUP_SECONDS:
            age = f"no backup was verified for {verified / 86400:.0f} days"
            return "backup_unverified", f"{age}: run `prelim restore --verify`, and see its log"
        return None

    def gpu_alarm(self) -> tuple[str, str] | None:
        """Return code and sentence of the alarm for a lost GPU."""
        if self.gpu_lost is None:
            return None
        return "gpu_lost", (
            f"a worker has lost its GPU on {self.gpu_lost}: see `prelim doctor` and `dmesg` there; ends when a worker"
            " begins with the same GPU, or, if it is no longer used, by `prelim gpu-removed`"
        )


SOON = f"now() + interval '{MAX_SKEW.total_seconds()} s'"
#: Each part reads one row of an index, or rows of open work. now(): clock_timestamp() is volatile, which rules out an
#: index. Beside the most urgent job that waits too long, none needs to be read. Text, because an index of some states
#: serves no query whose states are parameters.
READ = text(f"""
    SELECT extract(epoch FROM clock_timestamp() - (
            SELECT greatest(queued_at, available_at) FROM jobs
            WHERE state = 'queued' AND greatest(queued_at, available_at) <= now() - make_interval(secs => :after)
            ORDER BY urgent_at LIMIT 1))::float,
        extract(epoch FROM clock_timestamp() - (SELECT max(claimed_at) FROM jobs WHERE claimed_at < {SOON}))::float,
        extract(epoch FROM clock_timestamp() - greatest(
            (SELECT max(created_at) FROM reports WHERE created_at < {SOON}),
            (SELECT max(created_at) FROM answers WHERE created_at < {SOON})))::float,
        extract(epoch FROM clock_timestamp() - (SELECT min(lease_until) FROM jobs WHERE state = 'running'))::float,
        extract(epoch FROM clock_timestamp()
            - (SELECT min(revision_started_at) FROM studies WHERE state = 'receiving'))::float,
        (SELECT count(*) FROM studies WHERE state = 'held' AND identity_number = 1),
        (SELECT count(*) FROM quarantine
            WHERE indexed_at > now() - interval '1 day' AND indexed_at < {SOON} AND reason <> 'replaced'),
        ARRAY(SELECT role FROM unnest(CAST(:roles AS text[])) AS role
            WHERE EXISTS (SELECT FROM processes WHERE processes.role = role.role)),
        EXISTS (SELECT FROM studies),
        ARRAY(
            SELECT jobs.state FROM jobs
            JOIN studies ON studies.id = jobs.study_id AND studies.revision = jobs.revision
            WHERE jobs.finished_at > now() - interval '1 day' AND jobs.finished_at < {SOON}
                AND jobs.state IN ('finished', 'failed') AND jobs.kind = 'report'
                AND studies.first_received_at > now() - interval '1 day'
                AND studies.study_instance_uid NOT IN (SELECT study_instance_uid FROM canaries)
            ORDER BY jobs.finished_at DESC LIMIT :in_a_row) = array_fill('failed'::text, ARRAY[:in_a_row]),
        EXISTS (
            SELECT FROM jobs
            WHERE state IN ('failed', 'not_reportable') AND kind = 'report' AND finished_at > now() - interval '1 hour'
                AND finished_at < {SOON}
                AND study_id NOT IN (SELECT id FROM studies JOIN canaries USING (study_instance_uid))
            GROUP BY reason HAVING count(*) >= :min_jobs),
        extract(epoch FROM clock_timestamp() - (SELECT max(ended_at) FROM backups WHERE ended_at < {SOON}))::float,
        extract(epoch FROM clock_timestamp() - (
            SELECT coalesce(max(ended_at) FILTER (WHERE problem = '' AND ended_at < {SOON}), min(begun_at))
            FROM canaries WHERE begun_at < {SOON}))::float,
        (SELECT problem FROM canaries WHERE ended_at < {SOON} ORDER BY ended_at DESC LIMIT 1),
        extract(epoch FROM clock_timestamp() - (
            SELECT coalesce(max(verified_at) FILTER (WHERE verified_at < {SOON}), min(begun_at)) FROM backups
            WHERE ended_at < {SOON}))::float,
        EXISTS (SELECT FROM audit_syslog),
        EXISTS (SELECT FROM trace_export),
        (SELECT string_agg(named, ', ' ORDER BY named) FROM (
            SELECT split_part(process, ':', 1) || ' (' || gpu || ')' AS named FROM lost_gpus
            UNION
            SELECT split_part(lost.name, ':', 1) FROM processes AS lost
            WHERE lost.role = 'worker' AND lost.info @> '{{"gpu_lost": true}}' AND NOT lost.info ? 'gpus'
                AND lost.seen_at > now() - interval '1 day'
                AND NOT EXISTS (
                    SELECT FROM processes AS later
                    WHERE later.role = 'worker' AND later.started_at > lost.seen_at
                        AND split_part(later.name, ':', 1) = split_part(lost.name, ':', 1))) AS gpus),
        extract(epoch FROM clock_timestamp() - (
            SELECT least(first_received_at, (SELECT started_at FROM audit_chains WHERE number = 1))
            FROM studies ORDER BY first_received_at LIMIT 1))::float,
        EXISTS (SELECT FROM backups WHERE verified_at < {SOON})
""")  # noqa: S608 - a constant


def read(session: Session, after_seconds: float) -> Progress:
    """Read it; a job waits too long after *after_seconds*."""
    values = {"after": after_seconds, "roles": list(Role), "in_a_row": FAILED_IN_A_ROW, "min_jobs": MIN_JOBS}
    return Progress(*session.execute(READ, values).one())
