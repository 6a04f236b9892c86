"""Rename reports.remarks to limitations and report_pictures to report_images."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEYS = ("pkey", "report_id_fkey")


def upgrade() -> None:
    op.alter_column("reports", "remarks", new_column_name="limitations")
    _rename_table("report_pictures", "report_images")


def downgrade() -> None:
    _rename_table("report_images", "report_pictures")
    op.alter_column("reports", "limitations", new_column_name="remarks")


def _rename_table(old: str, new: str) -> None:
    op.rename_table(old, new)
    for key in KEYS:
        op.execute(f"ALTER TABLE {new} RENAME CONSTRAINT {old}_{key} TO {new}_{key}")
