"""A real PostgreSQL and a real Redis for any test that asks: fixtures, loaded by tests/conftest.py.

`database_url` is a migrated database of the test's own; `broker_url` is an empty Redis.
"""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import psycopg
import pytest
import redis
from sqlalchemy import make_url

from db.errors import ConfigurationError
from db.migrations.upgrade import migrate
from db.session import engine
from deploy.embedded.postgres import Postgres
from deploy.embedded.redis import Redis
from tests.object_storage import FakeStorage, fake_storage

if TYPE_CHECKING:
    from collections.abc import Iterator

S = TypeVar("S", Postgres, Redis)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """The server all tests share."""
    with running(Postgres(tmp_path_factory.mktemp("postgres"))) as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres: Postgres) -> str:
    """The name of a database with our schema, to copy from: faster than migrating for each test."""
    name = "migrated"
    execute(postgres, f"CREATE DATABASE {name}")
    url = database_named(postgres, name)
    migrate(url)
    engine(url).dispose()
    return name


@pytest.fixture
def database_url(postgres: Postgres, migrated_template: str) -> Iterator[str]:
    """A database of the test's own, migrated and empty."""
    name = f"test_{uuid.uuid4().hex}"
    execute(postgres, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    url = database_named(postgres, name)
    yield url
    engine(url).dispose()
    execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """The Redis all tests share."""
    with running(Redis(tmp_path_factory.mktemp("redis"))) as server:
        yield server


@pytest.fixture
def broker_url(redis_server: Redis) -> str:
    """A Redis that holds nothing."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def object_storage() -> Iterator[FakeStorage]:
    """An S3 service of the test's own, with faults."""
    with fake_storage() as server:
        yield server


@contextmanager
def running(server: S) -> Iterator[S]:
    try:
        server.start()
    except ConfigurationError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))
    try:
        yield server
    finally:
        server.stop()


def database_named(server: Postgres, name: str) -> str:
    return make_url(server.url).set(database=name).render_as_string(hide_password=False)


def execute(server: Postgres, statement: str) -> None:
    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(statement.encode())
