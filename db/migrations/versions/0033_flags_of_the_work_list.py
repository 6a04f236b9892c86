"""Keep on each study what the work list asks for: its current report version, the opened one, and its marks.

Triggers keep the columns, so that a worker of the earlier release may run beside new ones.
"""

import sqlalchemy as sa
from alembic import op

from db.migrations.concurrently import create_indexes, drop_indexes

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

MARKS = "({0}.state = 'warning' OR ({0}.state = 'notice' AND {0}.name = 'critical_finding'))"
REPORT = """
    UPDATE studies SET report_version = NEW.version, is_marked = false
    WHERE id = NEW.study_id AND report_version < NEW.version
"""
MARK = """
    UPDATE studies SET is_marked = true FROM reports
    WHERE reports.id = NEW.report_id AND studies.id = reports.study_id AND studies.report_version = reports.version
        AND NOT is_marked
"""
OPENED = "UPDATE studies SET opened_version = NEW.version WHERE id = NEW.study_id AND opened_version < NEW.version"
#: Table whose new rows change a study, condition on the row, and the change.
TRIGGERS = {
    "note_report": ("reports", "", REPORT),
    "note_mark": ("report_checks", f"WHEN {MARKS.format('NEW')}", MARK),
    "note_opened": ("report_feedback", "", OPENED),
}
COLUMNS = (
    ("report_version", sa.Integer, "0"),
    ("opened_version", sa.Integer, "0"),
    ("is_marked", sa.Boolean, "false"),
)
INDEXES = {
    "studies_attention": "studies (first_received_at DESC, id DESC) WHERE is_marked OR state IN ('held', 'failed')",
    "studies_unread": (
        "studies (first_received_at DESC, id DESC) WHERE state = 'reported' AND opened_version < report_version"
    ),
}
FILL = f"""
    UPDATE studies SET report_version = newest.version, is_marked = newest.is_marked,
        opened_version = coalesce((SELECT max(version) FROM report_feedback WHERE study_id = studies.id), 0)
    FROM (
        SELECT DISTINCT ON (study_id) study_id, version, EXISTS (
            SELECT FROM report_checks WHERE report_id = reports.id AND {MARKS.format("report_checks")}) AS is_marked
        FROM reports ORDER BY study_id, version DESC
    ) AS newest
    WHERE newest.study_id = studies.id AND report_version < newest.version
"""  # noqa: S608 - constants


def upgrade() -> None:
    for name, kind, default in COLUMNS:
        op.add_column("studies", sa.Column(name, kind, nullable=False, server_default=default), if_not_exists=True)
    for name, trigger in TRIGGERS.items():
        _create_trigger(name, *trigger)
    op.execute(FILL)
    create_indexes(INDEXES)


def downgrade() -> None:
    drop_indexes(*INDEXES)
    for name, (table, *_) in TRIGGERS.items():
        op.execute(f"DROP TRIGGER {name} ON {table}")
        op.execute(f"DROP FUNCTION {name}()")
    for name, *_ in COLUMNS:
        op.drop_column("studies", name)


def _create_trigger(name: str, table: str, condition: str, change: str) -> None:
    op.execute(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {change}; RETURN NULL; END $$"
    )
    op.execute(
        f"CREATE OR REPLACE TRIGGER {name} AFTER INSERT ON {table} FOR EACH ROW {condition} EXECUTE FUNCTION {name}()"
    )
