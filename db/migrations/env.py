"""How alembic reaches the database: one online connection, the URL given by ``db.session.migrate``."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from db.models import Base
from db.session import engine

#: Any constant: two processes that migrate at once must take turns, and this names the turn.
MIGRATION_LOCK = 0x5052454C


def run() -> None:
    """Run the wanted migrations in one transaction, holding the lock until it is committed."""
    with engine(context.config.attributes["url"]).connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata)
        with context.begin_transaction():
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
            context.run_migrations()
        connection.commit()


run()
