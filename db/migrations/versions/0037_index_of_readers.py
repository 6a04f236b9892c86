"""Create the index by which a list finds who has the page of a study open."""

from db.migrations.concurrently import create_indexes, drop_indexes

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

INDEXES = {
    "audit_rows_opened": "audit_rows ((studies[1]), at) WHERE route = 'GET /studies/{study_id}' AND status < 400"
}


def upgrade() -> None:
    create_indexes(INDEXES)


def downgrade() -> None:
    drop_indexes(*INDEXES)
