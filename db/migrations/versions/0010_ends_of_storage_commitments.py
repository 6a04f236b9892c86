"""Ends of storage commitment requests: given up, verified, and one row for a request that is sent again."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

DUE = "commitments (due_at) WHERE delivered_at IS NULL"
ONCE = "commitments (transaction_uid, calling_ae_title, md5((requested)::text))"
#: Of equal requests the first delivered one stays, or the first.
REPEATED = """
    DELETE FROM commitments USING (
        SELECT id, row_number() OVER (
            PARTITION BY transaction_uid, calling_ae_title, md5(requested::text)
            ORDER BY delivered_at IS NULL, received_at, id
        ) AS number FROM commitments
    ) AS numbered WHERE commitments.id = numbered.id AND numbered.number > 1
"""


def upgrade() -> None:
    op.add_column("commitments", sa.Column("given_up_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("commitments", sa.Column("verified_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("commitments", sa.Column("failed", JSONB(none_as_null=True), nullable=True))
    op.drop_index("commitments_due", "commitments")
    op.execute(f"CREATE INDEX commitments_due ON {DUE} AND given_up_at IS NULL")
    op.execute(REPEATED)
    op.execute(f"CREATE UNIQUE INDEX commitments_once ON {ONCE}")


def downgrade() -> None:
    op.drop_index("commitments_once", "commitments")
    op.drop_index("commitments_due", "commitments")
    op.execute(f"CREATE INDEX commitments_due ON {DUE}")
    for column in ("given_up_at", "verified_at", "failed"):
        op.drop_column("commitments", column)
