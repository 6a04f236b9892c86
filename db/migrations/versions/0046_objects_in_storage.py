"""Note which files are in the object storage, and which are to be moved there or deleted from local disk."""

from alembic import op

from db.migrations.concurrently import create_indexes, drop_indexes

revision = "0046"
down_revision = "0045"
branch_labels = None
depends_on = None

IS_DUE = "instances (storage_due_at) WHERE storage_due_at IS NOT NULL AND object_sha256"
INDEXES = {"instances_to_move": f"{IS_DUE} IS NULL", "instances_moved": f"{IS_DUE} IS NOT NULL"}


def upgrade() -> None:
    # Each can be repeated: the indexes are created outside of the transaction.
    op.execute("ALTER TABLE instances ADD COLUMN IF NOT EXISTS object_sha256 text")
    op.execute("ALTER TABLE instances ADD COLUMN IF NOT EXISTS storage_due_at timestamptz")
    op.execute("ALTER TABLE file_deletions ADD COLUMN IF NOT EXISTS in_storage boolean NOT NULL DEFAULT false")
    create_indexes(INDEXES)


def downgrade() -> None:
    drop_indexes(*INDEXES)
    # Refused while the object storage has the only copy of a file.
    op.execute("ALTER TABLE instances ADD CONSTRAINT no_object CHECK (object_sha256 IS NULL)")
    op.execute("ALTER TABLE instances DROP CONSTRAINT no_object")
    op.execute("ALTER TABLE file_deletions ADD CONSTRAINT no_object CHECK (NOT in_storage)")
    op.execute("ALTER TABLE file_deletions DROP CONSTRAINT no_object")
    op.drop_column("file_deletions", "in_storage")
    op.drop_column("instances", "storage_due_at")
    op.drop_column("instances", "object_sha256")
