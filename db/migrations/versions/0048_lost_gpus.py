"""Store the GPUs that were lost: the row of a process is overwritten when a container starts again."""

import sqlalchemy as sa
from alembic import op

revision = "0048"
down_revision = "0047"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "lost_gpus",
        sa.Column("gpu", sa.Text, primary_key=True),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("lost_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
    )


def downgrade() -> None:
    op.drop_table("lost_gpus")
