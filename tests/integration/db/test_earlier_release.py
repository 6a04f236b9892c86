"""The newest schema serves the processes of the release before, so that an upgrade need not stop them.

`.ci/earlier` runs the tests of an earlier release on the newest schema; here is what can be read from the schema.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text

from db.errors import ConfigurationError
from db.migrations import compatibility
from db.migrations.upgrade import alembic_config, migrate
from db.session import engine, reading, transaction
from tests.services import database_named, execute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.embedded.postgres import Postgres

COLUMNS = text("""
    SELECT table_name || '.' || column_name AS name, udt_name AS type, is_nullable = 'YES' AS empty,
           column_default IS NOT NULL OR is_identity = 'YES' OR is_generated = 'ALWAYS' AS has_default
    FROM information_schema.columns
    WHERE table_schema = 'public'
""")
# CHECK, FOREIGN KEY and the like, and what ON CONFLICT infers. Names are not compared: no statement has them.
RULES = text("""
    SELECT conrelid::regclass || ': ' || pg_get_constraintdef(oid)
    FROM pg_constraint WHERE contype IN ('c', 'f', 'x') AND connamespace = 'public'::regnamespace
    UNION
    SELECT regexp_replace(indexdef, 'INDEX [^ ]+ ON public.([^ ]+)', 'INDEX ON \\1')
    FROM pg_indexes WHERE schemaname = 'public' AND indexdef LIKE 'CREATE UNIQUE %'
""")
Schema = tuple[dict[str, tuple[str, bool, bool]], set[str]]


def schema_of(url: str) -> Schema:
    """Columns with type, whether NULL is allowed and whether there is a default; constraints and unique indexes."""
    with reading(url) as session:
        columns = {name: (kind, empty, default) for name, kind, empty, default in session.execute(COLUMNS)}
        return columns, set(session.scalars(RULES))


def table_of(rule: str) -> str:
    return rule.removeprefix("CREATE UNIQUE INDEX ON ").split(":")[0].split(" ")[0]


def breaks(before: Schema, after: Schema) -> list[str]:
    """What a statement made for *before* would meet in *after*."""
    columns, rules = before
    tables = {name.split(".")[0] for name in columns}
    found = [f"{name} is gone" for name in columns if name not in after[0]]
    for name, (kind, empty, default) in after[0].items():
        if name in columns and (kind, True) != (columns[name][0], empty or not columns[name][1]):
            found.append(f"{name} is another type, or needs a value")
        if name not in columns and name.split(".")[0] in tables and not empty and not default:
            found.append(f"{name} is new and needs a value")
        if name in columns and columns[name][2] and not default:
            found.append(f"{name} has lost its default")
    found += [f"new: {rule}" for rule in after[1] - rules if table_of(rule) in tables]
    return found + [f"gone: {rule}" for rule in rules - after[1] if rule.startswith("CREATE UNIQUE")]


@pytest.fixture
def earlier_url(postgres: Postgres) -> Iterator[str]:
    """A database of the oldest schema whose processes are promised to run on the newest."""
    execute(postgres, "CREATE DATABASE earlier")
    url = database_named(postgres, "earlier")
    migrate(url, compatibility.OLDEST)
    yield url
    engine(url).dispose()
    execute(postgres, "DROP DATABASE earlier WITH (FORCE)")


def test_statements_of_the_release_before_work_on_the_newest_schema(earlier_url: str) -> None:
    before = schema_of(earlier_url)
    migrate(earlier_url)

    assert len(before[0]) > 200
    assert len(before[1]) > 20
    assert breaks(before, schema_of(earlier_url)) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("ALTER TABLE jobs DROP COLUMN owner", "jobs.owner is gone"),
        ("ALTER TABLE jobs RENAME COLUMN owner TO holder", "jobs.owner is gone"),
        ("ALTER TABLE jobs ALTER COLUMN attempt TYPE bigint", "jobs.attempt is another type, or needs a value"),
        ("ALTER TABLE jobs ALTER COLUMN owner SET NOT NULL", "jobs.owner is another type, or needs a value"),
        ("ALTER TABLE jobs ADD COLUMN shift text NOT NULL", "jobs.shift is new and needs a value"),
        ("ALTER TABLE jobs ALTER COLUMN kind DROP DEFAULT", "jobs.kind has lost its default"),
        ("ALTER TABLE jobs ADD CHECK (attempt < 9)", "new: jobs: CHECK ((attempt < 9))"),
        ("CREATE UNIQUE INDEX ON jobs (owner)", "new: CREATE UNIQUE INDEX ON jobs USING btree (owner)"),
        ("DROP TABLE canaries", "canaries.problem is gone"),
        ("CREATE TABLE shifts (name text NOT NULL UNIQUE)", None),
        ("ALTER TABLE jobs ADD COLUMN shift text", None),
        ("ALTER TABLE jobs ADD COLUMN shift text NOT NULL DEFAULT ''", None),
        ("CREATE INDEX ON jobs (owner)", None),
    ],
)
def test_change_that_breaks_statements_of_the_release_before_is_found(
    database_url: str, change: str, found: str | None
) -> None:
    before = schema_of(database_url)
    with transaction(database_url) as session:
        session.execute(text(change))

    after = breaks(before, schema_of(database_url))

    assert found in after if found else after == []


def later(url: str, comment: str) -> None:
    """Give the schema a later revision, which carries *comment*."""
    with transaction(url) as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        session.execute(text(f"COMMENT ON TABLE alembic_version IS '{comment}'"))


def test_release_runs_on_a_later_schema_that_names_one_of_its_revisions(database_url: str) -> None:
    head = ScriptDirectory.from_config(alembic_config(database_url)).get_current_head()
    later(database_url, f"oldest revision whose processes run on this schema: {head}")

    migrate(database_url)

    with transaction(database_url) as session:
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == "9999"


@pytest.mark.parametrize("comment", ["oldest revision whose processes run on this schema: 9998", "", "0047"])
def test_release_is_refused_by_a_later_schema_that_names_none_of_its_revisions(database_url: str, comment: str) -> None:
    later(database_url, comment)

    with pytest.raises(ConfigurationError, match="revision 9999, newer than this version.*install the version"):
        migrate(database_url)


def test_schema_names_the_oldest_revision_whose_processes_run(database_url: str) -> None:
    with engine(database_url).connect() as connection:
        assert compatibility.runs(connection, {compatibility.OLDEST})
        assert not compatibility.runs(connection, {"0001"})
