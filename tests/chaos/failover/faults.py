"""Faults of a database and a broker with replicas, and how long the work needs to go on after each."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING

import redis
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from db.jobs import redis_client
from db.models import Instance, Job, Report
from db.session import transaction
from tests.chaos import nemesis
from tests.chaos.checker import all_ended
from tests.chaos.failover.pair import Pair
from tests.polling import wait_until
from tests.sentinels import TILT_SECONDS, Sentinels

if TYPE_CHECKING:
    import datetime as dt
    import random
    from collections.abc import Callable, Sequence

    from sqlalchemy.orm import InstrumentedAttribute

    from tests.chaos.system import System
    from tests.object_storage import Seaweed

    Column = InstrumentedAttribute[dt.datetime] | InstrumentedAttribute[dt.datetime | None]

#: Promise: seconds until work goes on without a hand.
RECOVERY_SECONDS = 60
#: Seconds for which a standby lags before it is promoted.
LAG_SECONDS = (0.5, 4.0)
#: Seconds for which the object storage is away.
AWAY_SECONDS = (1.0, 5.0)


class Recoveries:
    """Seconds from each fault until work went on, by the name of the fault; infinite if it did not in time.

    Nothing is noted of a fault after the last work: *is_sending* returns whether more is sent.
    """

    def __init__(self, is_sending: Callable[[], bool]) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._is_sending = is_sending

    def wait(self, system: System, name: str, since: float, *conditions: Callable[[System, float], bool]) -> None:
        """Let the system go on until all *conditions* hold for work after *since*."""
        while not all(condition(system, since) for condition in conditions):
            if not self._is_sending() and has_nothing_to_do(system):
                return
            if time.time() - since > RECOVERY_SECONDS:
                self.seconds[name].append(float("inf"))
                return
            system.supervise_for(0.1)
        self.seconds[name].append(time.time() - since)

    def violations(self) -> list[str]:
        """Return a sentence for each fault after which no work went on in time."""
        late = [name for name, seconds in self.seconds.items() if max(seconds) > RECOVERY_SECONDS]
        return [f"no work within {RECOVERY_SECONDS} s after: {name}" for name in late]


def has_nothing_to_do(system: System) -> bool:
    """Return whether all that was sent has its reports."""
    with suppress(OperationalError):
        return all_ended(system, system.planned)
    return False


def indexes_and_reports(system: System, since: float) -> bool:
    """Return whether a row of a file and a report were committed after *since*."""
    return _latest(system, (Instance.indexed_at, Report.created_at)) > since


def sends_messages(system: System, since: float) -> bool:
    """Return whether a dispatcher has sent a message after *since*."""
    return _latest(system, (Job.sent_at,)) > since


def _latest(system: System, columns: Sequence[Column]) -> float:
    """Return the earliest of the latest times of the columns."""
    try:
        with transaction(system.url) as session:
            times = [session.scalar(select(func.max(column))) for column in columns]
    except OperationalError:
        return 0
    return min(latest.timestamp() if latest else 0 for latest in times)


def moves_objects(system: System, since: float) -> bool:
    """Return whether a file was moved to the object storage after *since*."""
    kept = system.settings.storage.storage_keep_local_hours * 3600
    moved = select(func.max(Instance.storage_due_at)).where(Instance.object_sha256.is_not(None))
    with suppress(OperationalError), transaction(system.url) as session:
        latest = session.scalar(moved)
        return latest is not None and latest.timestamp() - kept > since
    return False


def consumes_messages(system: System, _: float = 0) -> bool:
    """Return whether each worker waits for messages of the current master."""
    workers = sum(role == "worker" for role in system.roles.values())
    with suppress(redis.RedisError), redis_client.connect(system.redis.url, 1) as client:
        waiting = [each for each in client.client_list() if each["cmd"] == "brpop"]
        return len(waiting) >= workers
    return False


class ReplicaFaults:
    """The faults of one run; each waits until work goes on, so that every one is measured."""

    def __init__(self, is_sending: Callable[[], bool]) -> None:
        self.recoveries = Recoveries(is_sending)
        self._is_sending = is_sending

    def promote_standby(self, system: System, rng: random.Random) -> None:
        """Kill the primary, promote a standby that lags, and make a new one of the other server."""
        pair = _pair(system)
        if pair.synchronous:
            # Nobody may promote one that does not have every confirmed commit.
            wait_until(pair.is_streaming)
        pair.link.forwarding.clear()
        system.supervise_for(rng.uniform(*LAG_SECONDS))
        killed_at = pair.fail_over()
        self._measure(system, "promote_standby", killed_at, indexes_and_reports)
        pair.add_standby()

    def kill_redis_master(self, system: System, _: random.Random) -> None:
        """Kill the master, and start it again once the Sentinels have promoted the replica."""
        sentinels = system.redis
        assert isinstance(sentinels, Sentinels)
        wait_until(sentinels.has_replica, TILT_SECONDS)
        old, killed_at = sentinels.process, time.time()
        old.kill()
        # The supervisor starts it again only when another one is the master.
        wait_until(lambda: sentinels.process is not old, TILT_SECONDS)
        self._measure(system, "kill_redis_master", killed_at, sends_messages, consumes_messages)

    def kill_standby(self, system: System, _: random.Random) -> None:
        """Kill the standby, which starts again; commits that wait for it go on."""
        killed_at = time.time()
        assert _pair(system).standby.process
        _pair(system).standby.process.kill()
        self._measure(system, "kill_standby", killed_at, indexes_and_reports)

    def freeze_replication(self, system: System, _: random.Random) -> None:
        """Let nothing pass between the servers: synchronous commits wait."""
        frozen_at = time.time()
        _pair(system).link.forwarding.clear()
        system.supervise_for(nemesis.FREEZE_SECONDS)
        _pair(system).link.forwarding.set()
        self._measure(system, "freeze_replication", frozen_at + nemesis.FREEZE_SECONDS, indexes_and_reports)

    def kill_storage(self, system: System, rng: random.Random) -> None:
        """Kill the object storage, and start it again some seconds later."""
        storage = _storage(system)
        storage.stop(kill=True)
        self._measure(system, "storage_away", time.time(), indexes_and_reports)
        system.supervise_for(rng.uniform(*AWAY_SECONDS))
        storage.start()
        self._measure(system, "kill_storage", time.time(), moves_objects)

    def freeze_storage(self, system: System, _: random.Random) -> None:
        """Let the object storage accept requests and answer none."""
        storage = _storage(system)
        storage.signal(signal.SIGSTOP)
        self._measure(system, "storage_frozen", time.time(), indexes_and_reports)
        system.supervise_for(nemesis.FREEZE_SECONDS)
        storage.signal(signal.SIGCONT)
        self._measure(system, "freeze_storage", time.time(), moves_objects)

    def _measure(self, system: System, name: str, since: float, *conditions: Callable[[System, float], bool]) -> None:
        if self._is_sending():
            self.recoveries.wait(system, name, since, *conditions)

    def first(self, rng: random.Random) -> tuple[nemesis.Fault, ...]:
        """Return one fault of each server: a run on a machine under load has few more."""
        storage = rng.choice((self.kill_storage, self.freeze_storage))
        return tuple(rng.sample((self.promote_standby, self.kill_redis_master, storage), 3))

    def all(self, rng: random.Random) -> tuple[nemesis.Fault, ...]:
        """Return the faults of a run: these, and some of the others, beside which work must go on."""
        often = (self.promote_standby, self.kill_redis_master)
        once = (self.kill_standby, self.freeze_replication, self.kill_storage, self.freeze_storage)
        return (*often, *often, self.promote_standby, *once, *rng.sample(OTHERS, SAMPLE))


#: Number of other faults between two rounds of those above.
SAMPLE = 3
OTHERS = (
    nemesis.kill_listener,
    nemesis.kill_dispatcher,
    nemesis.kill_worker,
    nemesis.stop_worker,
    nemesis.freeze_in_a_transaction,
    nemesis.freeze_redis,
    nemesis.black_hole_before_postgres,
    nemesis.step_clock,
    nemesis.flush_redis,
    nemesis.kill_postgres,
    nemesis.fill_disk,
)


def _storage(system: System) -> Seaweed:
    assert system.servers.storage is not None
    return system.servers.storage


def _pair(system: System) -> Pair:
    assert isinstance(system.postgres, Pair)
    return system.postgres
