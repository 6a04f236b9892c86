"""Store the totals of ended jobs, durations and received objects; they count from this migration on."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "totals",
        sa.Column("metric", sa.Text, primary_key=True),
        sa.Column("labels", ARRAY(sa.Text), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("amount", sa.Float, nullable=False),
    )
    op.create_table(
        "totals_until",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
        sa.CheckConstraint("id = 1", name="one_row"),
    )
    op.execute("INSERT INTO totals_until (id) VALUES (1)")


def downgrade() -> None:
    op.drop_table("totals_until")
    op.drop_table("totals")
