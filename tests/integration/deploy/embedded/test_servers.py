from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis

from deploy.embedded import accounts
from deploy.embedded import postgres as postgres_module
from deploy.embedded.postgres import Postgres
from deploy.embedded.redis import Redis
from deploy.embedded.server_process import Server, ServerError
from tests.polling import runs, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[4]
ROWS = 5000


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Server that these tests may kill."""
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Redis]:
    with Redis(tmp_path / "redis") as server:
        yield server


def connect(server: Postgres) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True)


def pid(server: Server) -> int:
    assert server.process is not None
    return server.process.pid


def kill(server: Server) -> None:
    os.kill(pid(server), signal.SIGKILL)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO rows VALUES (%s, -1)",  # a constraint: the row is in the DETAIL
        "INSERT INTO rows VALUES ('a', %s)",  # invalid input: the value is in the message
        "INSERT INTO rows VALUES (%s, 1), ('a', 1 / 0)",
        "INSERT INTO missing VALUES (%s)",
    ],
)
def test_postgres_logs_no_row_of_a_failed_statement(own_postgres: Postgres, statement: str) -> None:
    with connect(own_postgres) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS rows (name text PRIMARY KEY, size int CHECK (size > 0))")
        with pytest.raises(psycopg.Error):
            psycopg.ClientCursor(connection).execute(statement, ["DOE^JANE"])

    logged = own_postgres.log_path.read_text()
    assert "ready to accept connections" in logged
    assert "DOE" not in logged
    assert "INSERT" not in logged


def test_postgres_rejects_a_wrong_password(own_postgres: Postgres) -> None:
    url = own_postgres.url.replace("+psycopg", "").replace(own_postgres.password, "wrong")

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)


def test_redis_rejects_a_wrong_password(own_redis: Redis) -> None:
    with (
        redis.Redis.from_url(own_redis.url.replace(own_redis.password, "wrong")) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_passwords_are_private_files_and_on_no_command_line(own_postgres: Postgres, own_redis: Redis) -> None:
    for server in (own_postgres, own_redis):
        command_line = Path(f"/proc/{pid(server)}/cmdline").read_bytes()
        environment = Path(f"/proc/{pid(server)}/environ").read_bytes()

        assert server.directory.stat().st_mode & 0o777 == 0o700
        assert (server.directory / "password").stat().st_mode & 0o777 == 0o600
        assert server.password.encode() not in command_line + environment


def test_servers_listen_on_loopback_only(own_postgres: Postgres, own_redis: Redis) -> None:
    ports = {own_postgres.port, own_redis.port}
    lines = [line.split() for file in ("tcp", "tcp6") for line in Path("/proc/net", file).read_text().splitlines()[1:]]
    listening = [fields[1].split(":") for fields in lines if fields[3] == "0A"]

    addresses = {(address, int(port, 16)) for address, port in listening if int(port, 16) in ports}

    assert addresses == {("0100007F", port) for port in ports}  # 127.0.0.1, little-endian


def test_postgres_keeps_committed_rows_after_its_postmaster_is_killed(own_postgres: Postgres) -> None:
    with connect(own_postgres) as connection:
        connection.execute("CREATE TABLE kept (n int)")
        for n in range(ROWS):
            connection.execute("INSERT INTO kept VALUES (%s)", [n])
        kill(own_postgres)

    own_postgres.start()

    with connect(own_postgres) as connection:
        row = connection.execute("SELECT count(DISTINCT n) FROM kept").fetchone()
    assert row == (ROWS,)


def test_postgres_restarts_ten_times_with_clients_connected(own_postgres: Postgres) -> None:
    for _ in range(10):
        with connect(own_postgres) as connection:
            connection.execute("SELECT 1")
            kill(own_postgres)
            own_postgres.start()

    with connect(own_postgres) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("major", ["17", "19"])
def test_cluster_of_another_major_version_is_refused_and_stays_as_it_is(tmp_path: Path, major: str) -> None:
    cluster = tmp_path / "postgres" / "cluster"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text(f"{major}\n")
    (cluster / "base").write_bytes(b"rows")
    before = {path: path.stat().st_mtime_ns for path in cluster.iterdir()}

    with (
        pytest.raises(ServerError, match=f"PostgreSQL {major}.*PostgreSQL 18.*nothing was changed.*prelim backup"),
        Postgres(tmp_path / "postgres"),
    ):
        pass
    assert {path: path.stat().st_mtime_ns for path in cluster.iterdir()} == before


def test_postgres_folds_unicode_case_and_sorts_by_code_point(own_postgres: Postgres) -> None:
    with connect(own_postgres) as connection:
        assert connection.execute("SELECT 'ÉTIENNE' ILIKE 'étienne', 'Z' < 'a', 'z' < 'é'").fetchone() == (True,) * 3


def test_redis_keeps_its_data_after_a_kill(own_redis: Redis) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.rpush("queue", *range(ROWS))
    kill(own_redis)

    own_redis.start()

    with redis.Redis.from_url(own_redis.url) as client:
        assert client.llen("queue") == ROWS


def test_redis_rejects_writes_when_full_instead_of_evicting(own_redis: Redis) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_stopped_server_leaves_no_process_and_restarts_on_its_port(tmp_path: Path) -> None:
    server = Postgres(tmp_path)
    server.start()
    members = family(pid(server))
    port = server.port

    server.stop()

    assert len(members) > 1
    assert not any(map(runs, members))
    with server:
        assert server.port == port


def test_two_instances_run_side_by_side(own_postgres: Postgres, tmp_path: Path) -> None:
    with Postgres(tmp_path) as second, connect(own_postgres) as here, connect(second) as there:
        here.execute("CREATE TABLE mine ()")

        assert there.execute("SELECT to_regclass('mine')").fetchone() == (None,)


def test_error_names_a_port_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.embedded.server_process.START_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Redis(tmp_path, taken.getsockname()[1])

        with pytest.raises(ServerError, match="Address already in use"):
            server.start()

    assert server.process is None


def test_interrupted_first_start_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "cluster.new" / "base").mkdir(parents=True)

    with Postgres(tmp_path) as server, connect(server) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)

    assert not (tmp_path / "cluster.new").exists()


ORPHANS = """
import sys, time
from pathlib import Path
from deploy.embedded.postgres import Postgres
from deploy.embedded.redis import Redis
servers = [Postgres(Path(sys.argv[1], "postgres")), Redis(Path(sys.argv[1], "redis"))]
for server in servers:
    server.start()
