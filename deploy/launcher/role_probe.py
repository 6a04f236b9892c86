"""Check one process of this machine for `prelim ready` and `prelim live`, with the standard library only.

Containers run a check every few seconds, and the settings alone take half a second of CPU to import.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Settings that a check needs; as in db.settings, which takes longer to import.
DEFAULTS = {
    "data_dir": "prelim-data",
    "api_host": "127.0.0.1",
    "api_port": "8080",
    "flower_host": "127.0.0.1",
    "flower_port": "5555",
}
SECRETS = "/run/secrets"
#: Seconds for an answer over HTTP.
ANSWER_SECONDS = 3.0
MAX_ANSWER_BYTES = 65536
ROLES = ("listener", "dispatcher", "worker", "api", "flower", "canary", "audit-sender", "trace-sender")
#: A check returns the cause of a failure, empty if there is none.
OK = ""


def run(question: str, role: str) -> int:
    """Print the cause if *role* is not `ready` or not `live`; return the exit status."""
    cause = problem(question, role)
    if cause:
        print(f"{role} is not {question}: {cause}")  # noqa: T201 - a container engine stores it
    return 1 if cause else 0


def problem(question: str, role: str) -> str:
    """Return why *role* is not `ready` or not `live`; empty if it is."""
    if role == "listener":
        return _listener(question, setting("data_dir"))
    if role == "api":
        return _api(question)
    if role == "flower":
        return _http("flower", "/healthcheck", b" 200 " if question == "ready" else b"HTTP/")
    return _by_socket(question, role, setting("data_dir"))


def setting(name: str) -> str:
    """Return a setting from the environment, a secret file or the defaults."""
    given = {key.upper(): value for key, value in os.environ.items()}.get(f"PRELIM_{name.upper()}")
    if given is None:
        try:
            with open(f"{SECRETS}/prelim_{name}") as file:  # noqa: PTH123 - pathlib takes longer to import
                given = file.read().strip()
        except OSError:
            given = DEFAULTS[name]
    return given


def _by_socket(question: str, role: str, data_dir: str) -> str:
    from db.operations.probes import status_socket  # noqa: PLC0415 - not needed for the others

    found = status_socket.ask(role, data_dir)
    good = any(each.ready if question == "ready" else each.live for each in found)
    return OK if good else found[0].cause if found else f"no process with data directory {data_dir} runs here"


def _listener(question: str, data_dir: str) -> str:
    """Check by the status files: the accepting process, which starts others by fork, can have no thread.

    A disk that refuses writes makes them old; then the process counts as live while it exists.
    """
    from pathlib import Path  # noqa: PLC0415 - not needed for the others

    from dicom_listener.receive import status_file  # noqa: PLC0415
    from dicom_listener.spool.durable import Spool  # noqa: PLC0415

    spool = Path(data_dir) / "spool"
    try:
        files = [slot.status for slot in Spool(spool).slots()]
    except OSError as error:
        return f"{spool}: {error.strerror}"
    fresh = [status for status in _of_this_machine(map(status_file.read, files)) if _receives(status)]
    if question == "ready":
        fresh = [status for status in fresh if not status.get("draining")]
    if fresh:
        return OK
    writable = os.access(spool, os.W_OK)
    old = _of_this_machine(status_file.read(path, max_age=float("inf")) for path in files)
    if question == "live" and not writable and any(_runs(status["process"]) for status in old):
        return OK
    refused = "" if writable else f", and {spool} cannot be written"
    return f"no receiving process runs here with a status of the last {status_file.STALE_SECONDS:.0f} s{refused}"


def _of_this_machine(found: Iterable[dict[str, Any] | None]) -> list[dict[str, Any]]:
    here = f"{os.uname().nodename}:"
    return [status for status in found if status and status["process"].startswith(here)]


def _receives(status: dict[str, Any]) -> bool:
    """Return whether the process of a status runs, and the one that accepts connections for it."""
    return all(_runs(one["process"]) for one in (status, status.get("parent") or {}) if "process" in one)


def _runs(process: str) -> bool:
    """Return whether a process has not ended; one that its parent has not waited for has."""
    try:
        with open(f"/proc/{process.rpartition(':')[2]}/stat", "rb") as file:  # noqa: PTH123 - as above
            return file.read().rpartition(b")")[2].split()[0] not in {b"Z", b"X"}
    except (OSError, IndexError):
        return False


def _api(question: str) -> str:
    if question == "live":
        return _http("api", "/v1/live", b" 200 ")
    return _http("api", "/v1/health", b'"database":"ok"')


def _http(name: str, path: str, expected: bytes) -> str:
    """Return a problem unless the answer to GET *path* contains *expected*."""
    host, port = setting(f"{name}_host"), setting(f"{name}_port")
    # The address at which a machine reaches its own server that binds all addresses.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection((host, int(port)), ANSWER_SECONDS) as connection:
            connection.sendall(request.encode())
            answer = _received(connection)
    except (OSError, ValueError) as error:
        return f"GET {path} at port {port}: {error}"
    if expected in answer:
        return OK
    status = answer.partition(b"\r\n")[0].decode(errors="replace")[:100]
    return f"GET {path} at port {port}: {status}, without {expected.decode().strip()}"


def _received(connection: socket.socket) -> bytes:
    answer = b""
    while len(answer) < MAX_ANSWER_BYTES and (part := connection.recv(MAX_ANSWER_BYTES)):
        answer += part
    return answer
