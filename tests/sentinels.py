"""A Redis master, its replica and three Sentinels, any of which can be killed and started again."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import redis

from db.jobs import redis_client
from deploy.embedded.redis import redis_program
from deploy.embedded.server_process import free_port
from tests.polling import wait_until

if TYPE_CHECKING:
    from pathlib import Path

#: A Sentinel that a busy machine has not run for 2 s changes nothing for 30 s (its mode TILT); then it needs some more.
TILT_SECONDS = 60
SECRET = "p@ss"
SERVER = f"requirepass {SECRET}\nmasterauth {SECRET}\nappendonly yes\nsave ''\n"
SENTINEL = """sentinel monitor queue 127.0.0.1 {master} 2
sentinel auth-pass queue {secret}
sentinel down-after-milliseconds queue 500
sentinel failover-timeout queue 5000
"""


class Program:
    """One server with its files in a folder of its own; it notes in its configuration what Sentinels change."""

    def __init__(self, folder: Path, configuration: str, *options: str) -> None:
        self.port = free_port()
        home = folder / str(self.port)
        home.mkdir(parents=True)
        self._file, self._options = home / "conf", options
        self._file.write_text(f"bind 127.0.0.1\nport {self.port}\ndir {home}\n{configuration}")
        self.start()

    def start(self) -> None:
        command = [redis_program(), self._file, *self._options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Sentinels:
    """The five servers, started; named by `url`."""

    def __init__(self, folder: Path) -> None:
        master = Program(folder, SERVER)
        replica = Program(folder, f"{SERVER}replicaof 127.0.0.1 {master.port}\n")
        self._servers = [master, replica]
        watched = SENTINEL.format(master=master.port, secret=SECRET)
        self._sentinels = [Program(folder, watched, "--sentinel") for _ in range(3)]
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self._sentinels)
        self.url = f"sentinel://:{SECRET.replace('@', '%40')}@{hosts}/0?master_name=queue"
        self._master = master.port
        wait_until(self.has_replica, TILT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for program in (*self._sentinels, *self._servers):
            program.stop()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The current master, or the last one that could be reached."""
        with suppress(redis.RedisError), redis_client.connect(self.url, 1) as client:
            self._master = int(client.config_get("port")["port"])
        return next(server.process for server in self._servers if server.port == self._master)

    @property
    def alive(self) -> bool:
        return all(program.process.poll() is None for program in self._servers)

    def start(self) -> None:
        """Start the server that has ended: it becomes a replica, unless it is the master still."""
        for program in self._servers:
            if program.process.poll() is not None:
                program.start()

    def has_replica(self) -> bool:
        """Return whether the replica has what the master has, so that the master can be killed."""
        return all(is_complete(sentinel.port) for sentinel in self._sentinels)


def is_complete(port: int) -> bool:
    """Return whether a Sentinel can promote: it has found the replica and the other two."""
    try:
        with redis.Redis(port=port, socket_timeout=1) as client:
            master = client.sentinel_master("queue")  # type: ignore[no-untyped-call] # redis has types in parts
            replicas = client.sentinel_slaves("queue")  # type: ignore[no-untyped-call]
    except redis.RedisError:
        return False
    up = [replica for replica in replicas if replica["master-link-status"] == "ok"]
    return len(up) == 1 and master["num-other-sentinels"] == 2