print("pids", *(server.process.pid for server in servers), flush=True)
time.sleep(100)
"""


def test_servers_end_with_a_killed_parent_and_their_data_stays_usable(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, tmp_path], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout
    with parent.stdout:
        lines = (line.split() for line in parent.stdout)
        pids = next(words[1:] for words in lines if words[:1] == [b"pids"])
        parent.kill()
        parent.wait()

    with Postgres(tmp_path / "postgres"), Redis(tmp_path / "redis"):
        pass

    wait_until(lambda: not any(runs(int(word)) for word in pids))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop to another user")
class TestAsRoot:
    def test_servers_run_as_an_ordinary_user_below_a_closed_directory(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)

        with Postgres(closed / "postgres") as postgres, Redis(closed / "redis") as redis_server:
            owners = [Path(f"/proc/{pid(server)}").stat().st_uid for server in (postgres, redis_server)]

        assert 0 not in owners
        assert closed.stat().st_mode & 0o777 == 0o700

    def test_inaccessible_programs_are_copied_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        wheel = closed_copy_of_the_wheel(tmp_path / "closed")
        cache = Path("/var/tmp", f"prelim-test-{os.getpid()}")
        monkeypatch.setattr(postgres_module, "wheel_directory", lambda: wheel)
        monkeypatch.setattr(accounts, "PROGRAM_CACHE", cache)
        try:
            with Postgres(tmp_path / "data") as server:
                program = Path(f"/proc/{pid(server)}/exe").readlink()

            assert program.is_relative_to(cache)
            assert len(list(cache.iterdir())) == 1
            assert (tmp_path / "closed").stat().st_mode & 0o777 == 0o700
        finally:
            shutil.rmtree(cache, ignore_errors=True)


def closed_copy_of_the_wheel(directory: Path) -> Path:
    directory.mkdir(mode=0o700)
    for part in (postgres_module.PROGRAMS, f"{postgres_module.WHEEL}.libs"):
        shutil.copytree(postgres_module.wheel_directory() / part, directory / part)
    return directory


def family(parent: int) -> list[int]:
    """*parent* and its children; PostgreSQL's each lead a session of their own."""
    members = [parent]
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == str(parent):
            members.append(int(entry.name))
    return members


AS_NOBODY = """
import sys
from pathlib import Path
import psycopg
from deploy.embedded.postgres import Postgres
with Postgres(Path(sys.argv[1])) as server:
    owner = Path(f"/proc/{server.process.pid}").stat().st_uid
    with psycopg.connect(server.url.replace("+psycopg", "")) as connection:
        print("answer", owner, *connection.execute("SELECT 42").fetchone())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a test as another user")
def test_postgres_runs_as_the_ordinary_user_who_starts_it() -> None:
    python = public_python()
    nobody = pwd.getpwnam("nobody")
    folder = Path(tempfile.mkdtemp())  # tmp_path is below a directory of root's
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    packages = f"{REPOSITORY}{os.pathsep}{postgres_module.wheel_directory()}"
    try:
        finished = subprocess.run(
            [python, "-W", "error", "-c", AS_NOBODY, folder],
            env={"PYTHONPATH": packages, "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        shutil.rmtree(folder)

    assert f"answer {nobody.pw_uid} 42" in finished.stdout, finished.stderr


def public_python() -> Path:
    """A Python of this version that any user may run, with the packages readable."""
    named = Path("/usr/bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    readable = accounts.is_public(postgres_module.wheel_directory()) and accounts.is_public(REPOSITORY)
    for python in (Path(sys.executable), named):
        if readable and python.exists() and accounts.is_public(python):
            return python
    pytest.skip("Python and its packages lie where only root can read them")
