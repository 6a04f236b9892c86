"""Fuzz the DICOM listener: stateful, seeded, within a time limit; each case can be repeated by its number.

    python -m tests.fuzz.listener --seed 1 --seconds 60
    python -m tests.fuzz.listener --seed 1 --case 1234
    python -m tests.fuzz.listener --processes 2

The listener runs in its own process, or in several. Each case is a mutated session of a sender. After each, a valid
C-ECHO must succeed. Every CHECK_EVERY cases and at the end, memory must have grown by no more than MEMORY_BYTES, and
threads and file descriptors not at all; at the end, every acknowledged object must be on the disk, complete.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from dicom_listener.spool import file_meta
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.inbox import MAINTENANCE_SECONDS
from dicom_listener.spool.waiting import received
from tests.fuzz import wire
from tests.fuzz.mutations import mutate, session
from tests.processes import children

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY_BYTES = 64 * 2**20
#: Cases between two checks of the process.
CHECK_EVERY = 100
#: Seconds for threads, descriptors and memory to be released.
RECOVERY_SECONDS = 15
START_SECONDS = 30
#: Seconds without a response after which a case ends.
RESPONSE_SECONDS = 3
AFFECTED_SOP_INSTANCE_UID = struct.pack("<HH", 0, 0x1000)
C_STORE_RSP_SUCCESS = (struct.pack("<HHIH", 0, 0x0100, 2, 0x8001), struct.pack("<HHIH", 0, 0x0900, 2, 0))


class Broken(Exception):
    """Raised when the listener violates a requirement, with the case."""


@dataclass
class Subject:
    """The listener under test."""

    port: int
    #: The only process, or the parent of the others.
    pid: int
    spool: Path
    #: SOP Instance UIDs of C-STOREs that were answered with success.
    acknowledged: set[str] = field(default_factory=set)

    @property
    def children(self) -> list[int]:
        """Process ids of the children."""
        return children(self.pid)

    def resources(self) -> tuple[int, int, int]:
        """Resident bytes, threads, open descriptors, of all processes."""
        each = [_resources(Path(f"/proc/{pid}")) for pid in (self.pid, *self.children)]
        memory, threads, descriptors = map(sum, zip(*each, strict=True))
        return memory, threads, descriptors

    def resources_at_rest(self) -> tuple[int, int, int]:
        """Return the resources once all prepared files exist: two rounds of maintenance leave the descriptors as is."""
        earlier, now = (0, 0, 0), self.resources()
        while earlier[1:] != now[1:]:
            time.sleep(2 * MAINTENANCE_SECONDS)
            earlier, now = now, self.resources()
        return now


def _resources(proc: Path) -> tuple[int, int, int]:
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) * 1024, int(status["Threads"]), len(list((proc / "fd").iterdir()))


@contextlib.contextmanager
def listening(folder: Path, before: str = "", **values: object) -> Iterator[Subject]:
    """Run a listener in a process of its own, with *values* as settings; *before* has statements to run first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    values = {"listener_processes": 1, "data_dir": str(folder), "dicom_port": port, **values}
    code = "from db.settings import Settings\n"
    code += "from dicom_listener.receive.prefork import child_server, children, parent, pool\n"
    code += f"from dicom_listener.receive import status_file\n{before}\nparent.run(Settings(**{values!r}))"
    with (folder / "listener.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        answers = connects if "tls_certificate" in values else echoes
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Broken(f"the listener does not start: {(folder / 'listener.log').read_text()}")
            time.sleep(0.1)
        yield Subject(port, process.pid, folder / "spool")
    finally:
        process.terminate()
        process.wait()


def connects(port: int) -> bool:
    """Return whether the port accepts a connection; a listener with TLS answers no C-ECHO without it."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def echoes(port: int) -> bool:
    """Return whether a valid C-ECHO succeeds."""
    try:
        return wire.echoes(port)
    except OSError:
        return False


def run_case(subject: Subject, seed: int, number: int) -> None:
    """Run one case; raises Broken if a valid C-ECHO fails afterwards."""
    random = Random(f"{seed}:{number}")
    pdus = session(random)
    names = mutate(pdus, random)
    content = b"".join(one.encode() for one in pdus)
    with contextlib.suppress(OSError), wire.Client(subject.port, RESPONSE_SECONDS) as client:
        talk(subject, client, content, random)
    if not echoes(subject.port):
        raise Broken(f"case {number} ({', '.join(names)}): a valid C-ECHO fails")


def talk(subject: Subject, client: wire.Client, content: bytes, random: Random) -> None:
    """Send *content* in pieces of some size, and record the acknowledged objects."""
    step = random.choice((1, 7, 1000, len(content), len(content)))
    # One byte at a time tests the reassembly; for a complete image it would only take long.
    end = min(len(content), 3000 * step)
    try:
        for at in range(0, end, step):
            client.send(content[at : min(at + step, end)])
        client.connection.shutdown(socket.SHUT_WR)
    finally:
        # Responses before the listener closed the connection count, too.
        with contextlib.suppress(OSError, struct.error):
            while True:
                record_acknowledgements(subject, *client.read())


def record_acknowledgements(subject: Subject, kind: int, content: bytes) -> None:
    """Record the SOP instance of a C-STORE-RSP with success."""
    if kind == wire.P_DATA_TF and all(element in content for element in C_STORE_RSP_SUCCESS):
        at = content.index(AFFECTED_SOP_INSTANCE_UID)
        (length,) = struct.unpack_from("<I", content, at + 4)
        subject.acknowledged.add(content[at + 8 : at + 8 + length].decode().rstrip("\0"))


def check_resources(subject: Subject, before: tuple[int, int, int]) -> None:
    """Wait until the cases' resources are released; raises Broken after RECOVERY_SECONDS."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while True:
        memory, threads, descriptors = (now - then for now, then in zip(subject.resources(), before, strict=True))
        if memory <= MEMORY_BYTES and threads <= 0 and descriptors <= 0:
            return
        if time.monotonic() > deadline:
            raise Broken(f"not released: {memory} bytes, {threads} threads, {descriptors} descriptors")
        time.sleep(0.2)


def check_disk(subject: Subject) -> None:
    """Raise Broken if an acknowledged object is missing, or a file for the indexer is incomplete."""
    kept = set()
    for path in received(Spool(subject.spool)):
        if not file_meta.is_complete(path):
            raise Broken(f"{path.name} is incomplete")
        with path.open("rb") as file:
            kept.add(file_meta.decode(file.read(file_meta.MAX_HEADER_BYTES)).sop_instance_uid)
    missing = subject.acknowledged - kept
    if missing:
        raise Broken(f"acknowledged, but not on disk: {sorted(missing)}")


def fuzz(subject: Subject, seed: int, seconds: float) -> int:
    """Run cases for *seconds*; returns their number. Raises Broken."""
    for warm_up in range(20):
        run_case(subject, seed, warm_up)
    before = subject.resources_at_rest()
    deadline, number = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        run_case(subject, seed, number)
        number += 1
        if number % CHECK_EVERY == 0:
            check_resources(subject, before)
    check_resources(subject, before)
    check_disk(subject)
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--case", type=int, help="run this case alone")
    arguments = parser.parse_args()
    processes = arguments.processes
    with tempfile.TemporaryDirectory() as name, listening(Path(name), listener_processes=processes) as subject:
        if arguments.case is not None:
            run_case(subject, arguments.seed, arguments.case)
            cases = 1
        else:
            cases = fuzz(subject, arguments.seed, arguments.seconds)
        sys.stdout.write(f"{cases} cases, {len(subject.acknowledged)} objects acknowledged, all stored\n")


if __name__ == "__main__":
    main()
