"""`prelim plan`: the simulation agrees with formulas, and the plan with the simulation."""

from __future__ import annotations

import io
import json
import math
import random

import pytest
from rich.console import Console

from deploy.operate.plan import plan
from deploy.operate.plan.load import Load, Measured, durations
from deploy.operate.plan.simulation import Arrival, arrivals_of_a_day, quantile, waits

DAY = Load(40_000, durations(reports_per_minute=20, slots=4), slots=4)


def erlang_c(servers: int, offered: float) -> float:
    """Return the probability of a wait in M/M/c (Erlang C)."""
    below = sum(offered**number / math.factorial(number) for number in range(servers))
    all_busy = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return all_busy / (below + all_busy)


def test_waits_agree_with_the_formulas_of_two_priorities() -> None:
    # Kella and Yechiali (1985), M/M/c without interruption: mean waits of each class.
    servers, rate, urgent = 4, 2.8, 0.2
    chance, at, jobs = random.Random(1), 0.0, []
    for _ in range(40_000):
        at += chance.expovariate(rate)
        jobs.append(Arrival(at, int(chance.random() < urgent), chance.expovariate(1)))
    base = erlang_c(servers, rate) / servers
    load, load_urgent = rate / servers, urgent * rate / servers
    expected = {1: base / (1 - load_urgent), 0: base / ((1 - load_urgent) * (1 - load))}
    found = list(waits(jobs, servers))

    for priority, mean in expected.items():
        seconds = [wait.seconds for wait in found if wait.priority == priority]
        assert sum(seconds) / len(seconds) == pytest.approx(mean, rel=0.1)


def test_urgent_job_is_next_and_interrupts_nothing() -> None:
    jobs = [Arrival(0, 0, 10), Arrival(1, 0, 10), Arrival(2, 1, 10)]

    assert [(wait.at, wait.seconds) for wait in waits(jobs, 1)] == [(0, 0), (2, 8), (1, 19)]


def test_day_has_the_studies_and_the_hours_that_are_given() -> None:
    jobs = arrivals_of_a_day(24_000, [0.0] * 8 + [0.75] + [0.25] + [0.0] * 14, 0.1, [1.0], seed=1)

    assert len(jobs) == pytest.approx(24_000, rel=0.03)
    assert {int(job.at // 3600) for job in jobs} == {8, 9}
    assert sum(job.priority for job in jobs) / len(jobs) == pytest.approx(0.1, rel=0.1)
    assert jobs == sorted(jobs, key=lambda job: job.at)


def test_workers_are_the_smallest_number_that_meets_the_aims() -> None:
    number = plan.workers_needed(DAY)

    def late(workers: int) -> bool:
        found = plan.simulated(DAY, workers)
        urgent = quantile([wait.seconds for wait in found if wait.priority], 0.99)
        routine = quantile([wait.seconds for wait in found if not wait.priority], 0.99)
        return urgent >= plan.URGENT_SECONDS or routine >= plan.ROUTINE_SECONDS

    assert number > 1
    assert not late(number)
    assert late(number - 1)


MACHINES = [((2, 1e15, 1e12), True), ((1, 1e15, 1e12), False), ((2, 1e9, 1e12), False)]


@pytest.mark.parametrize(("machine", "suffices"), MACHINES)
def test_machine_that_does_not_suffice_is_named(machine: tuple[int, float, float], *, suffices: bool) -> None:
    printed = io.StringIO()
    load = Load(500, durations(reports_per_minute=20, slots=4), slots=4)

    assert plan.show(Console(file=printed, width=200), load, plan.Machine(*machine), 30, None, as_json=True) is suffices
    document = json.loads(printed.getvalue())
    assert all(need["suffices"] for need in document["needs"]) is suffices
    assert document["breaks_first_at_twice_the_load"] is None or not suffices


def test_replay_of_a_run_gives_its_waits() -> None:
    jobs = arrivals_of_a_day(3000, [0.0] * 8 + [1.0] + [0.0] * 15, 0.0, [2.0, 4.0], seed=2)
    measured = Measured(jobs, [wait.seconds for wait in waits(jobs, 3)], 3)
    real, again = plan.error_of_replay(measured)

    assert again == real > 0


def test_text_has_hours_and_priorities() -> None:
    printed = io.StringIO()
    load = Load(500, durations(reports_per_minute=20, slots=4), slots=4)
    plan.show(Console(file=printed, width=200), load, plan.Machine(), 30, None, as_json=False)

    assert "wait of urgent jobs with 2 workers: p50 0.0 s" in printed.getvalue()
    assert "nothing that is given is short" in printed.getvalue()
