"""Let an image of a report be in a file: path and size beside its digest."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

NAME = "image_in_one_place"
CHECK = "num_nonnulls(png, file_path) = 1 AND num_nonnulls(png, file_bytes) = 1"


def upgrade() -> None:
    # Every statement can be repeated: the first transaction ends before the migration does.
    op.execute("ALTER TABLE report_images ADD COLUMN IF NOT EXISTS file_path text")
    op.execute("ALTER TABLE report_images ADD COLUMN IF NOT EXISTS file_bytes bigint")
    op.execute("ALTER TABLE report_images ALTER COLUMN png DROP NOT NULL")
    op.execute(f"ALTER TABLE report_images DROP CONSTRAINT IF EXISTS {NAME}")
    op.execute(f"ALTER TABLE report_images ADD CONSTRAINT {NAME} CHECK ({CHECK}) NOT VALID")
    with op.get_context().autocommit_block():
        # In a transaction of its own it reads the table without blocking reports.
        op.execute(f"ALTER TABLE report_images VALIDATE CONSTRAINT {NAME}")


def downgrade() -> None:
    # Fails, and changes nothing, while an image is in a file: `prelim move-images database` moves it.
    op.alter_column("report_images", "png", nullable=False)
    op.drop_constraint(NAME, "report_images")
    op.drop_column("report_images", "file_bytes")
    op.drop_column("report_images", "file_path")
