"""Store the secret that signs the cursors of lists: one random row, made here."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cursor_secret",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("secret", sa.Text, nullable=False),
        sa.CheckConstraint("id = 1", name="one_row"),
    )
    # Each has 122 bits of the server's cryptographic generator.
    op.execute("INSERT INTO cursor_secret (id, secret) VALUES (1, gen_random_uuid()::text || gen_random_uuid()::text)")


def downgrade() -> None:
    op.drop_table("cursor_secret")
