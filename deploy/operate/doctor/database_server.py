"""The PostgreSQL server: reachable, configured to keep what it confirms, one session for each client."""

from __future__ import annotations

import ctypes
import datetime as dt
import time
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from db.operations import heartbeats
from db.operations.heartbeats import Role
from deploy.launcher.pooling import is_shared
from deploy.operate.doctor.finding import Check, Finding, NotChecked, fault, ok, warning

if TYPE_CHECKING:
    from deploy.operate.doctor.finding import Installation

#: Clock state of a kernel whose clock no time service sets, and more bytes than its `struct timex` has.
TIME_ERROR, TIMEX_BYTES = 5, 512
#: Where both are on one machine, no other clock shows that this one is wrong.
NOT_SET = "no time service sets this machine's clock, by its kernel: compare it with another (`chronyc tracking`)"
#: Major version that Prelim is tested with; an earlier one has no uuidv7(), which makes the keys of rows.
TESTED_MAJOR = 18
#: Parameters that must be on: without them, a power cut loses or damages confirmed rows.
DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
#: Programs of PostgreSQL that receive WAL and are no standby.
NO_STANDBYS = "pg_basebackup", "pg_receivewal", "pg_recvlogical"
STANDBYS = """
    SELECT current_setting('synchronous_standby_names'), current_setting('synchronous_commit'), count(*)
    FROM pg_stat_replication
    WHERE coalesce(application_name, '') <> ALL (:tools) AND coalesce(state, '') <> 'backup'
"""
#: All connections of the server, and those that Prelim can have: the fewest of what other databases and administrators
#: leave, and the limits of role and database. A limit of -1 is none.
CONNECTIONS = """
    SELECT allowed, least(
        allowed - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true), '0')::int
            - (SELECT count(*) FROM pg_stat_activity WHERE datname <> current_database()),
        nullif((SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), -1),
        nullif((SELECT datconnlimit FROM pg_database WHERE datname = current_database()), -1))
    FROM (SELECT current_setting('max_connections')::int AS allowed) AS server
"""
#: Connections of a process beside a worker's slots (docs/deploy.md), and those of commands.
PER_PROCESS, PER_WORKER, FOR_COMMANDS = 11, 4, 5
#: Settings of PostgreSQL, and of the modules auto_explain and pgaudit, that log statements: whether with their values.
VALUES_IN_LOG = """
    SELECT parameters AND current_setting('log_statement') IN ('mod', 'all') AS log_statement,
        parameters AND current_setting('log_min_duration_statement')::interval >= '0' AS log_min_duration_statement,
        parameters AND current_setting('log_transaction_sample_rate')::float > 0 AS log_transaction_sample_rate,
        parameters AND current_setting('log_min_duration_sample')::interval >= '0' AS log_min_duration_sample,
        current_setting('log_parameter_max_length_on_error') <> '0' AS log_parameter_max_length_on_error,
        coalesce(current_setting('auto_explain.log_parameter_max_length', true), '0') <> '0' AND
            current_setting('auto_explain.log_min_duration', true)::interval >= '0' AS "auto_explain.log_min_duration",
        current_setting('pgaudit.log_parameter', true) = 'on' AS "pgaudit.log_parameter"
    FROM (SELECT current_setting('log_parameter_max_length') <> '0' AS parameters) AS server
"""
#: Seconds by which clocks may differ: settling compares times of the listener with those of the database.
MAX_SKEW_SECONDS = 2.0
#: Seconds for which a transaction may be open: until its end, no row version is cleaned up.
MAX_TRANSACTION_SECONDS = 3600


def reachable(installation: Installation) -> Finding:
    """Connect to the database; the finding names the host, never the password."""
    given = make_url(installation.database_url())
    place = f"{given.database} at {given.host or 'the hosts of its URL'}:{given.port or 5432}"
    try:
        (version,) = installation.row("SHOW server_version")
    except OperationalError as error:
        return fault(
            f"PRELIM_DATABASE_URL: the database cannot be reached ({place}): {cause_of(error, given.password)}",
            "start PostgreSQL there, or correct the URL; studies are received meanwhile, without reports",
        )
    return ok(f"{place}, PostgreSQL {version}")


def cause_of(error: OperationalError, password: Any) -> str:
    """Return the first line of the driver's message, without the password should it quote a malformed URL."""
    lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
    return lines[0].replace(str(password), "***") if password else lines[0]


def examine_version(installation: Installation) -> Finding:
    """Compare the server's major version with the tested one."""
    (number,) = installation.row("SELECT current_setting('server_version_num')::int")
    major = number // 10_000
    if major < TESTED_MAJOR:
        return fault(
            f"PostgreSQL {major}, without uuidv7()", f"upgrade to PostgreSQL {TESTED_MAJOR} (dump and restore)"
        )
    if major > TESTED_MAJOR:
        return warning(f"PostgreSQL {major}; Prelim is tested with {TESTED_MAJOR}", "read the notes of its release")
    return ok(f"PostgreSQL {major}")


