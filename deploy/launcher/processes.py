"""List the processes of Prelim and their readiness checks: one table for `prelim up` and docker-compose.yml."""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from db.errors import ConfigurationError
from db.operations.heartbeats import Role, alive
from db.operations.probes import status_socket
from db.operations.readiness import SharedQuery
from db.session import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from db.settings import Settings

    Check = Callable[[Settings, int | None], bool]

ANSWER_SECONDS = 2.0
#: Seconds for an answer of a running process, which may be busy.
PROBE_SECONDS = 10.0
ANY_STATUS = range(100, 600)


@dataclass(frozen=True)
class Process:
    """One process: command, readiness check, and time limits of its start and stop.

    `ready(settings, pid)` returns False, and never raises, for a process that has not started; a *pid* of None means
    any on this machine. `probe(settings)` returns whether a running process answers, within generous time. A worker
    has a watchdog instead, and the dispatcher an alarm: one large file can occupy it for minutes.
    """

    name: str
    command: tuple[str, ...]
    ready: Check
    #: For a busy machine: starting takes 2 s alone, and one that ends is an error at once.
    ready_seconds: float = 180
    grace_seconds: float = 15
    probe: Callable[[Settings], bool] | None = None


def answers_echo(settings: Settings, _pid: int | None = None, *, seconds: float = ANSWER_SECONDS) -> bool:
    """Return whether the listener answers C-ECHO or rejects the association (PRELIM_PEERS_FILE may list its peers)."""
    host = loopback_address(settings.dicom.dicom_host)
    if settings.dicom.tls_certificate is not None:
        return answers_tls(host, settings.dicom.dicom_port, seconds)
    if not accepts_tcp(host, settings.dicom.dicom_port, seconds):
        return False
    from dicom_listener.scu import echo  # noqa: PLC0415 - pynetdicom takes half a second to import

    return echo.answers_echo(
        host, settings.dicom.dicom_port, called_ae_title=settings.dicom.ae_title, timeout_seconds=seconds
    )


def accepts_tcp(host: str, port: int, seconds: float = ANSWER_SECONDS) -> bool:
    """Return whether a TCP connection to the address is accepted."""
    try:
        socket.create_connection((host, port), seconds).close()
    except OSError:
        return False
    return True


def answers_tls(host: str, port: int, seconds: float) -> bool:
    """Return whether the address answers a TLS handshake; a rejection for lack of a client certificate counts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is sent: the check only asks for a sign of the process.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), seconds) as connection:
            context.wrap_socket(connection).close()
    except ssl.SSLError as error:
        return error.reason is not None
    except OSError:
        return False
    return True


def answers_http(
    host: str, port: int, path: str, statuses: Container[int] = (200,), seconds: float = ANSWER_SECONDS
) -> bool:
    """Return whether GET *path* is answered with one of *statuses*."""
    connection = http.client.HTTPConnection(loopback_address(host), port, timeout=seconds)
    try:
        connection.request("GET", path)
        return connection.getresponse().status in statuses
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def has_heartbeat(role: Role) -> Check:
    """Return a check for a recent heartbeat of a process of this machine as *role*."""

    def check(settings: Settings, pid: int | None = None) -> bool:
        here = f"{socket.gethostname()}:{'' if pid is None else pid}"
        try:
            names = SharedQuery(lambda: _alive(settings, role)).result()
        except (SQLAlchemyError, ConfigurationError, TimeoutError):
            return False
        return any(name == here or (pid is None and name.startswith(here)) for name in names)

    return check


def _alive(settings: Settings, role: Role) -> list[str]:
    with transaction(settings.database()) as session:
        return [process.name for process in alive(session, role)]


def loopback_address(host: str) -> str:
    """Return the address at which this machine reaches its own server that binds *host*."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def check_api(settings: Settings, _pid: int | None = None) -> bool:
    """Return whether the API answers; 503 counts, because it reports a missing database or worker."""
    return answers_http(settings.api.api_host, settings.api.api_port, "/v1/health", (200, 503))


def check_flower(settings: Settings, _pid: int | None = None) -> bool:
    """Return whether Flower is healthy; this path needs no password."""
    return answers_http(settings.operations.flower_host, settings.operations.flower_port, "/healthcheck")


def runs(role: Role) -> Check:
    """Return a check that a process runs; canaries that are missed, and audit rows that wait, have alarms."""

    def check(settings: Settings, _pid: int | None = None) -> bool:
        return any(found.live for found in status_socket.ask(role, settings.operations.data_dir))

    return check


def probe_listener(settings: Settings) -> bool:
    """Return whether the running listener answers at all."""
    return answers_echo(settings, seconds=PROBE_SECONDS)


def probe_api(settings: Settings) -> bool:
    """Return whether the running API answers at all; an error is an answer."""
    return answers_http(settings.api.api_host, settings.api.api_port, "/v1/health", ANY_STATUS, PROBE_SECONDS)


def probe_flower(settings: Settings) -> bool:
    """Return whether the running Flower answers at all."""
    host, port = settings.operations.flower_host, settings.operations.flower_port
    return answers_http(host, port, "/healthcheck", ANY_STATUS, PROBE_SECONDS)


#: Command that must end before the processes start.
MIGRATE = ("prelim", "migrate")

#: In starting order; stopped in reverse, so that the listener stores arriving objects to the last.
PROCESSES = (
    Process(Role.LISTENER, ("prelim", "listen"), answers_echo, probe=probe_listener),
    Process(Role.DISPATCHER, ("prelim", "dispatch"), has_heartbeat(Role.DISPATCHER)),
    Process(
        Role.WORKER,
        ("prelim", "work"),
        has_heartbeat(Role.WORKER),
        ready_seconds=900,  # 80 GB of weights from a slow disk (100 MB/s)
        grace_seconds=60,  # enough for most reports; an interrupted one is written again by another worker
    ),
    Process(Role.API, ("prelim", "serve"), check_api, probe=probe_api),
    Process(Role.FLOWER, ("prelim", "flower"), check_flower, probe=probe_flower),
    Process(Role.CANARY, ("prelim", "canary"), runs(Role.CANARY)),
    Process(Role.AUDIT_SENDER, ("prelim", "audit-log", "send"), runs(Role.AUDIT_SENDER)),
    Process(Role.TRACE_SENDER, ("prelim", "send-traces"), runs(Role.TRACE_SENDER)),
)


def configured(processes: Iterable[Process], settings: Settings) -> list[Process]:
    """Return the processes without those that the settings switch off."""
    off = {Role.CANARY} if not settings.operations.canary_seconds else set()
    off |= {Role.AUDIT_SENDER} if settings.audit.audit_syslog_url is None else set()
    off |= {Role.TRACE_SENDER} if settings.operations.traces_url is None else set()
    return [process for process in processes if process.name not in off]
