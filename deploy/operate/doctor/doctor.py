"""Run all checks and print their findings (`prelim doctor`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from psycopg.errors import InsufficientPrivilege
from redis.exceptions import RedisError
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from db.environment import load_settings
from db.errors import ConfigurationError
from db.storage.errors import Unavailable
from deploy.operate.audit_log import repository_check
from deploy.operate.backup import backup_check
from deploy.operate.doctor import (
    broker,
    configuration,
    data_disk,
    database_content,
    database_server,
    gpu,
    listener_certificate,
    machine,
    model_files,
    object_storage,
    ports,
)
from deploy.operate.doctor.finding import (
    DatabaseLost,
    Finding,
    Installation,
    Level,
    NotChecked,
    fault,
    is_unanswered,
    not_checked,
    warning,
)
from deploy.operate.traces import collector_check

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from deploy.operate.doctor.finding import Check

#: Every check, in the order of the output.
CHECKS = (
    *configuration.CHECKS,
    *data_disk.CHECKS,
    *machine.CHECKS,
    *ports.CHECKS,
    *listener_certificate.CHECKS,
    *database_server.CHECKS,
    *database_content.CHECKS,
    *backup_check.CHECKS,
    *repository_check.CHECKS,
    *collector_check.CHECKS,
    *broker.CHECKS,
    *object_storage.CHECKS,
    *model_files.CHECKS,
    *gpu.CHECKS,
)
#: Exit status by the worst level.
STATUSES = {Level.OK: 0, Level.NOT_CHECKED: 0, Level.WARNING: 1, Level.FAULT: 2}
STYLES = {Level.OK: "green", Level.NOT_CHECKED: "dim", Level.WARNING: "yellow", Level.FAULT: "bold red"}

Result = tuple["Check", Finding]


def run(console: Console, *, as_json: bool) -> int:
    """Examine this installation, print the findings and return the exit status: 0 well, 1 warnings, 2 faults."""
    try:
        settings = load_settings()
    except ConfigurationError as error:
        # No other check can be made without settings.
        first = configuration.CHECKS[0]
        results = [(first, fault(str(error), "correct the variables; docs/settings.md lists all"))]
    else:
        results = list(examine(Installation(settings)))
    _print_json(results, console) if as_json else _print(results, console)
    return max(STATUSES[finding.level] for _, finding in results)


def examine(installation: Installation) -> Iterable[Result]:
    """Yield each check with its finding."""
    for check in CHECKS:
        yield check, finding_of(check, installation)


def finding_of(check: Check, installation: Installation) -> Finding:
    """Return the finding of a check; one that needs what another check reports as missing is not made."""
    try:
        return check.examine(installation)
    except Exception as error:  # noqa: BLE001 - boundary of a check: the others must be made on a damaged system, too
        return _finding_of_error(error)


def _finding_of_error(error: Exception) -> Finding:
    """Return the finding for an error in a check; texts of drivers may hold values, and are not shown."""
    match error:
        case NotChecked() | ConfigurationError() | Unavailable():
            return not_checked(str(error))
        case DatabaseLost():
            return fault("the database answered before, and cannot be reached any more", "see the log of PostgreSQL")
        case SQLAlchemyError() | RedisError():
            return _finding_of_query(error)
        case OSError():
            remedy = "run it as Prelim's user" if isinstance(error, PermissionError) else "check the path and its disk"
            return fault(f"{error.filename or 'a file'} cannot be read: {error.strerror}", remedy)
    return warning(f"the check failed with {type(error).__name__}", "report it with the output of `prelim doctor`")


def _finding_of_query(error: SQLAlchemyError | RedisError) -> Finding:
    """Return the finding for a query that failed; that a server is away is a fault of `database` or `broker`."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, InsufficientPrivilege):
        return fault("the user of PRELIM_DATABASE_URL has no right to a table", "ALTER TABLE ... OWNER TO that user")
    if not isinstance(error, OperationalError):
        return not_checked(f"the server refuses the query ({type(cause).__name__})")
    if not is_unanswered(error):
        return not_checked("the database cannot be reached")
    return fault(
        f"the database does not answer a query of this check ({type(cause).__name__})",
        "find what loads it, or holds its locks (pg_stat_activity, pg_locks), then run `prelim doctor` again",
    )


def _print_json(results: list[Result], console: Console) -> None:
    rows = [
        {"name": check.name, "level": finding.level, "found": finding.found, "why": check.why, "do": finding.remedy}
        for check, finding in results
    ]
    console.print_json(json.dumps({"status": _worst(results), "checks": rows}))


def _worst(results: list[Result]) -> Level:
    return max((finding.level for _, finding in results), key=lambda level: list(Level).index(level))


def _print(results: list[Result], console: Console) -> None:
    """Print the checks in order, and below each that did not pass its reason and remedy."""
    for check, finding in results:
        label = f"{finding.level:<12}"
        console.print(f"{label}{check.name}: {finding.found}", style=STYLES[finding.level], soft_wrap=True)
        if finding.remedy:
            console.print(f"{'':<12}why: {check.why}\n{'':<12}do:  {finding.remedy}", soft_wrap=True)
    counts = {level: sum(finding.level is level for _, finding in results) for level in Level}
    console.print(", ".join(f"{count} {level}" for level, count in counts.items()), soft_wrap=True)
