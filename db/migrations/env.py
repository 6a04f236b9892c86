"""Alembic environment: one connection to the URL given by ``db.migrations.upgrade``."""

from __future__ import annotations

import contextlib

from alembic import context
from sqlalchemy import text

from db.models import Base
from db.session import MIGRATION, engine

#: Key of the advisory lock that serialises concurrent migrations; any constant.
MIGRATION_LOCK = 0x5052454C


def run() -> None:
    """Run the migrations in one transaction, which holds the lock."""
    migrating = engine(context.config.attributes["url"], MIGRATION)
    with contextlib.ExitStack() as stack:
        stack.callback(migrating.dispose)
        connection = stack.enter_context(migrating.connect())
        context.configure(connection=connection, target_metadata=Base.metadata)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            context.run_migrations()
        connection.commit()


run()
