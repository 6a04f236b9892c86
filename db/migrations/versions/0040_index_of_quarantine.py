"""Create the index by which the list of files in quarantine reads its page only."""

from db.migrations.concurrently import create_indexes, drop_indexes

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None

INDEXES = {"quarantine_received": "quarantine (received_at DESC, id)"}


def upgrade() -> None:
    create_indexes(INDEXES)


def downgrade() -> None:
    drop_indexes(*INDEXES)
