"""Create the index by which a worker sees whether a poison candidate waits."""

from db.migrations.concurrently import create_indexes, drop_indexes

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

INDEXES = {
    "jobs_poison_candidates": "jobs (available_at)"
    " WHERE state = 'queued' AND reason IN ('lease_expired', 'no_progress')",
}


def upgrade() -> None:
    create_indexes(INDEXES)


def downgrade() -> None:
    drop_indexes(*INDEXES)
