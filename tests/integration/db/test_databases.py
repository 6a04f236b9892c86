"""Each test has a database as the migrations make it, though another test had it before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import text

from db.session import transaction
from tests.databases import MAX_USES, Databases
from tests.integration.db.conftest import Arrivals

if TYPE_CHECKING:
    from deploy.embedded.postgres import Postgres

OID = "SELECT oid FROM pg_database WHERE datname = current_database()"
CONTENT = (
    "SELECT (SELECT count(*) FROM studies), (SELECT secret FROM cursor_secret), (SELECT count(*) FROM totals_until)"
)
#: For each kind of change that would remain: one.
STATEMENTS = (
    "CREATE TABLE more (id int)",
    "DROP INDEX page_sessions_expiry",
    "CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER TABLE reports DISABLE TRIGGER reports_immutable",
    "ALTER TABLE studies ALTER state SET DEFAULT 'settled'",
    "COMMENT ON TABLE alembic_version IS 'more'",
    "ALTER DATABASE {} SET synchronous_commit = off",
    "ALTER DATABASE {} CONNECTION LIMIT 7",
    "GRANT CREATE ON SCHEMA public TO PUBLIC",
    "ANALYZE studies",
    "INSERT INTO canaries (study_instance_uid) SELECT n::text FROM generate_series(1, 3000) AS n; DELETE FROM canaries",
)


@pytest.fixture
def databases(postgres: Postgres, migrated_template: str) -> Databases:
    return Databases(postgres, migrated_template)


def asked(url: str, statement: str) -> object:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        return connection.execute(statement.encode()).fetchone()


def test_rows_and_numbers_of_a_test_are_gone_in_the_next(databases: Databases) -> None:
    seen = []
    for _ in range(2):
        with databases.lend() as url:
            Arrivals(url).running_job()
            seen.append((asked(url, OID), asked(url, CONTENT), asked(url, "SELECT min(id) FROM study_events")))
            with transaction(url) as session:
                session.execute(text("UPDATE cursor_secret SET secret = 'other'"))
                session.execute(text("DELETE FROM totals_until"))

    assert seen[0] == seen[1]


def test_client_that_a_test_has_left_cannot_reach_the_database_of_the_next(databases: Databases) -> None:
    with databases.lend() as url:
        left = psycopg.connect(url.replace("+psycopg", ""))
    with databases.lend() as other:
        assert other != url
        with pytest.raises(psycopg.OperationalError):
            left.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            asked(url, OID)


@pytest.mark.parametrize("statement", STATEMENTS)
def test_database_with_another_change_than_of_rows_is_dropped(databases: Databases, statement: str) -> None:
    with databases.lend() as url:
        oid = asked(url, OID)
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(statement.format(connection.info.dbname).encode())

    with databases.lend() as url:
        assert asked(url, OID) != oid


def test_database_is_dropped_after_many_tests(databases: Databases) -> None:
    oids = set()
    for _ in range(MAX_USES + 1):
        with databases.lend() as url:
            oids.add(asked(url, OID))

    assert len(oids) == 2
