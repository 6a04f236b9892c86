"""Store which structured reports were read for predictions, and why parts of them were not taken."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "specialist_reports",
        sa.Column("instance_id", sa.Uuid(), sa.ForeignKey("instances.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("predictions", sa.Integer(), nullable=False),
        sa.Column("reasons", ARRAY(sa.Text()), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
    )


def downgrade() -> None:
    op.drop_table("specialist_reports")
