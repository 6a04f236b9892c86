"""How fast the listener takes a study, beside DCMTK's storescp (never syncs) and Orthanc (syncs files).

    make bench-ingest                       all of it, 5 rounds
    python -m tests.benchmarks.bench_ingest --rounds 1 --cells ct_1

The same sender (dcmsend, TCP_NODELAY) sends the same study to each receiver in turn, in every round of one run; each
receiver is started afresh for each transfer, into an empty folder of the same disk. Needs the Debian packages dcmtk
and orthanc. Sender and receivers share the machine: compare ratios, not figures of other machines.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydicom.uid import CTImageStorage, generate_uid
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.benchmarks.synthetic import write_slice
from tests.fuzz import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Study name: instances and pixels of one side (16 bit).
STUDIES = {"ct": (200, 512), "small": (1000, 101)}
CELLS = ("ct_1", "ct_4", "ct_8", "small_1", "small_4", "small_8")
#: The figures by which the listener is judged: this cell, prelim against that receiver.
JUDGED = (
    ("ct_1", "storescp"),
    ("ct_4", "storescp"),
    ("small_4", "storescp"),
    ("ct_1", "orthanc"),
    ("small_4", "orthanc"),
    ("ct_4", "orthanc"),
)
NODELAY = {**os.environ, "TCP_NODELAY": "1"}
START_SECONDS = 30
TALK_SECONDS = 2.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measurement:
    """One transfer."""

    instances: int
    seconds: float
    megabytes: float
    #: The receiver's CPU time, in seconds.
    cpu: float


def prelim(folder: Path, port: int) -> list[str]:
    """The listener, by its own command."""
    code = "from db.settings import Settings; from dicom_listener import server; from pathlib import Path; "
    return [sys.executable, "-c", code + f"server.run(Settings(data_dir=Path({str(folder)!r}), dicom_port={port}))"]


def storescp(folder: Path, port: int) -> list[str]:
    """DCMTK's, at its largest PDU."""
    return ["storescp", "-pdu", "131072", "+xa", "-od", str(folder), str(port)]


def orthanc(folder: Path, port: int) -> list[str]:
    """Orthanc with its defaults, SyncStorageArea among them."""
    configuration = {
        "Name": "bench",
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpServerEnabled": False,
        "DicomAet": "ANY-SCP",
        "DicomPort": port,
        "MaximumPduLength": 131072,
        "SyncStorageArea": True,
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(configuration))
    return [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(file)]


RECEIVERS = {"prelim": prelim, "storescp": storescp, "orthanc": orthanc}


@contextlib.contextmanager
def receiving(name: str, parent: Path) -> Iterator[tuple[int, int]]:
    """Start a receiver in an empty folder; yields its port and process id, and leaves nothing behind."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    port = free_port()
    process = subprocess.Popen(
        RECEIVERS[name](folder, port), env=NODELAY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(port, process)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if subprocess.run(["echoscu", "127.0.0.1", str(port)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.05)
    raise SystemExit(f"{process.args!r} does not answer")


def make_studies(folder: Path) -> dict[str, list[Path]]:
    """Write the studies: noise, which no link or disk compresses."""
    random = np.random.default_rng(0)
    studies = {}
    for name, (instances, side) in STUDIES.items():
        study, series = generate_uid(), generate_uid()
        (folder / name).mkdir()
        studies[name] = [folder / name / f"{number:04}.dcm" for number in range(instances)]
        for path in studies[name]:
            write_slice(path, random.integers(0, 4096, (side, side), np.uint16), CTImageStorage, study, series)
    return studies


def measure(receiver: str, files: list[Path], associations: int, parent: Path) -> Measurement:
    """Send *files* over so many associations at once."""
    with receiving(receiver, parent) as (port, pid):
        # What an earlier receiver left in the page cache must not be written during this one's time.
        os.sync()
        before, started = cpu_seconds(pid), time.perf_counter()
        senders = [
            subprocess.Popen(["dcmsend", "127.0.0.1", str(port), *map(str, files[i::associations])], env=NODELAY)
            for i in range(associations)
        ]
        failed = sum(sender.wait() != 0 for sender in senders)
        seconds = time.perf_counter() - started
        cpu = cpu_seconds(pid) - before
    if failed:
        raise SystemExit(f"{failed} senders to {receiver} failed")
    return Measurement(len(files), seconds, sum(path.stat().st_size for path in files) / 1e6, cpu)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS_PER_SECOND


def flushes_per_second(parent: Path, size: int) -> float:
    """The disk's own rate for writing *size* bytes to a new file and syncing it and its directory."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    directory = os.open(folder, os.O_RDONLY)
    content, count, started = os.urandom(size), 50, time.perf_counter()
    for number in range(count):
        with (folder / str(number)).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.fsync(directory)
    rate = count / (time.perf_counter() - started)
    os.close(directory)
    shutil.rmtree(folder)
    return rate


