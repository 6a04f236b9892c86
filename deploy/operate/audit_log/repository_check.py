"""Check of `prelim doctor`: the audit record repository can be reached, and no row waits for long."""

from __future__ import annotations

from db.access import audit_queue
from db.errors import ConfigurationError
from deploy.operate.audit_log import syslog_tls
from deploy.operate.doctor.finding import Check, Finding, Installation, fault, not_checked, ok, warning


def examine_repository(installation: Installation) -> Finding:
    """Connect to the repository as the sender does, without a message, and count the rows that wait."""
    settings = installation.settings
    if settings.audit.audit_syslog_url is None:
        return _without_an_address(installation)
    try:
        syslog_tls.repository(settings).connect().close()
    except (OSError, ConfigurationError) as error:
        return fault(
            syslog_tls.cause(error),
            "start the repository, or correct PRELIM_AUDIT_SYSLOG_*; the rows wait in the database meanwhile",
        )
    with installation.session() as session:
        found = audit_queue.waiting(session)
    if found is None:
        return warning("the repository answers, and nothing was ever sent to it", "start `prelim audit-log send`")
    raised = audit_queue.alarm(found, settings.operations.alarm_seconds)
    if raised is not None:
        return fault(raised[1], "see the log of `prelim audit-log send`")
    return ok(f"the repository answers; {found.rows} rows wait")


def _without_an_address(installation: Installation) -> Finding:
    with installation.session() as session:
        found = audit_queue.waiting(session)
    if found is None:
        return not_checked("PRELIM_AUDIT_SYSLOG_URL is not set: the audit log is not sent")
    return not_checked(f"PRELIM_AUDIT_SYSLOG_URL is not set here, but a sender has run; {found.rows} rows wait")


CHECKS = (Check("audit_repository", "who read which patient's data must also be known elsewhere", examine_repository),)
