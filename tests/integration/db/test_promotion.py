"""A standby that lacks the last claims is promoted in the middle of work."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select

from db.errors import StaleFence
from db.jobs import claims
from db.migrations.upgrade import migrate
from db.models import Job, Report, Study
from db.operations import invariants
from db.session import engine, transaction
from deploy.embedded.postgres import Postgres
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_claims import claim_as, finish
from tests.polling import wait_until
from tests.proxy import proxied
from tests.standby import READ_ONLY, Standby, promote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WORKERS = 4


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Postgres]:
    with Postgres(tmp_path / "primary") as server:
        migrate(server.url)
        yield server
        engine(server.url).dispose()


@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_promoted_standby_without_the_last_claims_gets_one_report_a_revision(
    tmp_path: Path, primary: Postgres, count: int
) -> None:
    for _ in range(count):
        Arrivals(primary.url).image()
    while Arrivals(primary.url).settle():
        pass
    with proxied(primary.port) as proxy, Standby(tmp_path / "standby", primary, proxy) as standby:
        for claim in claimed(primary.url, count // 5):
            finish(primary.url, claim)
        wait_until(lambda: reports(standby.url + READ_ONLY) == count // 5, 30)

        proxy.forwarding.clear()
        lost = claimed(primary.url, count // 2)
        assert len(lost) == count // 2
        for claim in lost[::3]:
            finish(primary.url, claim)
        assert primary.process
        os.kill(primary.process.pid, signal.SIGKILL)
        promote(standby.url)
        again = claimed(standby.url, count)
        assert {(claim.job_id, claim.fence) for claim in lost} <= {(claim.job_id, claim.fence) for claim in again}
        with ThreadPoolExecutor(WORKERS) as pool:
            stale = pool.map(lambda work: is_stale(standby.url, *work), zip(lost, WRITES * count, strict=False))
            list(pool.map(lambda claim: finish(standby.url, claim), again))
            assert all(stale)

        with transaction(standby.url) as session:
            assert invariants.check(session) == []
            assert session.scalar(select(func.count()).where(Study.state == "reported")) == count
            assert session.scalar(select(func.count(Report.job_id.distinct()))) == reports(standby.url) == count
            assert session.scalar(select(func.max(Job.attempt))) == 1
        engine(standby.url).dispose()


def claimed(url: str, at_most: int) -> list[claims.Claim]:
    made = (claim_as(url, f"worker-{number % WORKERS}") for number in range(at_most))
    return [claim for claim in made if claim is not None]


def reports(url: str) -> int:
    with transaction(url) as session:
        return session.scalar(select(func.count()).select_from(Report)) or 0


def extend(url: str, claim: claims.Claim) -> None:
    with transaction(url) as session:
        claims.extend_lease(session, claim, lease_seconds=30)


def give_back(url: str, claim: claims.Claim) -> None:
    with transaction(url) as session:
        claims.give_back(session, claim)


#: What the workers of the lost claims do.
WRITES: list[Callable[[str, claims.Claim], Any]] = [finish, extend, give_back]


def is_stale(url: str, claim: claims.Claim, write: Callable[[str, claims.Claim], Any]) -> bool:
    try:
        write(url, claim)
    except StaleFence:
        return True
    return False
