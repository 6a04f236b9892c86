"""Create and drop indexes without blocking writers; the migration can be repeated after an interruption."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from alembic import op
from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

INVALID = text("SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid)")


def create_indexes(definitions: Mapping[str, str], *, unique: bool = False) -> None:
    """Create each index by name and definition after ON: `{"studies_newest": "studies (first_received_at DESC)"}`."""
    create = "CREATE UNIQUE INDEX" if unique else "CREATE INDEX"
    with _without_transaction():
        for name, definition in definitions.items():
            if op.get_bind().scalar(INVALID, {"name": name}):
                # Left by an interrupted run; IF NOT EXISTS would keep it.
                op.execute(f"DROP INDEX CONCURRENTLY {name}")
            op.execute(f"{create} CONCURRENTLY IF NOT EXISTS {name} ON {definition}")


def drop_indexes(*names: str) -> None:
    """Drop the indexes that exist."""
    with _without_transaction():
        for name in names:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


def replace_indexes(definitions: Mapping[str, str]) -> None:
    """Create each index under another name, drop the present one and rename it: no moment is without an index."""
    create_indexes({f"{name}_new": definition for name, definition in definitions.items()})
    drop_indexes(*definitions)
    for name in definitions:
        op.execute(f"ALTER INDEX {name}_new RENAME TO {name}")


@contextmanager
def _without_transaction() -> Iterator[None]:
    with op.get_context().autocommit_block():
        # It waits for older transactions, and nothing waits behind it.
        op.execute("SET lock_timeout = 0")
        yield
        op.execute("RESET lock_timeout")
