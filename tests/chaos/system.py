"""Run the full stack: embedded servers, forked processes, and a supervisor that restarts ended ones."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

from db.migrations.upgrade import migrate
from db.session import engine, transaction
from db.settings import Settings
from deploy.embedded.postgres import DATABASE, Postgres
from deploy.embedded.redis import Redis
from deploy.embedded.server_process import free_port
from tests import processes
from tests.chaos import children
from tests.chaos.failover.pair import Pair
from tests.object_storage import Seaweed, seaweed, settings_of
from tests.polling import wait_until
from tests.proxy import Proxy, proxied
from tests.sentinels import Sentinels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from multiprocessing.context import ForkServerProcess

    from tests.chaos.modality import PlannedStudy

#: Resident bytes of each process: twice the size of an idle one.
MEMORY_LIMIT = 400 * 2**20
RESTART_SECONDS = 0.3
#: Short leases, so that many expire in a run of minutes.
SHORT_TIMES = {
    "PRELIM_SETTLE_SECONDS": "0.8",
    "PRELIM_SETTLE_BROKEN_SECONDS": "2",
    "PRELIM_DISPATCH_SECONDS": "0.1",
    "PRELIM_REDELIVER_SECONDS": "2",
    "PRELIM_LEASE_SECONDS": "2.5",
    "PRELIM_RETRY_SECONDS": "0.2",
    "PRELIM_STOP_SECONDS": "1",
    # Longer than a freeze, after which the process must go on.
    "PRELIM_ENGINE_STALL_SECONDS": "15",
    "PRELIM_LOG_FORMAT": "json",
}
#: Shorter than the lag of a standby, which then lacks the rows of files that are only in the object storage; longer
#: than the time between two looks at the rows for moves.
KEPT = {"storage_keep_local_hours": 1 / 3600}
ROLES = {
    "listener": "listener",
    "dispatcher-1": "dispatcher",
    "dispatcher-2": "dispatcher",
    "worker-1": "worker",
    "worker-2": "worker",
}


@dataclass
class Servers:
    """The database and the broker of a system, both single or both with a replica."""

    postgres: Postgres | Pair
    #: Between the processes and the servers of the database; the checks go past them.
    proxies: list[Proxy]
    redis: Redis | Sentinels
    storage: Seaweed | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Settings with which the processes use them."""
        storage = {} if self.storage is None else settings_of(self.storage.endpoint) | KEPT
        return {
            "PRELIM_DATABASE_URL": self.database_url,
            "PRELIM_BROKER_URL": self.redis.url,
            **{f"PRELIM_{name}".upper(): str(value) for name, value in storage.items()},
        }

    @property
    def database_url(self) -> str:
        """URL of all servers of the database, through the proxies."""
        before, _, _ = self.postgres.url.rpartition("@")
        return f"{before}@{','.join(f'127.0.0.1:{proxy.port}' for proxy in self.proxies)}/{DATABASE}"


@contextmanager
def single(folder: Path) -> Iterator[Servers]:
    with Postgres(folder / "postgres") as postgres, Redis(folder / "redis") as redis:
        migrate(postgres.url)
        with proxied(postgres.port) as proxy:
            yield Servers(postgres, [proxy], redis)


@contextmanager
def replicated(folder: Path, *, synchronous: bool) -> Iterator[Servers]:
    with (
        Pair(folder / "postgres", synchronous=synchronous) as pair,
        Sentinels(folder / "redis") as redis,
        proxied(pair.ports[0]) as first,
        proxied(pair.ports[1]) as second,
        seaweed(folder / "storage") as storage,
    ):
        yield Servers(pair, [first, second], redis, storage)


