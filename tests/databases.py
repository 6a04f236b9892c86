"""Databases for tests, each with a name of its own: copied from one template, and emptied for a later test.

To empty one takes a tenth of the time of a copy. A test that has changed more than rows leaves nothing behind: its
database is dropped.
"""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from sqlalchemy import make_url

from db.session import engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.embedded.postgres import Postgres

Connection = psycopg.Connection[Any]

#: Deleted rows stay in the pages of a table. The planner takes a new table to have this number of pages.
MAX_PAGES = 10
MAX_USES = 30
#: Each catalog that a test can change, and which of its rows: objects of the server itself have lower ids.
OBJECTS = {
    "pg_attribute": "attrelid >= 16384",
    "pg_class": "oid >= 16384",
    "pg_constraint": "oid >= 16384",
    "pg_database": "datname = current_database()",
    "pg_db_role_setting": "setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())",
    "pg_default_acl": "true",
    "pg_description": "objoid >= 16384",
    "pg_event_trigger": "true",
    "pg_extension": "true",
    "pg_index": "indexrelid >= 16384",
    "pg_largeobject_metadata": "true",
    "pg_namespace": "nspname !~ '^pg_'",
    "pg_proc": "oid >= 16384",
    "pg_publication": "true",
    "pg_rewrite": "oid >= 16384",
    "pg_sequence": "true",
    "pg_shdescription": "true",
    "pg_trigger": "true",
    "pg_type": "oid >= 16384",
}
#: A row that was written again is another version. Renaming the database writes its row, ANALYZE and VACUUM none.
VERSIONS = {
    "pg_class": "concat(ctid, xmin, relpages, reltuples)",
    "pg_database": "concat(datdba, datacl, datconnlimit, datallowconn)",
    "pg_description": "concat(objoid, description)",
}
STATE = " UNION ALL ".join(
    f"SELECT '{catalog}', count(*), sum(hashtextextended({VERSIONS.get(catalog, 'concat(ctid, xmin)')}, 0))"
    f" FROM {catalog} WHERE {condition}"
    for catalog, condition in OBJECTS.items()
)
TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
PAGES = """
    SELECT max(pg_relation_size(oid)) / current_setting('block_size')::int FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""
RESTART = "SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S' AND oid >= 16384"
DISCONNECT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"


def database_named(server: Postgres, name: str) -> str:
    return make_url(server.url).set(database=name).render_as_string(hide_password=False)


@dataclass
class Database:
    """One database and the state in which it was made."""

    name: str
    state: list[tuple[Any, ...]]
    #: The rows of each table that a migration has filled.
    rows: dict[str, bytes]
    uses: int = 0


@dataclass
class Databases:
    """Databases of one server with the schema of *template*."""

    server: Postgres
    template: str
    _free: list[Database] = field(default_factory=list)

    @contextmanager
    def lend(self) -> Iterator[str]:
        """Give the URL of a migrated and empty database; at the end its clients are disconnected and it is gone."""
        database = self._free.pop() if self._free else self._copy()
        url = database_named(self.server, database.name)
        yield url
        engine(url).dispose()
        with self._connect() as server:
            self._withdraw(server, database)
            if self._is_empty_again(database):
                self._free.append(database)
            else:
                _execute(server, "DROP DATABASE {} WITH (FORCE)", database.name)

    def _connect(self, name: str = "prelim") -> Connection:
        url = database_named(self.server, name).replace("+psycopg", "")
        return psycopg.connect(url, autocommit=True)

    def _copy(self) -> Database:
        name = _new_name()
        with self._connect() as server:
            _execute(server, "CREATE DATABASE {} TEMPLATE {}", name, self.template)
        with self._connect(name) as connection:
            rows = {table: _content(connection, table) for table in _filled(connection)}
            return Database(name, connection.execute(STATE.encode()).fetchall(), rows)

    def _withdraw(self, server: Connection, database: Database) -> None:
        """Give it another name, so that a thread or a process that a test has left cannot connect to it again."""
        name = _new_name()
        while True:
            _disconnect(server, database.name)
            try:
                _execute(server, "ALTER DATABASE {} RENAME TO {}", database.name, name)
            except psycopg.errors.ObjectInUse:
                continue
            database.name = name
            return

    def _is_empty_again(self, database: Database) -> bool:
        database.uses += 1
        if database.uses >= MAX_USES:
            return False
        with self._connect(database.name) as connection:
            return _empty(connection, database)


def _empty(connection: Connection, database: Database) -> bool:
    """Bring the rows into the state in which it was made; return False if that is not all that has changed."""
    if connection.execute(STATE.encode()).fetchall() != database.state:
        return False
    (pages,) = connection.execute(PAGES).fetchone() or (0,)
    if pages > MAX_PAGES:
        return False
    # Neither triggers nor foreign keys.
    connection.execute("SET session_replication_role = replica")
    for table in _filled(connection) - database.rows.keys():
        _execute(connection, "DELETE FROM {}", table)
    for table, rows in database.rows.items():
        _restore(connection, table, rows)
    connection.execute(RESTART)
    return True


def _filled(connection: Connection) -> set[str]:
    """Return the tables that have rows."""
    tables = [name for (name,) in connection.execute(TABLES)]
    filled = [sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM {})").format(name, sql.Identifier(name)) for name in tables]
    return {name for (name,) in connection.execute(sql.SQL(" UNION ALL ").join(filled))}


def _restore(connection: Connection, table: str, rows: bytes) -> None:
    if _content(connection, table) == rows:
        return
    _execute(connection, "DELETE FROM {}", table)
    with connection.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))) as copy:
        copy.write(rows)


def _content(connection: Connection, table: str) -> bytes:
    with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as copy:
        return b"".join(copy)


def _disconnect(server: Connection, name: str) -> None:
    while server.execute(DISCONNECT.encode(), [name]).rowcount:
        time.sleep(0.002)


def _execute(connection: Connection, statement: str, *names: str) -> None:
    connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _new_name() -> str:
    return f"test_{uuid.uuid4().hex}"
