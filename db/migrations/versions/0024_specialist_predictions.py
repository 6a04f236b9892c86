"""Store predictions of specialist models, also of studies that have not arrived."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

TABLE = "specialist_predictions"


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("study", sa.Text(), nullable=False),
        sa.Column("study_id", sa.Uuid(), sa.ForeignKey("studies.id", ondelete="CASCADE"), index=True),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("name", "version", "label")),
        sa.Column("score", sa.Double()),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
        sa.CheckConstraint("study <> ''", name="names_a_study"),
        sa.CheckConstraint("score BETWEEN '-Infinity' AND 'Infinity'", name="score_is_a_number"),
    )
    op.create_index("specialist_predictions_study", TABLE, ["study"], postgresql_where=sa.text("study_id IS NULL"))
    op.execute(
        f"CREATE TRIGGER {TABLE}_immutable BEFORE UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION refuse_update()"
    )


def downgrade() -> None:
    op.drop_table(TABLE)
