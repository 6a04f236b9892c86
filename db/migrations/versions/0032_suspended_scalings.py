"""Let a person suspend the scaling of the confidence of answers."""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("answer_scalings", sa.Column("suspended_because", sa.Text()))


def downgrade() -> None:
    # Without the column a suspended scaling would hold again.
    op.execute("DELETE FROM answer_scalings WHERE suspended_because IS NOT NULL")
    op.drop_column("answer_scalings", "suspended_because")
