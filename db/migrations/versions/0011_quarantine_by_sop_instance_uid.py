"""Find the files in quarantine by SOP Instance UID: the page of a study does at each refresh."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_quarantine_sop_instance_uid"), "quarantine", ["sop_instance_uid"])


def downgrade() -> None:
    op.drop_index(op.f("ix_quarantine_sop_instance_uid"), "quarantine")
