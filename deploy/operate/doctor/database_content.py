"""The content of the database: schema, processes, alarms, latest work, refused senders, keys."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from db import reference
from db.access import keys
from db.errors import ConfigurationError
from db.migrations import compatibility
from db.migrations.upgrade import alembic_config
from db.operations import alarms, heartbeats, listener_status, outcomes, progress
from db.operations.canaries.canaries import MISSED_INTERVALS
from db.operations.heartbeats import Role
from deploy.launcher import lost_database
from deploy.operate.doctor.finding import Check, Finding, NotChecked, fault, not_checked, ok, warning
from dicom_listener.recovery import database_match
from worker.model.checkpoint.manifest import read_manifest

if TYPE_CHECKING:
    from deploy.operate.doctor.finding import Installation

#: Processes that an installation needs; Flower has no heartbeat and is optional.
NEEDED = (Role.LISTENER, Role.DISPATCHER, Role.WORKER, Role.API)
#: Time before the end of a key at which a new one should be made.
KEY_NOTICE = dt.timedelta(days=14)
_CANARY_CAUSES = "see the log of `prelim canary`; docs/operate.md#canary has the causes"
#: Senders named in a finding.
MAX_NAMED = 5


def examine_schema(installation: Installation) -> Finding:
    """Compare the schema with the migrations of this release."""
    scripts = ScriptDirectory.from_config(alembic_config(installation.database_url()))
    known = {script.revision for script in scripts.walk_revisions()}
    with installation.session() as session:
        current = MigrationContext.configure(session.connection()).get_current_revision()
        runs = current is not None and compatibility.runs(session.connection(), known)
    head = scripts.get_current_head()
    if current == head:
        return ok(f"the schema is revision {current}, that of this release")
    if current is None and (place := database_match.stored(installation.settings)):
        return fault(f"the database is empty, but {place} has files of studies", lost_database.REMEDY)
    if current is None or current in known:
        return fault(
            f"the schema is revision {current or 'none'}, and this release needs {head}", "run `prelim migrate`"
        )
    newer = warning if runs else fault
    return newer(
        f"the schema is revision {current}, newer than this release, which has {head}",
        "install the release that upgraded it, or restore a backup made before the upgrade",
    )


def examine_processes(installation: Installation) -> Finding:
    """Compare the processes that have a heartbeat with those that an installation needs."""
    with installation.session() as session:
        alive = {process.role for process in heartbeats.alive(session)}
    if not alive:
        return not_checked("no process is alive: Prelim does not run")
    missing = [role for role in NEEDED if role not in alive]
    if missing:
        commands = {"listener": "listen", "dispatcher": "dispatch", "worker": "work", "api": "serve"}
        starts = ", ".join(f"`prelim {commands[role]}`" for role in missing)
        return fault(f"not alive: {', '.join(missing)}", f"see their logs, then start {starts}")
    return ok(f"alive: {', '.join(NEEDED)}")


def examine_releases(installation: Installation) -> Finding:
    """Compare the releases of the running processes."""
    with installation.session() as session:
        alive = heartbeats.alive(session)
    found = {(process.info.get("release") or "an earlier one", process.role) for process in alive}
    releases = sorted({release for release, _ in found})
    if not releases:
        return not_checked("no process is alive")
    if len(releases) == 1:
        return ok(f"all processes are release {releases[0]}")
    shown = "; ".join(f"{each}: {', '.join(sorted(r for v, r in found if v == each))}" for each in releases)
    return warning(f"processes of several releases run: {shown}", "restart the processes of the older release")


def examine_alarms(installation: Installation) -> Finding:
    """Repeat the alarms of `prelim status`."""
    # The disk is measured between the statements.
    with installation.session(each_statement=True) as session:
        raised = alarms.raised(session, installation.settings)
    if not raised:
        return ok("no alarm is raised")
    return fault(f"raised: {', '.join(alarm.code for alarm in raised)}", "; ".join(alarm.detail for alarm in raised))


def examine_reports(installation: Installation) -> Finding:
    """Compare the studies of a day with its reports; those of which a rule or a person wants none do not count."""
    studies, reports, age = installation.row(
        "SELECT (SELECT count(*) FROM studies WHERE first_received_at BETWEEN now() - interval '1 day'"
        " AND now() - interval '2 hours' AND (state IN ('settled', 'reported', 'failed')"
        " OR (state = 'not_reportable' AND reason <> ALL (:intended)))"
        " AND study_instance_uid NOT IN (SELECT study_instance_uid FROM canaries)),"
        " (SELECT count(*) FROM reports"
        " WHERE created_at BETWEEN now() - interval '1 day' AND now() + interval '1 minute'"
        " AND study_id NOT IN (SELECT id FROM studies JOIN canaries USING (study_instance_uid))),"
        " (SELECT extract(epoch FROM now() - max(created_at)) / 3600 FROM reports"
        " WHERE created_at < now() + interval '1 minute')::float",
        intended=list(outcomes.INTENDED),
    )
    latest = "no report yet" if age is None else f"the latest report is {age:.1f} h old"
    if studies and not reports:
        return fault(f"{studies} studies of the last day and no report; {latest}", "see the alarms and `prelim status`")
    return ok(f"{reports} reports in the last day; {latest}")


def examine_refusals(installation: Installation) -> Finding:
    """Name the senders that were refused since the start of the listeners."""
    with installation.session() as session:
        refused = listener_status.refusals_by_sender(heartbeats.alive(session, Role.LISTENER))
    if not refused:
        return ok("no sender was refused since the start of the listener")
    named = "; ".join(f"{sender}: {cause} ({times} times)" for sender, cause, times in refused[:MAX_NAMED])
    more = f"; {len(refused) - MAX_NAMED} more in `prelim status`" if len(refused) > MAX_NAMED else ""
    return warning(
        f"refused since the start of the listener: {named}{more}",
        "add a known sender to PRELIM_PEERS_FILE or correct it; docs/dicom.md has the remedy of each cause",
    )


def examine_keys(installation: Installation) -> Finding:
    """Require a way to log in that stays valid."""
    with installation.session() as session:
        valid = [key for key in keys.listed(session) if key.state == "valid"]
    soon = [key.name for key in valid if key.expires_at and key.expires_at < dt.datetime.now(dt.UTC) + KEY_NOTICE]
    if soon:
        return warning(
            f"{len(soon)} of {len(valid)} API keys expire within {KEY_NOTICE.days} days: {', '.join(soon[:MAX_NAMED])}",
            "create new ones with `prelim key create`, and revoke the old ones",
        )
    if not valid and installation.settings.api.oidc_issuer is None:
        return warning("there is no valid API key, and no OpenID Connect provider", "run `prelim key create NAME`")
    return ok(f"{len(valid)} valid API keys")


def examine_index(installation: Installation) -> Finding:
    """Compare the checkpoint of the running workers with that of the reference index."""
    with installation.session() as session:
        indexed = {snapshot.model_digest for snapshot in reference.current_snapshots(session)}
        workers = heartbeats.alive(session, Role.WORKER)
        digests = {str(worker.info["model"]) for worker in workers if worker.info.get("model")}
    if not digests and not indexed:
        return not_checked("there is no reference index, and no worker is alive")
    if not digests:
        digests = _of_settings(installation)
    if digests <= indexed:
        return ok("the reference index was built with the checkpoint of the workers")
    state = "was built with another checkpoint" if indexed else "does not exist"
    return warning(
        f"the reference index {state}: reports quote no similar cases and their findings are not measured",
        "run `prelim index build` with the checkpoint of the workers",
    )


def _of_settings(installation: Installation) -> set[str]:
    """Return the digest of the checkpoint that a worker would load here; raises NotChecked."""
    try:
        return {read_manifest(installation.settings.checkpoint_directory).digest}
    except ConfigurationError as error:
        raise NotChecked("no worker is alive, and there is no valid checkpoint here") from error


def examine_erasures(installation: Installation) -> Finding:
    """Find interrupted erasures, and those that a restore would undo."""
    unfinished, unknown = installation.row(
        "SELECT count(*) FILTER (WHERE completed_at IS NULL),"
        " count(*) FILTER (WHERE backed_up_at IS NULL AND EXISTS (SELECT FROM backups)) FROM patient_erasures"
    )
    if unfinished:
        return fault("the erasure of a patient was interrupted", "run `prelim erase`, which completes it")
    if unknown:
        return warning(
            "a restore would bring an erased patient back", "run `prelim backup`: its folder then has the erasure"
        )
    return ok("no erasure of a patient is unfinished")


def examine_canary(installation: Installation) -> Finding:
    """Compare the time since the last canary with its interval."""
    interval = installation.settings.operations.canary_seconds
    if not interval:
        return not_checked("PRELIM_CANARY_SECONDS is 0: no canary is sent")
    with installation.session() as session:
        alive = heartbeats.alive(session)
        found = progress.read(session, installation.settings.operations.alarm_seconds)
    if found.canary is None:
        if not alive:
            return not_checked("no process is alive, and no canary was sent")
        return warning("no canary was ever sent", "start `prelim canary` where the data directory is")
    if found.canary > MISSED_INTERVALS * interval:
        problem = found.canary_problem or "none was sent since"
        return fault(f"no canary got its report for {found.canary / 60:.0f} min: {problem}", _CANARY_CAUSES)
    if found.canary_problem:
        return warning(f"the last canary got no report: {found.canary_problem}", _CANARY_CAUSES)
    return ok("the last canary got its report, or waits for it")


CHECKS = (
    Check("schema", "a process fails at a table or column that it does not know", examine_schema),
    Check("processes", "a study needs every one of them to become a report", examine_processes),
    Check("releases", "an old process may not understand the rows of a new one", examine_releases),
    Check("alarms", "an alarm is raised only if an operator must act", examine_alarms),
    Check("reports", "an installation can receive for days and write nothing", examine_reports),
    Check("refused_senders", "a study that was refused is not in Prelim", examine_refusals),
    Check("canary", "a broken way from the DICOM port to the report is noticed without a patient", examine_canary),
    Check("api_keys", "without a key, no person can read a report", examine_keys),
    Check("reference_index", "similar cases are found only with the vectors of the same checkpoint", examine_index),
    Check("erasures", "a patient who was erased must stay erased", examine_erasures),
)
