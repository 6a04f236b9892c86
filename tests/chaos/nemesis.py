"""Seeded nemesis: each fault is one function on the system."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import redis
from pydicom import dcmread
from sqlalchemy import select

from db.jobs import redis_client
from db.models import Instance, Study
from db.session import transaction
from deploy.embedded.redis import Redis
from dicom_listener.receive.prefork.children import FROZEN_SECONDS
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received
from tests.chaos.children import CLOCK, DISK_FULL, UNREADABLE

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.chaos.system import System

    Fault = Callable[[System, random.Random], None]

#: Seconds of a freeze: longer than a lease and than an idle transaction may last.
FREEZE_SECONDS = 6.0
#: Seconds in which to find a process within a transaction.
WATCH_SECONDS = 1.0
#: Kinds whose files are damaged: nothing else happens to these studies.
REPAIRED = ("plain", "stat")
COMPLETE = (
    select(Study.study_instance_uid, Instance.sop_instance_uid, Instance.file_path)
    .join(Instance, Instance.study_id == Study.id)
    .where(Study.state == "reported")
    .order_by(Instance.file_path)
)


def kill_listener(system: System, _: random.Random) -> None:
    system.signal("listener", signal.SIGKILL)


def kill_dispatcher(system: System, rng: random.Random) -> None:
    system.signal(rng.choice(["dispatcher-1", "dispatcher-2"]), signal.SIGKILL)


def kill_worker(system: System, rng: random.Random) -> None:
    system.signal(rng.choice(["worker-1", "worker-2"]), signal.SIGKILL)


def stop_worker(system: System, rng: random.Random) -> None:
    system.signal(rng.choice(["worker-1", "worker-2"]), signal.SIGTERM)


def freeze_worker(system: System, rng: random.Random) -> None:
    """Stop it for longer than its lease: when it continues, another worker has its jobs."""
    name = rng.choice(["worker-1", "worker-2"])
    system.signal(name, signal.SIGSTOP)
    system.supervise_for(system.settings.queue.lease_seconds * 1.5)
    system.signal(name, signal.SIGCONT)


def freeze_in_a_transaction(system: System, rng: random.Random) -> None:
    """Stop a process that holds locks, for longer than the database lets an idle transaction live."""
    deadline = time.monotonic() + WATCH_SECONDS
    while not (found := system.in_transaction()) and time.monotonic() < deadline:
        time.sleep(0.002)
    name = rng.choice(found or sorted(system.children))
    system.signal(name, signal.SIGSTOP)
    system.supervise_for(FREEZE_SECONDS)
    system.signal(name, signal.SIGCONT)


def freeze_listener(system: System, _: random.Random) -> None:
    system.signal("listener", signal.SIGSTOP)
    system.supervise_for(FREEZE_SECONDS / 2)
    system.signal("listener", signal.SIGCONT)


def kill_listener_process(system: System, rng: random.Random) -> None:
    _signal_listener_process(system, rng, signal.SIGKILL)


def freeze_listener_process(system: System, rng: random.Random) -> None:
    """Stop a child of the listener: it continues, or the parent kills and replaces it."""
    pid = _signal_listener_process(system, rng, signal.SIGSTOP)
    system.supervise_for(rng.choice([FREEZE_SECONDS, FROZEN_SECONDS + 2]))
    if pid in system.listener_processes:
        os.kill(pid, signal.SIGCONT)


def replace_listener_processes(system: System, _: random.Random) -> None:
    """Replace the children of the listener one by one; they exist only after it has set the handler of SIGHUP."""
    if system.listener_processes:
        system.signal("listener", signal.SIGHUP)


def _signal_listener_process(system: System, rng: random.Random, number: signal.Signals) -> int | None:
    pid = rng.choice(system.listener_processes or [None])
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return pid


def freeze_redis(system: System, _: random.Random) -> None:
    """Accept and answer nothing: workers must go on by what the database tells them."""
    process = system.redis.process
    assert process
    process.send_signal(signal.SIGSTOP)
    system.supervise_for(FREEZE_SECONDS)
    process.send_signal(signal.SIGCONT)


def black_hole_before_postgres(system: System, _: random.Random) -> None:
    """Keep connections open and pass nothing on, in either direction."""
    for proxy in system.servers.proxies:
        proxy.forwarding.clear()
    system.supervise_for(FREEZE_SECONDS)
    for proxy in system.servers.proxies:
        proxy.forwarding.set()


def step_clock(system: System, rng: random.Random) -> None:
    (system.settings.operations.data_dir / CLOCK).write_text(str(rng.choice([-86400, -30, 30, 7200, 0])))


def kill_redis(system: System, _: random.Random) -> None:
    assert system.redis.process
    system.redis.process.kill()
    system.redis.start()


def kill_redis_and_its_file(system: System, _: random.Random) -> None:
    assert isinstance(system.redis, Redis)
    assert system.redis.process
    system.redis.process.kill()
    system.redis.process.wait()
    for folder in (system.redis.directory / "data").glob("appendonly*"):
        shutil.rmtree(folder)
    system.redis.start()


def flush_redis(system: System, _: random.Random) -> None:
    with contextlib.suppress(redis.RedisError), redis_client.connect(system.redis.url, 1) as client:
        client.flushall()


def kill_postgres(system: System, _: random.Random) -> None:
    assert system.postgres.process
    os.kill(system.postgres.process.pid, signal.SIGKILL)
    system.postgres.start()


def fill_disk(system: System, rng: random.Random) -> None:
    flag = system.settings.operations.data_dir / DISK_FULL
    flag.touch()
    system.supervise_for(rng.uniform(0.5, 1.5))
    flag.unlink()


def damage_stored_file(system: System, rng: random.Random) -> None:
    """Remove or damage a file of a complete study that has ended; the object is sent again at the end."""
    with transaction(system.url) as session:
        uids = [study.uid for study in system.planned if study.kind in REPAIRED]
        found = session.execute(COMPLETE.where(Study.study_instance_uid.in_(uids))).all()
    counts = Counter(row.study_instance_uid for row in found)
    sent = {study.uid: len(study.objects()) for study in system.planned}
    files = [row for row in found if counts[row.study_instance_uid] == sent[row.study_instance_uid]]
    if not files:
        return
    row = rng.choice(files)
    path = system.settings.operations.data_dir / row.file_path
    if rng.random() < 0.5:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    system.to_resend.add(row.sop_instance_uid)


def make_a_file_unreadable(system: System, rng: random.Random) -> None:
    """Let the disk fail at one received file; it is set aside, and the object is sent again at the end."""
    uids = {study.uid for study in system.planned if study.kind in REPAIRED}
    deadline = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        for path in sorted(received(Spool(system.settings.spool))):
            with contextlib.suppress(FileNotFoundError):
                header = dcmread(path, stop_before_pixels=True)
                if header.StudyInstanceUID in uids:
                    (system.settings.operations.data_dir / UNREADABLE).write_text(path.name)
                    system.to_resend.add(header.SOPInstanceUID)
                    system.supervise_for(rng.uniform(0.5, 1.5))
                    return
        system.supervise_for(0.02)


FAULTS: tuple[Fault, ...] = (
    kill_listener,
    kill_dispatcher,
    kill_worker,
    stop_worker,
    freeze_worker,
    freeze_in_a_transaction,
    freeze_listener,
    freeze_redis,
    black_hole_before_postgres,
    step_clock,
    kill_redis,
    kill_redis_and_its_file,
    flush_redis,
    kill_postgres,
    fill_disk,
    damage_stored_file,
    make_a_file_unreadable,
)

#: The faults of a listener of several processes.
PROCESS_FAULTS: tuple[Fault, ...] = (kill_listener_process, freeze_listener_process, replace_listener_processes)


class Nemesis:
    """Injects faults in a seeded order, after those given as *first*; each occurs before any is repeated."""

    def __init__(
        self, system: System, rng: random.Random, faults: tuple[Fault, ...] = FAULTS, first: tuple[Fault, ...] = ()
    ) -> None:
        self.injected: Counter[str] = Counter()
        self._system = system
        self._rng = rng
        self._faults = faults + PROCESS_FAULTS if system.settings.dicom.listener_processes != 1 else faults
        self._first, self._next = len(first), [*first]

    @property
    def first_are_left(self) -> bool:
        """Return whether one of the first faults was not yet injected."""
        return self.injected.total() < self._first

    def inject(self) -> None:
        """Inject the next fault."""
        if not self._next:
            self._next = self._rng.sample(self._faults, len(self._faults))
        fault = self._next.pop()
        fault(self._system, self._rng)
        self.injected[fault.__name__] += 1
