"""Store which ended jobs a collector has traces of."""

import sqlalchemy as sa
from alembic import op

revision = "0047"
down_revision = "0046"
branch_labels = None
depends_on = None


def upgrade() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "trace_export",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("until", time, nullable=False, server_default=sa.text("clock_timestamp()")),
        sa.Column(
            "last_job", sa.Uuid, nullable=False, server_default=sa.text("'00000000-0000-0000-0000-000000000000'")
        ),
        sa.Column("owner", sa.Text),
        sa.Column("lease_until", time),
        sa.Column("problem", sa.Text, nullable=False, server_default=sa.text("''")),
        *(
            sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))
            for name in ("sent", "skipped", "rejected")
        ),
        sa.CheckConstraint("id = 1", name="one_row"),
        sa.CheckConstraint("(owner IS NULL) = (lease_until IS NULL)", name="owner_has_a_lease"),
    )


def downgrade() -> None:
    op.drop_table("trace_export")
