"""Check of `prelim doctor`: the collector of traces can be reached, and no job waits for long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from db.errors import ConfigurationError
from db.jobs import trace_queue
from deploy.operate.doctor.finding import Check, Finding, Installation, fault, not_checked, ok, warning
from deploy.operate.traces import exporter
from deploy.operate.traces.exporter import NotSent

if TYPE_CHECKING:
    from db.jobs.trace_queue import Figures

#: Seconds for an answer of the collector.
SECONDS = 3.0


def examine_collector(installation: Installation) -> Finding:
    """Send an empty batch as the sender does, and count the jobs that wait."""
    if installation.settings.operations.traces_url is None:
        return not_checked("PRELIM_TRACES_URL is not set here: no traces are sent")
    problem = _problem(installation)
    if problem is not None:
        return problem
    with installation.session() as session:
        found = trace_queue.figures(session)
    if found is None:
        return warning("the collector answers, and no trace was ever sent to it", "start `prelim send-traces`")
    if found.seconds > installation.settings.operations.alarm_seconds + trace_queue.LAG_SECONDS:
        cause = found.problem or "no attempt failed: the sender may not run"
        text = f"jobs that wait: {found.waiting}, the oldest for {found.seconds / 60:.0f} min; {cause}"
        return warning(text, "see the log of `prelim send-traces`; no job waits for a trace")
    return ok(f"the collector answers; {_counts(found)}")


def _problem(installation: Installation) -> Finding | None:
    """Return the finding of a collector that does not accept an empty batch."""
    try:
        collector = exporter.open_collector(installation.settings, seconds=SECONDS)
    except ConfigurationError as error:
        return fault(str(error), "install the package, or correct the variable; no job waits for a trace")
    try:
        collector.send([])
    except NotSent as error:
        return warning(str(error), "start the collector, or correct PRELIM_TRACES_URL; no job waits for a trace")
    finally:
        collector.close()
    return None


def _counts(found: Figures) -> str:
    jobs = f"jobs sent: {found.sent}, waiting: {found.waiting}, skipped as too old: {found.skipped}"
    return f"{jobs}; spans rejected: {found.rejected}"


CHECKS = (Check("traces", "a trace shows where the time of a study went; no report depends on it", examine_collector),)
