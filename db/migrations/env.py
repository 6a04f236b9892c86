"""Alembic environment: one connection to the URL given by ``db.session.alembic_config``."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from db.models import Base
from db.session import engine

#: Key of the advisory lock that serialises concurrent migrations; any constant.
MIGRATION_LOCK = 0x5052454C


def run() -> None:
    """Run the migrations in one transaction, which holds the lock."""
    with engine(context.config.attributes["url"]).connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            context.run_migrations()
        connection.commit()


run()
