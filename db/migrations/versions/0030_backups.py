"""Record the backups that were made, and their verifications."""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "backups",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("begun_at", time, nullable=False),
        sa.Column("ended_at", time, nullable=False),
        sa.Column("files", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("verified_at", time),
    )


def downgrade() -> None:
    op.drop_table("backups")
