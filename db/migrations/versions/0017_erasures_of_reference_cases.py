"""Keep fingerprints of erased reference cases, and the figures of each snapshot."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reference_erasures",
        sa.Column("fingerprint", sa.Text, primary_key=True),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.add_column("reference_snapshots", sa.Column("figures", JSONB, nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("reference_snapshots", "figures")
    op.drop_table("reference_erasures")
