"""Store the certificates of the verdicts on findings."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "certificates",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("model_digest", sa.Text, nullable=False),
        sa.Column("prompt_version", sa.Text, nullable=False),
        sa.Column("snapshot", sa.Text, nullable=False),
        sa.Column("labeller", sa.Text, nullable=False),
        sa.Column("alpha", sa.Float, nullable=False),
        sa.Column("delta", sa.Float, nullable=False),
        sa.Column("case_set", JSONB, nullable=False),
        sa.Column("groups", JSONB, nullable=False),
        sa.Column("common", ARRAY(sa.Text), nullable=False),
        sa.Column("suspended_because", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
        sa.CheckConstraint("alpha > 0 AND alpha < 1 AND delta > 0 AND delta < 1", name="alpha_and_delta_are_shares"),
    )
    op.create_index("certificates_by_model", "certificates", ["model_digest", "created_at"])


def downgrade() -> None:
    op.drop_table("certificates")
