"""Run the chaos test with one seed or several in a row (`python -m tests.chaos --seed N`) and print the outcome."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.run import Outcome, run

console = Console(width=160)
COLUMNS = (
    *("seed", "passed", "studies", "acknowledged", "unanswered", "refused", "faults"),
    *("rescued", "dropped", "requeued", "collateral", "recovery", "total", "memory"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many in a row")
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument(
        "--minutes", type=float, default=3, help="time in which studies are sent and faults are injected"
    )
    parser.add_argument(
        "--failover", action="store_true", help="PostgreSQL with a standby and Redis with Sentinels, which fail over"
    )
    parser.add_argument("--keep", type=Path, help="keep data and logs of the runs in this folder")
    wanted = parser.parse_args()
    outcomes = []
    for seed in range(wanted.seed, wanted.seed + wanted.seeds):
        outcomes.append(_play(seed, wanted))
        if outcomes[-1].violations:
            break
    console.print(_faults(outcomes))
    return 1 if any(outcome.violations for outcome in outcomes) else 0


def _play(seed: int, wanted: argparse.Namespace) -> Outcome:
    if wanted.keep:
        outcome = _run(seed, wanted, wanted.keep / f"seed-{seed}")
    else:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            outcome = _run(seed, wanted, Path(folder) / "system")
    console.print(_runs([outcome]))
    if wanted.failover:
        kind = "synchronous" if outcome.synchronous else "asynchronous"
        console.print(f"{kind} standby, {outcome.rewritten} confirmed reports written again", highlight=False)
    for name, seconds in sorted(outcome.recoveries.items()):
        times = ", ".join(f"{each:.1f}" for each in seconds)
        console.print(f"work went on after {name.replace('_', ' ')}: {times} s", highlight=False)
    for violation in outcome.violations:
        console.print(f"VIOLATION: {violation}", highlight=False)
    if outcome.violations:
        flag = "--failover " if wanted.failover else ""
        again = f"{flag}--seed {seed} --studies {wanted.studies} --minutes {wanted.minutes:g}"
        console.print(f"repeat with: python -m tests.chaos {again}", highlight=False)
    return outcome


def _run(seed: int, wanted: argparse.Namespace, folder: Path) -> Outcome:
    return run(seed, wanted.studies, wanted.minutes * 60, folder, failover=wanted.failover)


def _runs(outcomes: list[Outcome]) -> Table:
    table = Table(*COLUMNS)
    for o in outcomes:
        table.add_row(
            str(o.seed),
            "no" if o.violations else "yes",
            *map(str, (o.studies, o.acknowledged, o.unanswered, o.refused, o.faults.total())),
            *map(str, (o.rescues, o.dropped_results, o.requeued, o.collateral_failures)),
            f"{o.recovery_seconds:.1f} s",
            f"{o.seconds:.0f} s",
            f"{o.largest_bytes / 2**20:.0f} MiB",
        )
    return table


def _faults(outcomes: list[Outcome]) -> Table:
    table = Table("fault", "passed")
    total = sum((outcome.faults for outcome in outcomes if not outcome.violations), Counter())
    for name, count in sorted(total.items()):
        table.add_row(name.replace("_", " "), str(count))
    return table


if __name__ == "__main__":
    sys.exit(main())
