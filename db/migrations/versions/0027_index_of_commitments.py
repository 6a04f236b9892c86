"""Create the index by which `prelim trace` finds the storage commitment of a study."""

from db.migrations.concurrently import create_indexes, drop_indexes

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

INDEXES = {"commitments_received": "commitments (received_at)"}


def upgrade() -> None:
    create_indexes(INDEXES)


def downgrade() -> None:
    drop_indexes(*INDEXES)
