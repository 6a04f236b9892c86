"""`prelim plan`: the simulation agrees with formulas, and the plan with the simulation."""

from __future__ import annotations

import io
import json
import math
import random

import pytest
from rich.console import Console

from deploy.operate.plan import needs, plan
from deploy.operate.plan.load import Load, Measured, durations
from deploy.operate.plan.measured import MIN_JOBS, Ended, seconds_alone, speed_of
from deploy.operate.plan.simulation import Arrival, Workers, arrivals_of_a_day, quantile, waits

DAY = Load(10_000, durations(reports_per_minute=5, slots=4), slots=4)


def erlang_c(servers: int, offered: float) -> float:
    """Return the probability of a wait in M/M/c (Erlang C)."""
    below = sum(offered**number / math.factorial(number) for number in range(servers))
    all_busy = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return all_busy / (below + all_busy)


def test_waits_agree_with_the_formulas_of_two_priorities() -> None:
    # Kella and Yechiali (1985), M/M/c without interruption: mean waits of each class.
    servers, rate, urgent = 4, 2.8, 0.2
    chance, at, jobs = random.Random(1), 0.0, []
    for _ in range(20_000):
        at += chance.expovariate(rate)
        jobs.append(Arrival(at, int(chance.random() < urgent), chance.expovariate(1)))
    base = erlang_c(servers, rate) / servers
    load, load_urgent = rate / servers, urgent * rate / servers
    expected = {1: base / (1 - load_urgent), 0: base / ((1 - load_urgent) * (1 - load))}
    found = list(waits(jobs, Workers(1, servers)))

    for priority, mean in expected.items():
        seconds = [wait.seconds for wait in found if wait.priority == priority]
        assert sum(seconds) / len(seconds) == pytest.approx(mean, rel=0.1)


def test_urgent_job_is_next_and_interrupts_nothing() -> None:
    jobs = [Arrival(0, 0, 10), Arrival(1, 0, 10), Arrival(2, 1, 10)]

    assert [(wait.at, wait.seconds) for wait in waits(jobs, Workers(1, 1))] == [(0, 0), (2, 8), (1, 19)]


def test_fourth_claim_is_a_routine_one_while_such_wait() -> None:
    jobs = [Arrival(0, 0, 1), *(Arrival(0.1, 2, 1) for _ in range(5)), *(Arrival(0.2, 0, 1) for _ in range(2))]

    assert [wait.priority for wait in waits(jobs, Workers(1, 1))] == [0, 2, 2, 2, 0, 2, 2, 0]


@pytest.mark.parametrize(("sharing", "second_waits"), [(0.0, 4), (0.5, 5.5), (1.0, 7)])
def test_jobs_of_one_worker_make_each_other_longer(sharing: float, second_waits: float) -> None:
    # Two at a time: the first ends after 1 s alone and, in the rest of its 4 s, beside the second.
    jobs = [Arrival(0, 0, 4), Arrival(1, 0, 9), Arrival(1, 0, 1)]
    found = list(waits(jobs, Workers(1, 2, sharing)))

    assert found[2].seconds + 1 == pytest.approx(second_waits)


def test_delays_of_claims_count() -> None:
    jobs = [Arrival(0, 0, 4), Arrival(1, 0, 4)]

    assert [wait.seconds for wait in waits(jobs, Workers(1, 1, 0, [0.5], [0.25]))] == [0.25, 3.75]


def test_jobs_queued_before_the_workers_begin_wait_for_them() -> None:
    assert [wait.seconds for wait in waits([Arrival(0, 0, 1)], Workers(1, 1, begin=7))] == [7]


def ended(sharing: float, load: float, seed: int = 3) -> tuple[list[Ended], list[Arrival]]:
    """Return jobs that a worker with three slots has ended, a tenth of a second apart, and their times alone."""
    chance, at, jobs = random.Random(seed), 0.0, []
    for _ in range(1000):
        at += chance.expovariate(load)
        jobs.append(Arrival(at, 0, chance.uniform(0.5, 1.5)))
    claims = sorted(wait.at + wait.seconds for wait in waits(jobs, Workers(1, 3, sharing, [0.1], [0.05])))
    running: list[list[float]] = []
    found, now = [], 0.0
    for number, (claimed, job) in enumerate(zip(claims, jobs, strict=True)):
        found += _ends(running, now, claimed, sharing)
        running.append([job.seconds, number, claimed])
        now = claimed
    found += _ends(running, now, math.inf, sharing)
    ends = dict(found)
    return [Ended("a", job.at, 0, claims[n], ends[n], is_report=True) for n, job in enumerate(jobs)], jobs


