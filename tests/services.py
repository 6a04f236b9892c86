"""A real PostgreSQL and a real Redis for any test that asks: fixtures, loaded by tests/conftest.py.

`database_url` is a migrated database of the test's own; `broker_url` is an empty Redis.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import psycopg
import pytest
import redis

from db.errors import ConfigurationError
from db.migrations.upgrade import migrate
from db.session import engine
from deploy.embedded.postgres import Postgres
from deploy.embedded.redis import Redis
from tests.databases import Databases, database_named
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


@pytest.fixture(scope="session")
def databases(postgres: Postgres, migrated_template: str) -> Databases:
    """The databases of all tests."""
    return Databases(postgres, migrated_template)


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """A database of the test's own, migrated and empty."""
    with databases.lend() as url:
        yield url


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


def execute(server: Postgres, statement: str) -> None:
    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(statement.encode())
