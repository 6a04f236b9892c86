"""Store report images without compression by PostgreSQL: a PNG is compressed already."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Applies to new rows, existing images stay as they are: no table is rewritten.
    op.execute("ALTER TABLE report_images ALTER COLUMN png SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.execute("ALTER TABLE report_images ALTER COLUMN png SET STORAGE EXTENDED")
