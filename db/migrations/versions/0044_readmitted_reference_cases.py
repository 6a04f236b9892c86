"""Keep the fingerprints of reference cases that were erased and admitted again: folders of backups have them."""

import sqlalchemy as sa
from alembic import op

revision = "0044"
down_revision = "0043"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("reference_erasures", sa.Column("readmitted_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    # Earlier releases delete the row of a readmitted case.
    op.execute("DELETE FROM reference_erasures WHERE readmitted_at IS NOT NULL")
    op.drop_column("reference_erasures", "readmitted_at")
