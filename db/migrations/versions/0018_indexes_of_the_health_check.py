"""Create the indexes by which the health check reads one row of each kind of open work."""

from db.migrations.concurrently import create_indexes, drop_indexes, replace_indexes

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

INDEXES = {"jobs_without_report": "jobs (finished_at) WHERE state IN ('failed', 'not_reportable')"}
REPLACED = {"studies_receiving": "studies (revision_started_at) WHERE state = 'receiving'"}
BEFORE = {"studies_receiving": "studies (id) WHERE state = 'receiving'"}


def upgrade() -> None:
    create_indexes(INDEXES)
    replace_indexes(REPLACED)


def downgrade() -> None:
    replace_indexes(BEFORE)
    drop_indexes(*INDEXES)