def examine_cluster(installation: Installation) -> Finding:
    """Compare the version that wrote the embedded cluster with the programs that will open it."""
    path = installation.settings.operations.data_dir / "postgres" / "cluster" / "PG_VERSION"
    if installation.settings.operations.database_url is not None:
        return ok("an own server is configured; the embedded one is not used")
    try:
        written = path.read_text().strip()
    except FileNotFoundError:
        return ok("no embedded cluster yet: the first `prelim up` creates it")
    if written == str(TESTED_MAJOR):
        return ok(f"the cluster was written by PostgreSQL {written}")
    return fault(
        f"the cluster in {path.parent} was written by PostgreSQL {written}, and this release starts {TESTED_MAJOR}",
        f"dump it with PostgreSQL {written} and restore it into {TESTED_MAJOR}; the files cannot be opened directly",
    )


def examine_encoding(installation: Installation) -> Finding:
    """Require UTF8: names in reports and headers have characters of every script."""
    (encoding,) = installation.row(
        "SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()"
    )
    if encoding == "UTF8":
        return ok("the database is UTF8")
    return fault(f"the database is {encoding}", "create a database with ENCODING 'UTF8' and migrate into it")


def examine_owner(installation: Installation) -> Finding:
    """Require that the user of the URL owns the database and its tables: migrations create and alter them."""
    owns, user, owner, table = installation.row(
        "SELECT pg_has_role(datdba, 'USAGE'), current_user, pg_get_userbyid(datdba), (SELECT min(relname::text)"
        " FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'S', 'v', 'm')"
        " AND NOT pg_has_role(relowner, 'USAGE')) FROM pg_database WHERE datname = current_database()"
    )
    if not owns:
        return fault(f"{user} does not own the database, {owner} does", f"ALTER DATABASE ... OWNER TO {user}")
    if table is not None:
        return fault(f"{user} does not own the table {table}", f"ALTER TABLE ... OWNER TO {user}, for each of them")
    return ok(f"{user} owns the database and its tables")


def examine_durability(installation: Installation) -> Finding:
    """Require that a confirmed commit survives a power cut."""
    row = installation.row("SELECT " + ", ".join(f"current_setting('{name}')" for name in DURABLE))
    off = [name for name, value in zip(DURABLE, row, strict=True) if value == "off"]
    if off:
        return fault(f"off: {', '.join(off)}", "set them to on in postgresql.conf, and reload the server")
    return ok(f"on: {', '.join(DURABLE)}")


def examine_standby(installation: Installation) -> Finding:
    """Compare the connected standbys with those that a commit waits for."""
    named, level, connected = installation.row(STANDBYS, tools=list(NO_STANDBYS))
    waits = bool(named.strip()) and level not in ("local", "off")
    if waits and not connected:
        return fault(
            "a commit waits for a standby, and none is connected",
            "start the standby, or let the cluster manager remove it from synchronous_standby_names",
        )
    if waits or not connected:
        return ok(f"{connected} standbys are connected; a commit waits for {named}" if waits else "no standby")
    return warning(
        f"{connected} standbys are connected, and no commit waits for one: a failover loses acknowledged rows, such as"
        " feedback and identity decisions, and reports are written again",
        "set synchronous_standby_names, and promote only a synchronous standby (docs/reliability.md, Failover)",
    )


def examine_connections(installation: Installation) -> Finding:
    """Compare the connections of the server with those that the running processes may take."""
    with installation.session() as session:
        alive = heartbeats.alive(session)
    allowed, free = installation.row(CONNECTIONS)
    needed = FOR_COMMANDS
    for process in alive:
        if process.role == Role.WORKER:
            needed += PER_WORKER + int(process.info.get("slots", 1))
        elif process.role != Role.LISTENER:
            needed += PER_PROCESS
    found = f"the running processes take up to {needed} connections, {free} of {allowed} can be had"
    if needed <= free:
        return ok(found)
    return fault(
        found,
        f"raise max_connections of PostgreSQL to {allowed + needed - free} or more; the CONNECTION LIMIT of role and"
        f" database, if there is one, to {needed}",
    )


def examine_transactions(installation: Installation) -> Finding:
    """Find transactions that have been open for an hour, of any program."""
    seconds, program = installation.row(
        "SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::float,"
        " (array_agg(application_name ORDER BY xact_start))[1]"
        " FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
        " AND pid <> pg_backend_pid()"
    )
    if seconds < MAX_TRANSACTION_SECONDS:
        return ok("no transaction is open for long")
    return warning(
        f"a transaction of {program or 'an unnamed program'} is open for {seconds / 3600:.1f} h",
        "end that program or its session (pg_stat_activity, pg_terminate_backend)",
    )


