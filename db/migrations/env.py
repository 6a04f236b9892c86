"""Alembic environment: one connection to the URL given by ``db.migrations.upgrade``."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from alembic import context
from sqlalchemy import text

from db.limits import SESSION_LIMIT, SessionLimits
from db.models import Base
from db.session import engine

if TYPE_CHECKING:
    from sqlalchemy import Connection

#: Key of the advisory lock that serialises concurrent migrations; any constant.
MIGRATION_LOCK = 0x5052454C
POLL_SECONDS = 0.2
#: It waits only briefly for a lock, because every query of the table waits behind it, for less time than those wait. A
#: statement may take as long as its table needs, but a process that is suspended between two keeps no lock.
LIMITS = SessionLimits(statement=0, lock=2, idle=9)


def run() -> None:
    """Run each migration in its own transaction, while this session holds the lock."""
    migrating = engine(context.config.attributes["url"], LIMITS)
    with contextlib.ExitStack() as stack:
        # Closing the session releases the lock.
        stack.callback(migrating.dispose)
        connection = stack.enter_context(migrating.connect())
        _lock(connection)
        context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()


def _lock(connection: Connection) -> None:
    """Wait for the lock in short transactions: a CREATE INDEX CONCURRENTLY would wait for the end of a long one.

    The session that holds it ends if its process is suspended: another one then continues.
    """
    connection.execute(text(SESSION_LIMIT))
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": MIGRATION_LOCK}):
        connection.rollback()
        time.sleep(POLL_SECONDS)
    connection.commit()


run()
