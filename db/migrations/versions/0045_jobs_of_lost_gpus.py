"""Count jobs whose worker lost its GPU as poison candidates: the index by which a worker sees them has their reason."""

from db.migrations.concurrently import replace_indexes

revision = "0045"
down_revision = "0044"
branch_labels = None
depends_on = None

CANDIDATES = "jobs (state, available_at) WHERE state IN ('queued', 'running') AND reason IN ({})"
EARLIER = "'lease_expired', 'no_progress'"


def upgrade() -> None:
    replace_indexes({"jobs_poison_candidates": CANDIDATES.format(f"{EARLIER}, 'gpu_lost'")})


def downgrade() -> None:
    replace_indexes({"jobs_poison_candidates": CANDIDATES.format(EARLIER)})
