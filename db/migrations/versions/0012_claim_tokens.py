"""Give each claim of a job a random token beside its fence."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("claim_token", sa.Uuid()))


def downgrade() -> None:
    op.drop_column("jobs", "claim_token")