@dataclass
class System:
    """A running installation whose processes can be killed; use from the main thread only."""

    folder: Path
    servers: Servers
    environment: dict[str, str]
    roles: dict[str, str]
    #: Changes of the environment of some children.
    own: dict[str, dict[str, str]] = field(default_factory=dict)
    children: dict[str, ForkServerProcess] = field(default_factory=dict)
    #: Largest resident size of a process of each child, in bytes.
    memory: dict[str, int] = field(default_factory=dict)
    #: Children that are not restarted.
    down: set[str] = field(default_factory=set)
    _ended: dict[str, float] = field(default_factory=dict)
    #: Studies of a run, and the objects whose files were damaged, by SOP Instance UID.
    planned: list[PlannedStudy] = field(default_factory=list)
    to_resend: set[str] = field(default_factory=set)

    @property
    def settings(self) -> Settings:
        names = {name.removeprefix("PRELIM_").lower(): value for name, value in self.environment.items()}
        return Settings(**names)

    @property
    def postgres(self) -> Postgres | Pair:
        return self.servers.postgres

    @property
    def redis(self) -> Redis | Sentinels:
        return self.servers.redis

    @property
    def url(self) -> str:
        """URL of the database's current primary, past the proxies."""
        return self.postgres.url

    def in_transaction(self) -> list[str]:
        """Return the children that have a transaction open now."""
        with transaction(self.url) as session:
            found = session.scalars(text("SELECT application_name FROM pg_stat_activity WHERE xact_start IS NOT NULL"))
            names = set(found.all())
        return [name for name, child in self.children.items() if f"prelim:{child.pid}" in names]

    def start(self, name: str) -> None:
        """Fork the child *name* from the preloaded server: a tenth of a second instead of three."""
        context = multiprocessing.get_context("forkserver")
        log = str(self.folder / f"{name}.log")
        environment = self.environment | self.own.get(name, {})
        child = context.Process(target=children.start, args=(self.roles[name], environment, log), daemon=True)
        child.start()
        self.children[name] = child

    def signal(self, name: str, number: signal.Signals) -> None:
        pid = self.children[name].pid
        if pid is not None and self.children[name].is_alive():
            # It can end, and be reaped by its server, after this question.
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    @property
    def listener_processes(self) -> list[int]:
        """Process ids of the listener's children; none if it is one process."""
        return processes.children(self.children["listener"].pid or 0)

    def supervise(self) -> None:
        """Restart ended servers and children; record the memory of each child."""
        for server in (self.postgres, self.redis):
            if not server.alive:
                server.start()
        for name, child in list(self.children.items()):
            if child.is_alive():
                pids = (child.pid, *processes.children(child.pid or 0))
                self.memory[name] = max(self.memory.get(name, 0), *map(resident_bytes, pids))
            elif (
                name not in self.down
                and time.monotonic() - self._ended.setdefault(name, time.monotonic()) > RESTART_SECONDS
            ):
                del self._ended[name]
                self.start(name)

    def supervise_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.supervise()
            time.sleep(0.05)

    def logged(self, event: str) -> int:
        """Return how often any child has logged *event*."""
        return sum(path.read_text(errors="replace").count(f'"{event}"') for path in self.folder.glob("*.log"))


def resident_bytes(pid: int | None) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0


@contextmanager
def running_system(
    folder: Path,
    roles: dict[str, str] = ROLES,
    started: Callable[[Path], AbstractContextManager[Servers]] = single,
    own: dict[str, dict[str, str]] | None = None,
    **changes: str,
) -> Iterator[System]:
    """Run a system in *folder* with the servers *started*, a migrated schema and every process ready.

    *changes* are of the environment of all processes, *own* of those of one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.children"])
    data = folder / "data"
    data.mkdir(parents=True)
    with started(folder) as servers:
        environment = {
            **SHORT_TIMES,
            "PRELIM_DATA_DIR": str(data),
            **servers.environment,
            "PRELIM_DICOM_PORT": str(free_port()),
            **changes,
        }
        system = System(folder, servers, {k: v for k, v in environment.items() if v}, roles, own or {})
        try:
            for name in roles:
                system.start(name)
            wait_until(lambda: is_ready(system), 60)
            yield system
        finally:
            for child in system.children.values():
                pids = processes.descendants(child.pid or 0)
                child.kill()
                child.join()
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            # The checks go to the server, the audit through the proxies as the processes do.
            for url in (system.url, system.settings.database()):
                engine(url).dispose()


def is_ready(system: System) -> bool:
    """Return whether every dispatcher and worker has a heartbeat."""
    with transaction(system.url) as session:
        seen = session.scalar(text("SELECT count(*) FROM processes WHERE role <> 'listener'"))
    return bool(seen == sum(role != "listener" for role in system.roles.values()))
