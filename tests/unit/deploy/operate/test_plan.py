"""`prelim plan`: the simulation agrees with formulas, and the plan with the simulation."""

from __future__ import annotations

import io
import json
import math
import random
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from db.settings import Settings
from deploy.cli import app
from deploy.operate.plan import aims, needs, plan, replayed
from deploy.operate.plan.load import Load, Measured, assumed
from deploy.operate.plan.measured import MIN_JOBS, Ended, seconds_alone, speed_of
from deploy.operate.plan.simulation import Arrival, Workers, arrivals_of_a_day, quantile, waits

DAY = assumed(5, 4).with_studies(10_000)


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


def busy(owner: str, begin: float, slots: int, extra: bool = False) -> list[Ended]:
    """Return jobs that waited before *begin* and that each slot claimed 0.1 s after its last one ended."""
    found = [
        Ended(owner, 0, 0, begin + slot + 10.1 * turn, begin + slot + 10.1 * turn + 10, is_report=True)
        for slot in range(slots)
        for turn in range(10)
    ]
    return [*found, Ended(owner, 0, 0, begin + 9, begin + 12, is_report=True)] if extra else found


@pytest.mark.parametrize("extra", [False, True])
def test_delays_are_those_of_the_slots_beside_a_job_beyond_them_too(*, extra: bool) -> None:
    speed = speed_of(busy("a", 100, 3, extra=extra), 3, 100)

    assert quantile(speed.after_another, 0.8) == pytest.approx(0.1)


def test_slots_of_earlier_workers_are_none_of_todays() -> None:
    jobs = busy("earlier", 100, 3) + busy("later", 1000, 3)

    assert speed_of(jobs, 3, 1000).after_another == speed_of(busy("later", 1000, 3), 3, 1000).after_another


def test_slot_that_becomes_free_leaves_a_job_to_the_slot_that_was_woken_for_it() -> None:
    # The idle slot claims the second job after 3 s; the other slot, free after 2 s, idles.
    jobs = [Arrival(0, 0, 2), Arrival(0.5, 0, 9)]

    assert [wait.seconds for wait in waits(jobs, Workers(1, 2, 0, [0.25], [3.0]))] == [3.0, 3.0]


def test_idle_workers_are_woken_in_turns() -> None:
    # Six jobs on two workers that jobs share: three each, so that all of a worker end together.
    jobs = [Arrival(n / 100, 0, 1) for n in range(6)] + [Arrival(1, 0, 1)] * 3
    found = list(waits(jobs, Workers(2, 4, 1.0)))

    assert [wait.seconds for wait in found[:8]] == [0] * 8
    assert found[8].seconds > 2


