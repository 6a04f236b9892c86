"""Transfers that broke off before their studies were complete."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("studies", sa.Column("broken_off_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("studies", sa.Column("broken_association_id", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("studies", "broken_association_id")
    op.drop_column("studies", "broken_off_at")
