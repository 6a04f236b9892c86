"""Store the audit log: append-only rows in hash chains."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

TABLES = ("audit_rows", "audit_chains")


def upgrade() -> None:
    op.create_table(
        "audit_chains",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heads", JSONB, nullable=False),
        *_hashes(),
    )
    op.create_table(
        "audit_rows",
        sa.Column("chain", sa.BigInteger, sa.ForeignKey("audit_chains.number", ondelete="RESTRICT"), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("status", sa.SmallInteger, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("route", sa.Text, nullable=False),
        sa.Column("studies", ARRAY(sa.Uuid), nullable=False),
        sa.Column("detail", JSONB, nullable=False),
        *_hashes(),
    )
    op.create_index("audit_rows_at", "audit_rows", ["at"], postgresql_using="brin")
    op.execute(
        """
        CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN
            RAISE EXCEPTION 'the audit log is append-only';
        END $$
        """
    )
    for table in TABLES:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()"
        )


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
    op.execute("DROP FUNCTION refuse_audit_change()")


def _hashes() -> list[sa.Column[object]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in ("previous", "hash")]