def test_day_has_the_studies_and_the_hours_that_are_given() -> None:
    jobs = arrivals_of_a_day(24_000, [0.0] * 8 + [0.75] + [0.25] + [0.0] * 14, [(0, 1.0)] * 9 + [(1, 2.0)], seed=1)

    assert len(jobs) == pytest.approx(24_000, rel=0.03)
    assert {int(job.at // 3600) for job in jobs} == {8, 9}
    assert sum(job.priority for job in jobs) / len(jobs) == pytest.approx(0.1, rel=0.1)
    assert all(job.seconds == 1 + job.priority for job in jobs)
    assert jobs == sorted(jobs, key=lambda job: job.at)


def test_workers_are_the_smallest_number_that_meets_the_aims() -> None:
    number = aims.workers_needed(DAY)

    def late(workers: int) -> bool:
        found = aims.simulated(DAY, workers)
        urgent = quantile([wait.seconds for wait in found if wait.priority], 0.99)
        routine = quantile([wait.seconds for wait in found if not wait.priority], 0.99)
        return urgent >= aims.URGENT_SECONDS or routine >= aims.ROUTINE_SECONDS

    assert number > 1
    assert not late(number)
    assert late(number - 1)


@pytest.mark.parametrize("guess", [1, 5, 300])
def test_search_ends_if_no_number_of_workers_suffices(guess: int) -> None:
    assert aims.smallest(lambda _: False, guess, 100) is None


@pytest.mark.parametrize("threshold", [1, 2, 7, 30])
@pytest.mark.parametrize("guess", [1, 5, 30, 64])
def test_smallest_number_is_found_from_any_guess(threshold: int, guess: int) -> None:
    tried: list[int] = []

    def suffices(number: int) -> bool:
        tried.append(number)
        return number >= threshold

    assert aims.smallest(suffices, guess, 100) == threshold
    assert min(tried) >= 1
    assert len(tried) == len(set(tried))


def test_large_day_is_planned_in_equal_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    part = aims.workers_needed(DAY)
    monkeypatch.setattr(aims, "MAX_JOBS_OF_PART", DAY.studies)

    assert aims.workers_needed(DAY.with_studies(3 * DAY.studies)) == 3 * part
    assert aims.simulated(DAY.with_studies(3 * DAY.studies), 3 * part) == aims.simulated(DAY, part)


def test_workers_that_are_fewer_than_the_parts_have_no_waits_of_more_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aims, "MAX_JOBS_OF_PART", DAY.studies)
    printed = io.StringIO()
    large, machine = DAY.with_studies(3 * DAY.studies), needs.Machine(workers=2)

    assert aims.simulated(large, 2) is None
    assert not plan.show(Console(file=printed, width=200), large, machine, 30, None, as_json=True)
    document = json.loads(printed.getvalue())
    assert document["wait_seconds"] is document["workers_simulated"] is document["wait_seconds_one_lost"] is None
    assert not plan.show(Console(file=printed, width=200), large, machine, 30, None, as_json=False)
    assert "with 2 workers are not simulated" in printed.getvalue()
    assert "urgent, with" not in printed.getvalue()


def test_reports_after_late_images_need_workers_and_no_disk() -> None:
    late = replace(DAY, reports_per_study=2.0)

    assert aims.workers_needed(late) == aims.workers_needed(DAY.with_studies(2 * DAY.studies))
    assert needed(late)["network in the busiest hour"] == needed(DAY)["network in the busiest hour"]


def test_disk_suffices_only_until_routine_objects_are_refused() -> None:
    refused_from = Settings().dicom.urgent_only_disk_percent / 100
    disk = next(need for need in needs.needs(DAY, needs.Machine(), 30) if need.unit == "TB")

    assert disk.needed * 1e12 * refused_from == pytest.approx(DAY.studies * DAY.bytes * 30)


@pytest.mark.parametrize(("days", "is_said"), [(1, True), (6, True), (7, False), (None, False)])
def test_plan_from_few_days_says_so_and_for_what_day_it_is(days: int | None, *, is_said: bool) -> None:
    printed = io.StringIO()
    day = replace(assumed(20, 4), studies=500, days=days)
    plan.show(Console(file=printed, width=250), day, needs.Machine(), 30, None, as_json=False)

    assert "a day of 500 studies" in printed.getvalue()
    assert "9.3% of them in the busiest hour" in printed.getvalue()
    assert ("expect busier ones" in printed.getvalue()) is is_said


def test_urgent_reports_of_another_length_are_drawn_together() -> None:
    # As many seconds of work, in urgent reports only or in routine ones only that take long.
    urgent = replace(DAY, reports=[(2, 90.0), (0, 10.0)])
    routine = replace(DAY, reports=[(2, 10.0), (0, 90.0)])
    waits_of = {name: aims.simulated(day, 10) for name, day in (("urgent", urgent), ("routine", routine))}

    for name, found in waits_of.items():
        assert {wait.priority for wait in found} == {0, 2}, name
    assert urgent.seconds == routine.seconds == 50


MACHINES = [((2, 1e15, 1e12), True), ((1, 1e15, 1e12), False), ((2, 1e9, 1e12), False)]


@pytest.mark.parametrize(("machine", "suffices"), MACHINES)
def test_machine_that_does_not_suffice_is_named(machine: tuple[int, float, float], *, suffices: bool) -> None:
    printed = io.StringIO()
    day = assumed(20, 4).with_studies(500)

    console = Console(file=printed, width=200)
    assert plan.show(console, day, needs.Machine(*machine), 30, None, as_json=True) is suffices
    document = json.loads(printed.getvalue())
    assert all(need["suffices"] for need in document["needs"]) is suffices
    assert document["breaks_first_at_twice_the_load"] is None or not suffices


def needed(day: Load) -> dict[str, float]:
    return {need.name: need.needed for need in needs.needs(day, needs.Machine(), 30)}


def test_object_storage_needs_the_network_twice_and_local_disk_for_its_outage() -> None:
    found = needed(DAY)
    arriving = found["network in the busiest hour"] * 1e9 / 8

    assert found["the same, with an object storage"] == pytest.approx(2 * found["network in the busiest hour"])
    assert found["local disk, object storage away for 10 min"] * 1e9 == pytest.approx(600 * arriving)


def test_standby_receives_and_backup_copies_what_the_database_grows_by() -> None:
    found = needed(DAY)
    rows, images = found["PostgreSQL without images of reports, a year"], found["images of reports, a year"]
    objects_of_a_day = DAY.studies * DAY.bytes / 1e12

    assert found["a daily backup after a year"] == pytest.approx(rows + images + objects_of_a_day)
    # As much a second as the rows and images of the busiest hour, at least.
    in_an_hour = (rows + images) / 365 * max(DAY.hours)
    assert found["WAL for a standby in the busiest hour"] / 8 * 3600 / 1000 > in_an_hour


def test_what_is_short_at_twice_the_load_is_the_shortest_of_what_is_given() -> None:
    day = assumed(20, 4).with_studies(500)

    assert needs.breaks_first(day, needs.Machine(), 30) is None
    assert needs.breaks_first(day, needs.Machine(workers=50, disk_bytes=1e15), 30) is None
    first = needs.breaks_first(day, needs.Machine(workers=1, disk_bytes=1e9), 30)
    assert first is not None
    assert first.name == "disk of the spool for 30 days, 90% used"


def test_replay_of_a_run_gives_its_waits() -> None:
    jobs = arrivals_of_a_day(3000, [0.0] * 8 + [1.0] + [0.0] * 15, [(0, 2.0), (0, 4.0), (2, 3.0)], seed=2)
    workers = Workers(1, 3)
    measured = Measured(jobs, [wait.seconds for wait in sorted(waits(jobs, workers))], workers)
    found = replayed.compare(measured)

    assert list(found) == ["ALL", "STAT", "ROUTINE"]
    assert found["ALL"].jobs == found["STAT"].jobs + found["ROUTINE"].jobs == len(jobs)
    for each in found.values():
        assert each.lowest == each.simulated == each.highest == each.measured > 0


def test_text_has_hours_and_priorities() -> None:
    printed = io.StringIO()
    day = assumed(20, 4).with_studies(500)
    plan.show(Console(file=printed, width=200), day, needs.Machine(), 30, None, as_json=False)

    assert "urgent, with 2 workers " in printed.getvalue()
    assert "routine, with 1" in printed.getvalue()
    assert "nothing that is given is short" in printed.getvalue()


ABSURD = ["0", "-1", "nan", "inf", "1e12"]


@pytest.mark.parametrize("number", ABSURD)
@pytest.mark.parametrize("option", ["--studies", "--reports-per-minute", "--days", "--workers"])
def test_absurd_number_is_refused(option: str, number: str) -> None:
    result = CliRunner().invoke(app.app, ["plan", option, number], env={"COLUMNS": "200"})

    assert result.exit_code == 2
    assert option in result.output


@pytest.mark.parametrize("option", ["--reports-per-minute", "--slots"])
def test_speed_beside_that_of_the_database_is_refused(option: str) -> None:
    result = CliRunner().invoke(app.app, ["plan", "--from-database", option, "2"], env={"COLUMNS": "200"})

    assert result.exit_code == 2
    assert "expected --reports-per-minute and --slots without" in result.output


@pytest.mark.parametrize(("workers", "status"), [("1", 1), ("3", 0)])
def test_exit_status_tells_whether_the_workers_suffice(workers: str, status: int) -> None:
    assert CliRunner().invoke(app.app, ["plan", "--studies", "500", "--workers", workers]).exit_code == status
