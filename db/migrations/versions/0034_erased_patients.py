"""Keep fingerprints of erased patients, so that no backup and no waiting file brings them back."""

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "patient_erasures",
        sa.Column("fingerprint", sa.Text, primary_key=True),
        sa.Column("erased_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True)),
        sa.Column("backed_up_at", sa.DateTime(timezone=True)),
    )


def downgrade() -> None:
    op.drop_table("patient_erasures")
