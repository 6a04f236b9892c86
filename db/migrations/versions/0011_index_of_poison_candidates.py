"""Create the index by which a worker sees whether a poison candidate waits or runs."""

from db.migrations.concurrently import create_indexes, drop_indexes

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

INDEXES = {
    "jobs_poison_candidates": "jobs (state, available_at)"
    " WHERE state IN ('queued', 'running') AND reason IN ('lease_expired', 'no_progress')",
}


def upgrade() -> None:
    create_indexes(INDEXES)


def downgrade() -> None:
    drop_indexes(*INDEXES)
