"""Store the scaling and the limits of the confidence of answers."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "answer_scalings",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("model_digest", sa.Text, nullable=False),
        sa.Column("prompt_version", sa.Text, nullable=False),
        sa.Column("snapshot", sa.Text, nullable=False),
        sa.Column("labeller", sa.Text, nullable=False),
        sa.Column("kinds", JSONB, nullable=False),
        sa.Column("case_set", JSONB, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
        sa.CheckConstraint("task IN ('question', 'diagnosis')", name="task"),
    )
    op.create_index("answer_scalings_by_model", "answer_scalings", ["model_digest", "task", "created_at"])


def downgrade() -> None:
    op.drop_table("answer_scalings")