def _ends(running: list[list[float]], now: float, until: float, sharing: float) -> list[tuple[float, float]]:
    found = []
    while running:
        slower = 1 + sharing * (len(running) - 1)
        first = min(running)
        if now + first[0] * slower > until:
            for job in running:
                job[0] -= (until - now) / slower
            break
        now, done = now + first[0] * slower, first[0]
        for job in running:
            job[0] -= done
        running.remove(first)
        found.append((first[1], now))
    return found


@pytest.mark.parametrize(("sharing", "load"), [(0.0, 2.0), (0.3, 1.2), (1.0, 0.7)])
def test_speed_of_workers_is_read_from_the_times_of_their_jobs(sharing: float, load: float) -> None:
    jobs, given = ended(sharing, load)
    speed = speed_of(jobs, 3, 0.0)

    assert speed.is_known
    assert speed.sharing == pytest.approx(sharing, abs=0.1)
    assert seconds_alone(jobs, sharing) == pytest.approx([job.seconds for job in given], rel=1e-6)


@pytest.mark.parametrize(("slots", "sharing"), [(1, 0.0), (2, 1.0)])
def test_unknown_sharing_is_assumed_and_said(slots: int, sharing: float) -> None:
    jobs = [Ended("a", n, 0, n, n + 0.5, is_report=True) for n in range(MIN_JOBS)]
    speed = speed_of(jobs, slots, 0.0)

    assert (speed.is_known, speed.sharing) == (False, sharing)


def test_day_has_the_studies_and_the_hours_that_are_given() -> None:
    jobs = arrivals_of_a_day(24_000, [0.0] * 8 + [0.75] + [0.25] + [0.0] * 14, 0.1, [1.0], seed=1)

    assert len(jobs) == pytest.approx(24_000, rel=0.03)
    assert {int(job.at // 3600) for job in jobs} == {8, 9}
    assert sum(job.priority for job in jobs) / len(jobs) == pytest.approx(0.1, rel=0.1)
    assert jobs == sorted(jobs, key=lambda job: job.at)


def test_workers_are_the_smallest_number_that_meets_the_aims() -> None:
    number = needs.workers_needed(DAY)

    def late(workers: int) -> bool:
        found = needs.simulated(DAY, workers)
        urgent = quantile([wait.seconds for wait in found if wait.priority], 0.99)
        routine = quantile([wait.seconds for wait in found if not wait.priority], 0.99)
        return urgent >= needs.URGENT_SECONDS or routine >= needs.ROUTINE_SECONDS

    assert number > 1
    assert not late(number)
    assert late(number - 1)


MACHINES = [((2, 1e15, 1e12), True), ((1, 1e15, 1e12), False), ((2, 1e9, 1e12), False)]


@pytest.mark.parametrize(("machine", "suffices"), MACHINES)
def test_machine_that_does_not_suffice_is_named(machine: tuple[int, float, float], *, suffices: bool) -> None:
    printed = io.StringIO()
    load = Load(500, durations(reports_per_minute=20, slots=4), slots=4)

    assert (
        plan.show(Console(file=printed, width=200), load, needs.Machine(*machine), 30, None, as_json=True) is suffices
    )
    document = json.loads(printed.getvalue())
    assert all(need["suffices"] for need in document["needs"]) is suffices
    assert document["breaks_first_at_twice_the_load"] is None or not suffices


def test_replay_of_a_run_gives_its_waits() -> None:
    jobs = arrivals_of_a_day(3000, [0.0] * 8 + [1.0] + [0.0] * 15, 0.0, [2.0, 4.0], seed=2)
    workers = Workers(1, 3)
    measured = Measured(jobs, [wait.seconds for wait in waits(jobs, workers)], workers)
    real, again = plan.error_of_replay(measured)

    assert again == real > 0


def test_text_has_hours_and_priorities() -> None:
    printed = io.StringIO()
    load = Load(500, durations(reports_per_minute=20, slots=4), slots=4)
    plan.show(Console(file=printed, width=200), load, needs.Machine(), 30, None, as_json=False)

    assert "wait of urgent jobs with 2 workers: p50 0.0 s" in printed.getvalue()
    assert "nothing that is given is short" in printed.getvalue()
