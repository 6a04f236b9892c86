"""Record the phantom studies that an installation sends to itself."""

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "canaries",
        sa.Column("study_instance_uid", sa.Text(), primary_key=True),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("problem", sa.Text()),
        sa.CheckConstraint("(ended_at IS NULL) = (problem IS NULL)", name="ended_has_a_result"),
    )


def downgrade() -> None:
    op.drop_table("canaries")
