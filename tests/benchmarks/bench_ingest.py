"""How fast the listener receives a study, beside other receivers.

    make bench-ingest                       5 rounds, 2 GB of disk each
    python -m tests.benchmarks.bench_ingest --rounds 1 --cells small_1 ct_8

The same senders (dcmsend, TCP_NODELAY) send the same study to each receiver in turn, in every round of one run; each
receiver is started afresh for each transfer, by its own command, into an empty folder of the same disk: `prelim listen`
with one process and with two, DCMTK's storescp and storescp --fork (which never flush), Orthanc (which flushes files),
pynetdicom's application. Needs the Debian packages dcmtk and orthanc. Senders and receivers share the machine: compare
ratios, not figures of other machines, and read the load first.

A sender waits for each response and we respond after a flush. So one association can at best reach storescp's time for
an instance plus the disk's for one flush: the table has the part of that bound which is reached.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.benchmarks import association_rates, transfers
from tests.benchmarks.figures import FIGURES
from tests.benchmarks.receivers import RECEIVERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.benchmarks.association_rates import AssociationRates
    from tests.benchmarks.transfers import Transfer

#: Study and simultaneous associations of the figures, and of the other cells.
CELLS = ("ct_1", "ct_4", "small_4")
OTHER_CELLS = ("ct_8", "small_1", "small_8")
#: The receiver whose figures are printed as JSON: the listener in as many processes as it has by default on two cores.
PRODUCT = "prelim_2"
#: A cell of the turns that is no transfer.
RATES = "rates"

Transfers = dict[tuple[str, str], list["Transfer"]]
Rates = dict[str, list["AssociationRates"]]


def main() -> None:
    arguments = parse_arguments()
    console = Console(width=130)
    measured: Transfers = {}
    rates: Rates = {}
    flushes: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        parent = Path(name)
        sizes = {"ct": arguments.ct, "small": arguments.small}
        names = sorted({cell.partition("_")[0] for cell in arguments.cells})
        studies = {study: transfers.make_study(parent, study, sizes[study]) for study in names}
        for cell, receiver in track(turns(arguments.rounds, arguments.cells, arguments.receivers), console=console):
            if cell == RATES:
                rates.setdefault(receiver, []).append(association_rates.measure(receiver, parent))
                continue
            study, associations = cell.split("_")
            flush = transfers.flush_seconds(parent, studies[study][0].stat().st_size)
            flushes.setdefault(study, []).append(flush)
            result = transfers.measure(receiver, studies[study], int(associations), parent)
            measured.setdefault((cell, receiver), []).append(result)
    console.print(transfer_table(measured, flushes), disk_table(flushes), rates_table(rates))
    sys.stdout.write(json.dumps(figures(measured, rates)) + "\n")


def turns(rounds: int, cells: Sequence[str], receivers: Sequence[str]) -> list[tuple[str, str]]:
    """Return cells and receivers of all rounds, each begun by another receiver: the disk must not always favour one."""
    first = [number % len(receivers) for number in range(rounds)]
    return [(cell, who) for at in first for cell in (*cells, RATES) for who in (*receivers[at:], *receivers[:at])]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cells", nargs="+", choices=(*CELLS, *OTHER_CELLS), default=CELLS)
    parser.add_argument("--receivers", nargs="+", choices=RECEIVERS, default=list(RECEIVERS))
    parser.add_argument("--ct", type=int, default=200, help="instances of the CT study, 525 kB each")
    parser.add_argument("--small", type=int, default=4000, help="instances of the study of small objects, 21 kB each")
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk to be measured")
    return parser.parse_args()


def transfer_table(measured: Transfers, flushes: dict[str, list[float]]) -> Table:
    cpu = ("CPU ms each: receiver", "sender")
    table = Table("study x associations", "receiver", "instances/s", "min - max", "MB/s", *cpu, "load", "of the bound")
    for (cell, receiver), results in sorted(measured.items()):
        table.add_row(
            cell.replace("_", " x "),
            receiver,
            *median_and_range(result.rate for result in results),
            f"{statistics.median(result.megabytes / result.seconds for result in results):.0f}",
            f"{statistics.median(result.receiver_cpu_ms for result in results):.2f}",
            f"{statistics.median(result.senders_cpu_ms for result in results):.2f}",
            f"{statistics.median(result.load for result in results):.1f}",
            share_of_bound(measured, cell, receiver, flushes),
        )
    return table


def median_and_range(values: Iterable[float]) -> tuple[str, str]:
    found = sorted(values)
    return f"{statistics.median(found):.0f}", f"{found[0]:.0f} - {found[-1]:.0f}"


def share_of_bound(measured: Transfers, cell: str, receiver: str, flushes: dict[str, list[float]]) -> str:
    """Our rate, in parts of what one association can reach that waits for a flush after each instance."""
    study, associations = cell.split("_")
    without_flush = measured.get((cell, "storescp"))
    if associations != "1" or not without_flush or not receiver.startswith("prelim"):
        return ""
    unflushed = statistics.median(result.rate for result in without_flush)
    bound = 1 / (1 / unflushed + statistics.median(flushes[study]))
    return f"{statistics.median(result.rate for result in measured[cell, receiver]) / bound:.2f}"


def disk_table(flushes: dict[str, list[float]]) -> Table:
    table = Table("the disk's own", "flushes/s, one after the other", "min - max")
    for study, seconds in flushes.items():
        table.add_row(study, *median_and_range(1 / each for each in seconds))
    return table


def rates_table(rates: Rates) -> Table:
    table = Table("receiver", "C-ECHO/s", "min - max", "associations/s", "min - max")
    for receiver, results in sorted(rates.items()):
        echoes = median_and_range(result.echoes for result in results)
        table.add_row(receiver, *echoes, *median_and_range(result.associations for result in results))
    return table


def figures(measured: Transfers, rates: Rates) -> dict[str, float]:
    """Return the figures of the cells and receivers that were measured: medians over the rounds.

    A ratio is taken within each round, so that other load hits both sides.
    """
    found = {name: ratio(name, measured) for name in FIGURES["ingest"] if "_vs_" in name}
    small = measured.get(("small_4", PRODUCT), [])
    found["cpu_ms_small_4"] = [result.receiver_cpu_ms for result in small]
    found["c_echo_per_s"] = [result.echoes for result in rates.get(PRODUCT, [])]
    found["associations_per_s"] = [result.associations for result in rates.get(PRODUCT, [])]
    return {name: round(statistics.median(values), 2) for name, values in found.items() if values}


def ratio(name: str, measured: Transfers) -> list[float]:
    """Return the ratios of a figure such as "ct_1_vs_storescp", by round."""
    cell, _, other = name.partition("_vs_")
    pairs = zip(measured.get((cell, PRODUCT), []), measured.get((cell, other), []), strict=False)
    return [ours.rate / theirs.rate for ours, theirs in pairs]


if __name__ == "__main__":
    main()
