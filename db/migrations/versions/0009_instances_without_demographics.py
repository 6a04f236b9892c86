"""Mark the instances whose header has neither Patient ID nor Patient's Name."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # The headers of stored objects are not read again: they are taken for identified, as before.
    op.add_column("instances", sa.Column("identified", sa.Boolean(), server_default=sa.true(), nullable=False))
    op.alter_column("instances", "identified", server_default=None)


def downgrade() -> None:
    op.drop_column("instances", "identified")
