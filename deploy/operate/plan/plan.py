"""Print the machines that a load needs, the waits of a day and what breaks first (`prelim plan`)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.table import Table

from db.studies.priority import ROUTINE
from deploy.operate.plan.aims import simulated
from deploy.operate.plan.measured import NO_DELAYS
from deploy.operate.plan.needs import Machine, Need, breaks_first, needs
from deploy.operate.plan.replayed import compare
from deploy.operate.plan.simulation import Wait, quantile, quantiles_by_hour

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import Console

    from deploy.operate.plan.load import Load, Measured
    from deploy.operate.plan.replayed import Compared

SHARES = (0.5, 0.95, 0.99)
#: Days with studies, all of a week, of which the busiest is representative.
MIN_DAYS = 7


class _Plan(NamedTuple):
    """All that is printed."""

    load: Load
    needs: list[Need]
    workers: int
    #: None if the workers are too few to be simulated.
    waits: list[Wait] | None
    #: The same, or the only worker is lost.
    waits_one_lost: list[Wait] | None
    breaks_first: Need | None
    replay: Mapping[str, Compared]
    #: Jobs whose times are not in order.
    left_out: int


def show(
    console: Console, load: Load, machine: Machine, retention_days: float, measured: Measured | None, *, as_json: bool
) -> bool:
    """Print the plan; return whether the machine suffices."""
    today = needs(load, machine, retention_days)
    workers = machine.workers or int(today[0].needed)
    plan = _Plan(
        load,
        today,
        workers,
        simulated(load, workers),
        simulated(load, workers - 1) if workers > 1 else None,
        breaks_first(load.with_studies(2 * load.studies), machine, retention_days),
        {} if measured is None else compare(measured),
        load.left_out,
    )
    if as_json:
        console.print_json(json.dumps(_fields(plan)))
    else:
        console.print(_needs(plan), _waits(plan), _by_hour(plan), *_lines(plan), sep="\n", highlight=False)
    return all(need.use <= 1 for need in today)


def _fields(plan: _Plan) -> dict[str, Any]:
    return {
        "needs": [need._asdict() | {"suffices": need.use <= 1} for need in plan.needs],
        "studies_a_day": plan.load.studies,
        "reports_per_study": plan.load.reports_per_study,
        "days_measured": plan.load.days,
        "workers_simulated": None if plan.waits is None else plan.workers,
        "wait_seconds": None if plan.waits is None else _by_class(plan.waits),
        "wait_seconds_one_lost": None if plan.waits_one_lost is None else _by_class(plan.waits_one_lost),
        "wait_p95_by_hour": dict(quantiles_by_hour(plan.waits or [], 0.95)),
        "breaks_first_at_twice_the_load": plan.breaks_first and plan.breaks_first.name,
        "replay_p95": {name: one._asdict() | {"is_certain": one.is_certain} for name, one in plan.replay.items()},
        "jobs_left_out": plan.left_out,
        "speed": _speed(plan.load),
    }


def _speed(load: Load) -> dict[str, Any]:
    delays = {"after_another": load.speed.after_another, "when_idle": load.speed.when_idle}
    return {
        "seconds": round(load.seconds, 3),
        "sharing": load.speed.sharing,
        "is_sharing_known": load.speed.is_known,
        "claim_p95_seconds": {name: round(quantile(seconds, 0.95), 3) for name, seconds in delays.items()},
    }


def _by_class(found: list[Wait]) -> dict[str, dict[str, float]]:
    """Return quantiles of the waits of urgent and of other jobs."""
    urgent = [wait.seconds for wait in found if wait.priority > ROUTINE]
    routine = [wait.seconds for wait in found if wait.priority <= ROUTINE]
    return {"urgent": _quantiles(urgent), "routine": _quantiles(routine)}


def _quantiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{share * 100:g}": round(quantile(seconds, share), 1) for share in SHARES}


def _needs(plan: _Plan) -> Table:
    table = Table("resource", "needed", "available", "")
    for need in plan.needs:
        there = "" if need.available is None else f"{need.available:.4g} {need.unit}"
        table.add_row(need.name, f"{need.needed:.4g} {need.unit}", there, "" if need.use <= 1 else "too little")
    return table


def _waits(plan: _Plan) -> Table:
    table = Table("wait for a worker", *(f"{share:.0%} up to" for share in SHARES))
    days = [(f"with {plan.workers} workers", plan.waits), (f"with {plan.workers - 1}", plan.waits_one_lost)]
    for name, waits in days:
        for each, seconds in ({} if waits is None else _by_class(waits)).items():
            table.add_row(f"{each}, {name}", *(f"{value:.1f} s" for value in seconds.values()))
    return table


def _by_hour(plan: _Plan) -> Table:
    table = Table("hour", f"95 % wait up to, with {plan.workers} workers", f"with {plan.workers - 1}")
    one_lost = dict(quantiles_by_hour(plan.waits_one_lost or [], 0.95))
    for hour, seconds in quantiles_by_hour(plan.waits or [], 0.95):
        table.add_row(f"{hour:02d}", f"{seconds:.1f} s", f"{one_lost[hour]:.1f} s" if hour in one_lost else "")
    return table


def _lines(plan: _Plan) -> Iterator[str]:
    yield _day(plan.load)
    if plan.load.days is not None and plan.load.days < MIN_DAYS:
        yield (
            f"only {plan.load.days} of {MIN_DAYS} days were measured, today and the first one in part: expect busier"
            " ones, and plan with --studies"
        )
    if plan.waits is None:
        yield f"the waits with {plan.workers} workers are not simulated: the queue would only grow"
    broken = f"{plan.breaks_first.name} is short" if plan.breaks_first else "nothing that is given is short"
    yield f"at twice the load: {broken}"
    for name, one in plan.replay.items():
        few = "" if one.is_certain else "; too few to judge by"
        yield (
            f"replay of the latest jobs, {name}: 95 % of {one.jobs} waited up to {one.measured:.1f} s, simulated"
            f" {one.simulated:.1f} s ({one.lowest:.1f} to {one.highest:.1f}{few})"
        )
    if plan.left_out:
        yield f"{plan.left_out} jobs left out: their times are not in order (the clock of the database was set back)"
    if plan.load.speed is not NO_DELAYS:
        yield _said(plan.load)


def _day(load: Load) -> str:
    """Return the day that is planned for."""
    busiest = "" if load.days is None else f", those of the busiest of {load.days} days unless --studies is given"
    return (
        f"a day of {load.studies:.0f} studies{busiest}; {max(load.hours):.1%} of them in the busiest hour;"
        f" {load.reports_per_study:.2f} reports a study"
    )


def _said(load: Load) -> str:
    """Return what was read of the speed of workers."""
    known = "measured" if load.speed.is_known else "assumed: reports ran beside too few others"
    return (
        f"a report takes {load.seconds:.1f} s alone on its worker, and {load.speed.sharing:.0%} of that more for each"
        f" other one beside it ({known})"
    )
