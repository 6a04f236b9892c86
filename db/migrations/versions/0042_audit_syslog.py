"""Store which rows of the audit log an audit record repository has."""

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_syslog",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
        sa.Column("first_chain", sa.BigInteger, nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True)),
        sa.Column("problem", sa.Text, nullable=False),
        sa.CheckConstraint("id = 1", name="one_row"),
    )
    op.create_table(
        "audit_syslog_sent",
        sa.Column(
            "chain",
            sa.BigInteger,
            sa.ForeignKey("audit_chains.number", ondelete="RESTRICT"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("sequence", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("audit_syslog_sent")
    op.drop_table("audit_syslog")
