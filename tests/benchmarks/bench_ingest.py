"""How fast the listener takes a study, beside DCMTK's storescp (never syncs) and Orthanc (syncs files).

    make bench-ingest                       all of it, 5 rounds
    python -m tests.benchmarks.bench_ingest --rounds 1 --cells ct_1

The same sender (dcmsend, TCP_NODELAY) sends the same study to each receiver in turn, in every round of one run; each
receiver is started afresh for each transfer, into an empty folder of the same disk. Needs the Debian packages dcmtk
and orthanc. Sender and receivers share the machine: compare ratios, not figures of other machines.

A sender waits for each answer and we answer after a flush. So one association can at best reach storescp's time for an
instance plus the disk's for one flush: the table says how much of that bound is reached.
"""

from __future__ import annotations

import argparse
import json
import os
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

from tests.benchmarks.receivers import NODELAY, RECEIVERS, cpu_seconds, receiving
from tests.benchmarks.synthetic import write_slice
from tests.fuzz import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Study name: instances and pixels of one side (16 bit).
STUDIES = {"ct": (200, 512), "small": (1000, 101)}
CELLS = ("ct_1", "ct_4", "ct_8", "small_1", "small_4", "small_8")
#: The figures by which the listener is judged, each prelim against that receiver.
JUDGED = tuple(f"{cell}_vs_{other}" for other in ("storescp", "orthanc") for cell in CELLS)
TALK_SECONDS = 2.0
#: Flushes measured in each round.
FLUSHES = 50


@dataclass(frozen=True)
class Measurement:
    """One transfer."""

    instances: int
    seconds: float
    megabytes: float
    #: The receiver's CPU time, in seconds.
    cpu: float

    @property
    def rate(self) -> float:
        """Instances a second."""
        return self.instances / self.seconds


Measured = dict[tuple[str, str], list[Measurement]]


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
    """Send *files* over several simultaneous associations."""
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


def flush_seconds(parent: Path, size: int) -> float:
    """Median time of the disk for one fdatasync of *size* bytes just written to a file that had none."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    content, seconds = os.urandom(size), []
    for number in range(FLUSHES):
        with (folder / str(number)).open("wb", buffering=0) as file:
            os.fsync(file.fileno())
            file.write(content)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    arguments = parse_arguments()
    console = Console(width=110)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        parent = Path(name)
        studies = make_studies(parent)
        measured: Measured = {}
        flushes: dict[str, list[float]] = {study: [] for study in studies}
        turns = taking_turns(arguments.rounds, arguments.cells, arguments.receivers)
        for cell, receiver in track(turns, "Sending", console=console):
            study, associations = cell.split("_")
            flushes[study].append(flush_seconds(parent, studies[study][0].stat().st_size))
            result = measure(receiver, studies[study], int(associations), parent)
            measured.setdefault((cell, receiver), []).append(result)
        flush = {study: statistics.median(seconds) for study, seconds in flushes.items() if seconds}
        console.print(transfers(measured, flush), disk(flushes), small_talk(arguments.receivers, parent))
    sys.stdout.write(json.dumps(ratios(measured)) + "\n")


def taking_turns(rounds: int, cells: Sequence[str], receivers: Sequence[str]) -> list[tuple[str, str]]:
    """The transfers, each round begun by another receiver: what one leaves on the disk must not always hit the same."""
    first = [number % len(receivers) for number in range(rounds)]
    return [(cell, who) for at in first for cell in cells for who in (*receivers[at:], *receivers[:at])]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--receivers", nargs="+", choices=RECEIVERS, default=list(RECEIVERS))
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk to be measured")
    return parser.parse_args()


def transfers(measured: Measured, flush: dict[str, float]) -> Table:
    table = Table(
        "study x associations", "receiver", "instances/s", "[min - max]", "MB/s", "CPU ms each", "of the bound"
    )
    for (cell, receiver), results in sorted(measured.items()):
        rates = [result.rate for result in results]
        of_bound = share_of_bound(measured, cell, flush) if receiver == "prelim" else None
        table.add_row(
            cell.replace("_", " x "),
            receiver,
            f"{statistics.median(rates):.0f}",
            f"{min(rates):.0f} - {max(rates):.0f}",
            f"{statistics.median(result.megabytes / result.seconds for result in results):.0f}",
            f"{statistics.median(1000 * result.cpu / result.instances for result in results):.2f}",
            "" if of_bound is None else f"{of_bound:.2f}",
        )
    return table


def share_of_bound(measured: Measured, cell: str, flush: dict[str, float]) -> float | None:
    """Our rate, in parts of what one association can reach that waits for a flush after each instance."""
    study, associations = cell.split("_")
    unsynced = measured.get((cell, "storescp"))
    if associations != "1" or not unsynced:
        return None
    bound = 1 / (1 / statistics.median(result.rate for result in unsynced) + flush[study])
    return statistics.median(result.rate for result in measured[cell, "prelim"]) / bound


def disk(flushes: dict[str, list[float]]) -> Table:
    table = Table("the disk's own", "flushes/s, one after the other", "[min - max]")
    for study, seconds in flushes.items():
        if seconds:
            rates = sorted(1 / each for each in seconds)
            table.add_row(study, f"{statistics.median(rates):.0f}", f"{rates[0]:.0f} - {rates[-1]:.0f}")
    return table


def small_talk(receivers: Sequence[str], parent: Path) -> Table:
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


def ratios(measured: Measured) -> dict[str, float]:
    """Medians over the rounds of the ratio within a round, so that a busy minute hits both sides."""
    found = {}
    for name in JUDGED:
        cell, _, other = name.partition("_vs_")
        pairs = zip(measured.get((cell, "prelim"), []), measured.get((cell, other), []), strict=False)
        quotients = [ours.rate / theirs.rate for ours, theirs in pairs]
        if quotients:
            found[name] = round(statistics.median(quotients), 2)
    return found


if __name__ == "__main__":
    main()