def examine_clock(installation: Installation) -> Finding:
    """Compare this machine's clock with the database's, half of the round trip allowed for."""
    with installation.session():
        pass
    before = time.time()
    (theirs,) = installation.row("SELECT clock_timestamp()")
    after = time.time()
    skew = theirs.timestamp() - (before + after) / 2
    found = f"this clock and the database's differ by {abs(skew):.1f} s"
    if abs(skew) <= MAX_SKEW_SECONDS + (after - before) / 2:
        return ok(f"{found}; {NOT_SET}" if _clock_state() == TIME_ERROR else found)
    here = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S} UTC here"
    return warning(f"{found} ({here})", "synchronize the clocks of all machines (chrony, NTP)")


def _clock_state() -> int:
    """Return the kernel's clock state (adjtimex(2), without a change); -1 if it is not accessible."""
    try:
        return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES)))
    except (AttributeError, OSError):
        return -1


def examine_order(installation: Installation) -> Finding:
    """Find studies of the future: the clock of this database, or of the one before, was set back."""
    (ahead,) = installation.row(
        "SELECT coalesce(extract(epoch FROM max(first_received_at) - clock_timestamp()), 0)::float FROM studies"
    )
    if ahead <= MAX_SKEW_SECONDS:
        return ok("no study is of the future")
    return warning(
        f"the latest study was received {ahead / 3600:.1f} h after now: the database's clock was set back",
        "set the clock (chrony, NTP; a battery that is empty loses it) before studies arrive under wrong times",
    )


def examine_pooler(installation: Installation) -> Finding:
    """Find a connection pooler that shares the sessions of PostgreSQL."""
    try:
        shared = is_shared(installation.database_url())
    except psycopg.Error as error:
        raise NotChecked("the database cannot be reached") from error
    if not shared:
        return ok("a client keeps its session between transactions")
    return fault(
        "a connection pooler gives each transaction another session; no process starts",
        "set `pool_mode = session` in PgBouncer, or name PostgreSQL itself in PRELIM_DATABASE_URL",
    )


def examine_encryption(installation: Installation) -> Finding:
    """Find a PostgreSQL of another machine that is reached without TLS, or whose certificate is not verified."""
    with installation.session() as session:
        driver = session.connection().connection.driver_connection
        encrypted, host = driver.pgconn.ssl_in_use, driver.info.host  # type: ignore[union-attr]
        mode = driver.info.get_parameters().get("sslmode", "prefer")  # type: ignore[union-attr]
    if installation.is_near(host):
        return ok("the traffic stays on this machine or between its containers")
    remedy = "add sslmode=verify-full and sslrootcert=FILE to PRELIM_DATABASE_URL, or use a network of their own"
    if not encrypted:
        return warning(f"the traffic to {host} is not encrypted", f"turn on `ssl` of PostgreSQL there; {remedy}")
    if not mode.startswith("verify"):
        return warning(f"the traffic to {host} is encrypted, but its certificate is not verified", remedy)
    return ok(f"the traffic to {host} is encrypted")


def examine_log(installation: Installation) -> Finding:
    """Find a server that writes statements with their values, which are those of patients, to its log."""
    found = installation.row(VALUES_IN_LOG)
    named = [name for name, is_logged in found._asdict().items() if is_logged]
    if not named:
        return ok("no setting of the server logs the values of statements")
    return warning(
        f"{', '.join(named)}: the server's log has statements with their values",
        "in postgresql.conf, set log_parameter_max_length and ..._on_error (also of auto_explain) to 0 and"
        " pgaudit.log_parameter to off, and reload the server",
    )


CHECKS = (
    Check("database", "without PostgreSQL no report is written or read", reachable),
    Check("database_version", "an untested version may plan or lock otherwise", examine_version),
    Check("database_cluster", "PostgreSQL cannot open the files of another major version", examine_cluster),
    Check("database_encoding", "names and reports must be stored in every script", examine_encoding),
    Check("database_owner", "`prelim migrate` creates and changes tables", examine_owner),
    Check("database_durability", "otherwise a power cut loses confirmed reports or damages tables", examine_durability),
    Check("database_tls", "who listens on the network reads patients' data", examine_encryption),
    Check("database_log", "patients' data in a log is where no access rule protects it", examine_log),
    Check("database_standby", "a standby that lags lacks the last commits when it is promoted", examine_standby),
    Check("database_connections", "a process without a connection fails at its work", examine_connections),
    Check("database_transactions", "an open transaction keeps old rows: tables and queries grow", examine_transactions),
    Check("clock", "settle times and waiting times compare the clocks of machines", examine_clock),
    Check("clock_order", "ages, leases and retention count from the times of rows", examine_order),
    Check("database_pooler", "LISTEN and the limits of sessions need one session for each client", examine_pooler),
)
