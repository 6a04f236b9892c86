"""Keep with a study which values of its headers were too long to be read."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With a default: a dispatcher of the earlier release may run beside. It needs no rewrite of the table.
    column: sa.Column[list[str]] = sa.Column(
        "not_read", ARRAY(sa.Text()), nullable=False, server_default=sa.text("'{}'")
    )
    op.add_column("studies", column, if_not_exists=True)


def downgrade() -> None:
    op.drop_column("studies", "not_read", if_exists=True)