def main() -> None:
    arguments = parse_arguments()
    console = Console()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        parent = Path(name)
        studies = make_studies(parent)
        measured: dict[tuple[str, str], list[Measurement]] = {}
        turns = [
            (cell, who) for _ in range(arguments.rounds) for cell in arguments.cells for who in arguments.receivers
        ]
        for cell, receiver in track(turns, "Sending", console=console):
            study, associations = cell.split("_")
            result = measure(receiver, studies[study], int(associations), parent)
            measured.setdefault((cell, receiver), []).append(result)
        console.print(transfers(measured))
        console.print(small_talk(arguments.receivers, parent))
        for size in (20_000, 525_000):
            console.print(f"the disk: {flushes_per_second(parent, size):.0f} files of {size} bytes a second, synced")
    sys.stdout.write(json.dumps(ratios(measured)) + "\n")


def taking_turns(rounds: int, cells: list[str], receivers: list[str]) -> list[tuple[str, str]]:
    """The transfers, each round begun by another receiver: what one leaves on the disk must not always hit the same."""
    first = [number % len(receivers) for number in range(rounds)]
    return [(cell, who) for at in first for cell in cells for who in receivers[at:] + receivers[:at]]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--receivers", nargs="+", choices=RECEIVERS, default=list(RECEIVERS))
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk to be measured")
    return parser.parse_args()


def transfers(measured: dict[tuple[str, str], list[Measurement]]) -> Table:
    table = Table("study x associations", "receiver", "instances/s", "[min - max]", "MB/s", "receiver CPU ms/instance")
    for (cell, receiver), results in sorted(measured.items()):
        rates = [result.instances / result.seconds for result in results]
        table.add_row(
            cell.replace("_", " x "),
            receiver,
            f"{statistics.median(rates):.0f}",
            f"{min(rates):.0f} - {max(rates):.0f}",
            f"{statistics.median(result.megabytes / result.seconds for result in results):.0f}",
            f"{statistics.median(1000 * result.cpu / result.instances for result in results):.2f}",
        )
    return table


def small_talk(receivers: list[str], parent: Path) -> Table:
    table = Table("receiver", "C-ECHO/s", "associations/s")
    for receiver in receivers:
        with receiving(receiver, parent) as (port, _):
            table.add_row(receiver, f"{echoes_per_second(port):.0f}", f"{associations_per_second(port):.0f}")
    return table


def echoes_per_second(port: int) -> float:
    """C-ECHOs in one association."""
    request = wire.pdu(wire.P_DATA_TF, wire.pdv(1, wire.COMMAND | wire.LAST, wire.c_echo_rq()))
    with wire.Client(port) as client:
        client.associate()
        rate = per_second(lambda: client.ask(request))
        client.release()
    return rate


def associations_per_second(port: int) -> float:
    """Connections that associate and release, one after the other."""

    def associate() -> None:
        with wire.Client(port) as client:
            client.associate().release()

    return per_second(associate)


def per_second(action: Callable[[], object]) -> float:
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < TALK_SECONDS:
        action()
        count += 1
    return count / (time.perf_counter() - started)


def ratios(measured: dict[tuple[str, str], list[Measurement]]) -> dict[str, float]:
    """Medians over the rounds of the ratio within a round, so that a busy minute hits both sides."""
    found = {}
    for cell, other in JUDGED:
        pairs = zip(measured.get((cell, "prelim"), []), measured.get((cell, other), []), strict=False)
        quotients = [theirs.seconds / ours.seconds for ours, theirs in pairs]
        if quotients:
            found[f"{cell}_vs_{other}"] = round(statistics.median(quotients), 2)
    return found


if __name__ == "__main__":
    main()
