"""Two machines with a listener, a dispatcher and a worker each, on one spool and one database."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from db.models import Instance, Report
from db.session import transaction
from deploy.embedded.server_process import free_port
from tests import processes
from tests.chaos import checker
from tests.chaos.children import HOST
from tests.chaos.modality import History, Modality, PlannedStudy, plan
from tests.chaos.system import System, running_system
from tests.chaos.test_chaos import supervise_until
from tests.long_form import IS_LONG, size
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # pynetdicom, in the sending modality, forgets its socket when the listener is down.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
HOSTS = ("one", "two")
ROLES = {f"{role}-{host}": role for host in HOSTS for role in ("listener", "dispatcher", "worker")}
STUDIES, SENDERS = size(200, 500), 4
#: Sent in a second, by all senders.
RATE = 25
#: Share of one machine's work, less than that of the other: few studies differ more.
UNEVEN = 0.2 if IS_LONG else 0.4


class Hosts:
    """A system of two hosts, and the senders to each."""

    def __init__(self, system: System, ports: dict[str, int], studies: int) -> None:
        self.system = system
        self.studies = plan(studies, random.Random(5), {"plain": 1})
        self.histories = {host: History() for host in HOSTS}
        self.senders = {
            host: [self._sender(host, number, ports[host]) for number in range(SENDERS // len(HOSTS))] for host in HOSTS
        }

    def _sender(self, host: str, number: int, port: int) -> Modality:
        first = HOSTS.index(host) + number * len(HOSTS)
        return Modality(
            f"CT_{host}_{number}".upper(),
            port,
            self.studies[first::SENDERS],
            len(self.studies) / RATE,
            self.histories[host],
        )

    @property
    def all_senders(self) -> list[Modality]:
        return [sender for senders in self.senders.values() for sender in senders]

    def send(self) -> None:
        for sender in self.all_senders:
            sender.start()

    def wait_for_the_end(self) -> None:
        supervise_until(self.system, lambda: not any(sender.is_alive() for sender in self.all_senders), 240)
        supervise_until(self.system, lambda: checker.all_ended(self.system, self.studies), 240)

    def violations(self) -> list[str]:
        histories = self.histories.values()
        acknowledged = {uid: digest for history in histories for uid, digest in history.acknowledged.items()}
        return checker.violations(self.system, self.studies, History(acknowledged))


@pytest.fixture
def hosts(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Hosts]:
    """Hosts and the number of studies that the test wants, not yet sent."""
    ports = {host: free_port() for host in HOSTS}
    of_host = {host: {HOST: host, "PRELIM_DICOM_PORT": str(port)} for host, port in ports.items()}
    own = {name: of_host[name.rpartition("-")[2]] for name in ROLES}
    with running_system(tmp_path / "system", ROLES, own=own, PRELIM_LISTENER_PROCESSES="2") as system:
        checker.record_transitions(system)
        yield Hosts(system, ports, request.param)


def claims(system: System) -> Counter[str]:
    """Return the number of finished jobs by the host of their worker."""
    with transaction(system.url) as session:
        owners = session.scalars(checker.FINISHED_BY).all()
    return Counter(owner.partition(":")[0] for owner in owners)


def counted(system: System) -> tuple[int, int, int]:
    """Return the numbers of instances, of reports, and of different studies and revisions with a report."""
    with transaction(system.url) as session:
        pairs = select(Report.study_id, Report.revision).distinct().subquery()
        queries = (select(func.count()).select_from(each) for each in (Instance, Report, pairs))
        first, second, third = (session.scalar(query) or 0 for query in queries)
    return first, second, third


def objects(studies: list[PlannedStudy]) -> int:
    return sum(len(study.objects()) for study in studies)


@pytest.mark.parametrize("hosts", [STUDIES], indirect=True)
def test_two_hosts_share_all_studies_and_none_is_lost_or_double(hosts: Hosts) -> None:
    hosts.send()
    hosts.wait_for_the_end()

    assert hosts.violations() == []
    instances, reports, different = counted(hosts.system)
    assert instances == objects(hosts.studies)
    assert reports == different >= STUDIES
    for name, shares in (
        ("reports", claims(hosts.system)),
        ("objects", {host: len(history.acknowledged) for host, history in hosts.histories.items()}),
    ):
        assert min(shares[host] for host in HOSTS) >= (1 - UNEVEN) * max(shares.values()), (name, shares)


@pytest.mark.parametrize("hosts", [STUDIES // 2], indirect=True)
def test_host_killed_in_the_middle_loses_nothing_and_the_other_goes_on(hosts: Hosts) -> None:
    hosts.send()
    supervise_until(hosts.system, lambda: counted(hosts.system)[1] > STUDIES // 8, 240)
    before = claims(hosts.system)
    kill(hosts, "two")
    hosts.wait_for_the_end()

    assert hosts.violations() == []
    instances, reports, different = counted(hosts.system)
    assert instances == objects(hosts.studies)
    assert reports == different
    assert before["two"] > 0
    assert claims(hosts.system)["one"] > before["one"]


def kill(hosts: Hosts, host: str) -> None:
    """End all processes of a host at once; its senders turn to the other one."""
    names = [name for name in ROLES if name.endswith(f"-{host}")]
    hosts.system.down.update(names)
    children = [pid for name in names for pid in processes.descendants(hosts.system.children[name].pid or 0)]
    for name in names:
        hosts.system.signal(name, signal.SIGKILL)
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    other = next(each for each in HOSTS if each != host)
    for sender in hosts.senders[host]:
        sender.port = hosts.senders[other][0].port
    wait_until(lambda: not any(hosts.system.children[name].is_alive() for name in names))
