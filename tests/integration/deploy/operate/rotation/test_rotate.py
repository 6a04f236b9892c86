"""Passwords of PostgreSQL and Redis change while studies arrive: no connection fails, nothing is lost."""

from __future__ import annotations

import os
import threading
import time
import uuid
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Self

import psycopg
import pytest
import redis
from sqlalchemy import func, make_url, select, text

from api.access import rate_limits
from api.access.rate_limits import RateLimits
from db import environment
from db.jobs import celery_app, claims
from db.models import Instance, Job, Report
from db.session import connect, engine, transaction
from deploy.operate.rotation import rotate
from deploy.operate.rotation.rotate import NotRotated
from dicom_listener import dispatch
from dicom_listener.receive.listener import Listener
from dicom_listener.scu import send
from tests.integration.db.jobs.test_claims import DRAFT
from tests.integration.dicom_listener.listening import node
from tests.polling import wait_until
from worker.phantoms.cases import draw_case
from worker.phantoms.dicom_files import write_study

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from db.models import Base
    from db.settings import Settings
    from deploy.embedded.postgres import Postgres


@pytest.fixture
def secrets(tmp_path: Path, postgres: Postgres, broker_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Secret files of logins of the test's own, whose passwords may change."""
    folder, user = tmp_path / "secrets", f"rotated_{uuid.uuid4().hex}"
    folder.mkdir()
    for name in [name for name in os.environ if name.upper().startswith("PRELIM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PRELIM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PRELIM_DICOM_PORT", "0")
    monkeypatch.setenv("PRELIM_SETTLE_SECONDS", "0.2")
    with transaction(postgres.url) as session:
        session.execute(text(f"CREATE ROLE {user} LOGIN PASSWORD 'first-postgres' IN ROLE prelim"))
        session.execute(text(f"ALTER ROLE {user} SET role = prelim"))
    database = make_url(postgres.url).set(username=user, password="first-postgres")
    broker = make_url(broker_url).set(username=user, password="first-redis")
    with closing(redis.Redis.from_url(broker_url)) as client:
        client.execute_command("ACL", "SETUSER", user, "on", ">first-redis", "~*", "&*", "+@all")
        for name, url in (("database", database), ("broker", broker)):
            (folder / f"prelim_{name}_url").write_text(url.render_as_string(hide_password=False) + "\n")
        yield folder
        engine(database.render_as_string(hide_password=False)).dispose()
        client.execute_command("ACL", "DELUSER", user)
    with transaction(postgres.url) as session:
        session.execute(text(f"DROP OWNED BY {user}"))
        session.execute(text(f"DROP ROLE {user}"))
    engine(postgres.url).dispose()


@pytest.fixture
def settings(secrets: Path) -> Settings:
    return environment.load_settings(secrets)


def change(secrets: Path, server: str) -> None:
    rotate.rotate(server, secrets / f"prelim_{rotate.SECRETS[server]}")


def count(url: str, table: type[Base]) -> int:
    with transaction(url) as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


class Repeated(threading.Thread):
    """A step that is repeated until the end of the block; its first error ends it, and is raised there."""

    def __init__(self, step: Callable[[], object]) -> None:
        super().__init__()
        self._step = step
        self._end = threading.Event()
        self._error: Exception | None = None
        self.passes = 0

    def run(self) -> None:
        while not self._end.is_set():
            try:
                self._step()
            except Exception as error:  # noqa: BLE001 - raised by the block
                self._error = error
                return
            self.passes += 1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()
        if self._error is not None:
            raise self._error


def test_new_connections_never_fail_while_the_password_of_postgres_changes(secrets: Path, settings: Settings) -> None:
    first = settings.database()

    def log_in() -> None:
        with closing(connect(first)) as connection:
            connection.execute("SELECT 1")

    with Repeated(log_in) as logins:
        for _ in range(3):
            change(secrets, "postgres")
            seen = logins.passes
            while logins.passes < seen + 3 and logins.is_alive():
                time.sleep(0.01)

    assert (secrets / "prelim_database_url").read_text().count("\n") == 1
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(first.replace("postgresql+psycopg:", "postgresql:"))
    assert environment.load_settings(secrets).database() != first


@pytest.mark.parametrize("server", ["postgres", "redis"])
def test_interrupted_rotation_disturbs_nothing_and_is_completed(
    server: str, secrets: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def works() -> bool:
        if server == "postgres":
            connect(settings.database()).close()
            return True
        app = celery_app.make_app(settings.broker())
        return celery_app.send(app, uuid.uuid4())

    file = secrets / f"prelim_{rotate.SECRETS[server]}"
    for step in range(5):
        before = file.read_text()
        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            interrupt(patched, step)
            change(secrets, server)
        assert works(), step
        change(secrets, server)

        assert works(), step
        assert file.read_text().count("\n") == 1
        assert file.read_text() != before


def interrupt(patched: pytest.MonkeyPatch, step: int) -> None:
    """Interrupt a rotation at its step of this number: a write to a file, or a command to a server."""
    steps = iter(range(100))

    def interrupted(original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            if next(steps) >= step:
                raise KeyboardInterrupt
            return original(*arguments, **more)

        return call

    patched.setattr(rotate, "write", interrupted(rotate.write))
    patched.setattr(rotate, "_alter_role", interrupted(rotate._alter_role))
    patched.setattr(redis.Redis, "execute_command", interrupted(redis.Redis.execute_command))


def test_clients_of_redis_use_the_new_password_when_they_connect_again(
    secrets: Path, settings: Settings, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A delay of 0.2 s by a busy machine would suspend the limits, too.
    monkeypatch.setattr(rate_limits, "TIMEOUT_SECONDS", 10.0)
    app, limits = celery_app.make_app(settings.broker()), RateLimits(settings)
    assert celery_app.send(app, uuid.uuid4())
    limits.count_failed_login("::1")
    change(secrets, "redis")
    assert celery_app.send(app, uuid.uuid4()), "the connection stays"
    user = str(make_url(settings.broker()).username)
    with closing(redis.Redis.from_url(broker_url)) as client:
        client.execute_command("CLIENT", "KILL", "USER", user)
        celery_app.send(app, uuid.uuid4())
        assert celery_app.probe(app) or celery_app.probe(app), "at the second attempt at most"
        limits.count_failed_login("::1")
        assert limits._limiter is None, "suspended for a moment"
        limits._paused_until = 0.0
        limits.count_failed_login("::1")

    assert limits._limiter is not None
    with pytest.raises(redis.AuthenticationError), closing(redis.Redis.from_url(settings.broker())) as old:
        old.ping()


def test_files_that_the_servers_read_are_rewritten_with_their_modes(secrets: Path, settings: Settings) -> None:
    del settings
    (secrets / "redis_conf").write_text("maxclients 100\nrequirepass first-redis\n")
    (secrets / "postgres_password").write_text("first-postgres\n")
    (secrets / "postgres_password").chmod(0o644)
    inode = (secrets / "prelim_database_url").stat().st_ino
    change(secrets, "redis")
    change(secrets, "postgres")

    broker = make_url((secrets / "prelim_broker_url").read_text().strip())
    database = make_url((secrets / "prelim_database_url").read_text().strip())
    assert (secrets / "redis_conf").read_text() == f"maxclients 100\nrequirepass {broker.password}\n"
    assert (secrets / "postgres_password").read_text() == f"{database.password}\n"
    assert (secrets / "postgres_password").stat().st_mode & 0o777 == 0o644
    assert (secrets / "prelim_database_url").stat().st_ino == inode, "a container may mount this file alone"


def test_what_cannot_be_rotated_is_named_without_a_password(secrets: Path) -> None:
    file = secrets / "prelim_broker_url"
    file.write_text("sentinel://:secret@127.0.0.1:1/0?master_name=prelim")
    with pytest.raises(NotRotated, match="behind Sentinel"):
        rotate.rotate("redis", file)
    file.write_text("redis://127.0.0.1:1/0")
    with pytest.raises(NotRotated, match="has no password"):
        rotate.rotate("redis", file)
    file.write_text("redis://:secret@127.0.0.1:1/0")
    with pytest.raises(NotRotated) as refused:
        rotate.rotate("redis", file)
    assert "secret" not in str(refused.value)
    (secrets / "prelim_database_url").write_text("nonsense")
    with pytest.raises(NotRotated, match="no URL"):
        rotate.rotate("postgres", secrets / "prelim_database_url")


def work(url: str) -> None:
    """Claim a job and store its report, if one waits."""
    with transaction(url) as session:
        claim = claims.claim_next(session, owner="test", lease_seconds=30)
    if claim is None:
        time.sleep(0.02)
        return
    with transaction(url) as session:
        claims.finish(session, claim, DRAFT)


def deliver(settings: Settings, app: celery_app.App, failed: list[str]) -> None:
    """Make a pass of the dispatcher, and close its connection to Redis: the next pass logs in again."""
    dispatch.run_once(settings, app)
    if app.outage.on:
        failed.append("an announcement failed")
    with app.pool.acquire(block=True) as connection:
        connection.default_channel.client.connection_pool.disconnect()
    time.sleep(0.02)


def renew(url: str) -> None:
    """Replace a connection to PostgreSQL."""
    with engine(url).connect() as connection:
        connection.invalidate()
    time.sleep(0.02)


def sent(number: int, folder: Path, listener: Listener) -> int:
    """Send a study; return the number of acknowledged objects."""
    import numpy as np

    folder.mkdir()
    files = write_study(draw_case(np.random.default_rng(number), "chest"), folder, patient=number, small=True)
    return sum(result.stored for result in send.send_files(files, node(listener)))


@pytest.mark.slow
def test_studies_arrive_and_are_reported_while_all_passwords_change(
    secrets: Path, database_url: str, tmp_path: Path
) -> None:
    file = secrets / "prelim_database_url"
    migrated = make_url(file.read_text().strip()).set(database=make_url(database_url).database)
    file.write_text(migrated.render_as_string(hide_password=False))
    settings = environment.load_settings(secrets)
    url, studies, failed = settings.database(), 40, list[str]()
    dispatcher = partial(deliver, settings, celery_app.make_app(settings.broker()), failed)
    workers = [Repeated(partial(work, url)) for _ in range(2)]

    with Listener(settings) as listener, Repeated(dispatcher), workers[0], workers[1], Repeated(partial(renew, url)):
        acknowledged = 0
        for number in range(studies):
            acknowledged += sent(number, tmp_path / str(number), listener)
            if number % 4 == 3:
                change(secrets, ("postgres", "redis")[number // 4 % 2])
        wait_until(lambda: count(url, Report) == studies, seconds=60)
    assert count(url, Instance) == acknowledged >= studies
    with transaction(url) as session:
        assert set(map(tuple, session.execute(select(Job.state, Job.attempt)))) == {("finished", 1)}
    assert failed == []
    engine(url).dispose()
