"""Print the machines that a load needs, the waits of a day and what breaks first (`prelim plan`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.table import Table

from deploy.operate.plan.measured import NO_DELAYS
from deploy.operate.plan.needs import Machine, Need, needs, simulated
from deploy.operate.plan.simulation import Wait, quantile, quantiles_by_hour, waits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from deploy.operate.plan.load import Load, Measured

#: Replays whose waits count together: the delays of claims are drawn by chance.
REPLAYS = 5


def error_of_replay(measured: Measured) -> tuple[float, float]:
    """Return the 95 % quantile of the measured waits, and that of the same jobs simulated on the same workers."""
    simulated_waits = [wait.seconds for seed in range(REPLAYS) for wait in waits(measured.jobs, measured.workers, seed)]
    return quantile(measured.waits, 0.95), quantile(simulated_waits, 0.95)


def show(
    console: Console, load: Load, machine: Machine, retention_days: float, measured: Measured | None, *, as_json: bool
) -> bool:
    """Print the plan; return whether the machine suffices."""
    today, doubled = needs(load, machine, retention_days), needs(load.times(2), machine, retention_days)
    workers = machine.workers or int(today[0].needed)
    found = simulated(load, workers)
    first = max(doubled, key=lambda need: need.use)
    replay = None if measured is None else error_of_replay(measured)
    if as_json:
        fields = _fields(today, found, workers, first, replay) | {"speed": _speed(load)}
        console.print_json(json.dumps(fields))
    else:
        console.print(
            _needs(today),
            _by_hour(found),
            *_lines(found, workers, first, replay),
            *_said(load),
            sep="\n",
            highlight=False,
        )
    return all(need.use <= 1 for need in today)


def _fields(
    today: list[Need], found: list[Wait], workers: int, first: Need, replay: tuple[float, float] | None
) -> dict[str, Any]:
    return {
        "needs": [need._asdict() | {"suffices": need.use <= 1} for need in today],
        "workers_simulated": workers,
        "wait_seconds": {name: _quantiles(found, level) for name, level in (("urgent", 1), ("routine", 0))},
        "wait_p95_by_hour": dict(quantiles_by_hour(found, 0.95)),
        "breaks_first_at_twice_the_load": first.name if first.use > 1 else None,
        "replay": None if replay is None else {"measured_p95_seconds": replay[0], "simulated_p95_seconds": replay[1]},
    }


def _speed(load: Load) -> dict[str, Any]:
    delays = {"after_another": load.speed.after_another, "when_idle": load.speed.when_idle}
    return {
        "seconds": round(sum(load.seconds) / len(load.seconds), 3),
        "sharing": load.speed.sharing,
        "is_sharing_known": load.speed.is_known,
        "claim_p95_seconds": {name: round(quantile(seconds, 0.95), 3) for name, seconds in delays.items()},
    }


def _said(load: Load) -> Iterator[str]:
    """Yield what was read of the speed of workers, of those that were measured."""
    speed = _speed(load)
    if load.speed is NO_DELAYS:
        return
    known = "measured" if load.speed.is_known else "assumed: reports ran beside too few others"
    yield (
        f"a report takes {speed['seconds']:.1f} s alone on its worker, and {speed['sharing']:.0%} of that more for each"
        f" other one beside it ({known})"
    )


def _quantiles(found: list[Wait], priority: int) -> dict[str, float]:
    seconds = [wait.seconds for wait in found if wait.priority == priority]
    return {f"p{share * 100:g}": round(quantile(seconds, share), 1) for share in (0.5, 0.95, 0.99)}


def _needs(today: list[Need]) -> Table:
    table = Table("resource", "needed", "available", "")
    for need in today:
        there = "" if need.available is None else f"{need.available:.4g} {need.unit}"
        table.add_row(need.name, f"{need.needed:.4g} {need.unit}", there, "" if need.use <= 1 else "too little")
    return table


def _by_hour(found: list[Wait]) -> Table:
    table = Table("hour", "95 % wait for a worker up to")
    for hour, seconds in quantiles_by_hour(found, 0.95):
        table.add_row(f"{hour:02d}", f"{seconds:.1f} s")
    return table


def _lines(found: list[Wait], workers: int, first: Need, replay: tuple[float, float] | None) -> Iterator[str]:
    for name, level in (("urgent", 1), ("routine", 0)):
        shown = ", ".join(f"{share} {seconds} s" for share, seconds in _quantiles(found, level).items())
        yield f"wait of {name} jobs with {workers} workers: {shown}"
    broken = f"{first.name} is short" if first.use > 1 else "nothing that is given is short"
    yield f"at twice the load: {broken}"
    if replay is not None:
        yield f"replay of the latest reports: 95 % waited up to {replay[0]:.1f} s, simulated {replay[1]:.1f} s"
