"""Keep the reason for the examination and the requested procedure with the study."""

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

COLUMNS = ("indication", "requested_procedure")


def upgrade() -> None:
    for name in COLUMNS:
        # NULL in existing rows: their objects were not read for it.
        op.add_column("studies", sa.Column(name, sa.Text(), nullable=True))


def downgrade() -> None:
    for name in COLUMNS:
        op.drop_column("studies", name)
