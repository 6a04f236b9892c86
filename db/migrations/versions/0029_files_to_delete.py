"""Note the files of deleted rows until they are deleted, too."""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "file_deletions",
        sa.Column("file_path", sa.Text, primary_key=True),
        sa.Column("noted_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
    )


def downgrade() -> None:
    # Refused while files wait: without their notes, an audit would return them to the inbox.
    op.execute("ALTER TABLE file_deletions ADD CONSTRAINT no_file_waits CHECK (false)")
    op.drop_table("file_deletions")
