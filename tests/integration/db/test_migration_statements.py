"""The statements of all migrations, as a linter sees them: what would block or break a running installation."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, event

from db.migrations.upgrade import migrate
from db.session import engine
from tests.services import database_named, execute
from tests.tools import tool

if TYPE_CHECKING:
    from deploy.embedded.postgres import Postgres

#: Rules that do not apply here, with the reason.
EXCLUDED = {
    "require-lock-timeout": "the session of the migrations has it (db/migrations/env.py)",
    "ban-concurrent-index-creation-in-transaction": "those indexes are created outside (db/migrations/concurrently.py)",
    "require-statement-timeout": "the same; a statement may take as long as its table needs",
    "prefer-text-field": "the table of Alembic",
    "prefer-bigint-over-int": "versions, counts of one study and positions in a text are small",
    "prefer-bigint-over-smallint": "the same",
}
#: Findings in migrations before the first release, whose tables were new or small then. A later one has none.
KNOWN = {
    ("0003", "renaming-column"),
    ("0003", "renaming-object"),
    ("0003", "renaming-table"),
    ("0006", "ban-drop-constraint"),
    ("0006", "ban-drop-default"),
    ("0006", "constraint-missing-not-valid"),
    ("0006", "disallowed-unique-constraint"),
    ("0008", "renaming-object"),
    ("0009", "ban-drop-default"),
    ("0010", "require-concurrent-index-creation"),
    ("0010", "require-concurrent-index-deletion"),
    ("0013", "ban-drop-constraint"),
    ("0013", "ban-drop-not-null"),
    ("0013", "constraint-missing-not-valid"),
    ("0015", "constraint-missing-not-valid"),
    ("0018", "renaming-object"),
    ("0020", "ban-drop-constraint"),
    ("0020", "constraint-missing-not-valid"),
    ("0023", "ban-drop-table"),
    ("0039", "constraint-missing-not-valid"),
    # An index, which no statement names; the rename needs no scan.
    ("0045", "renaming-object"),
}


def statements(url: str) -> dict[str, list[str]]:
    """Return the statements without parameters of each migration, in their order."""
    found: dict[str, list[str]] = defaultdict(list)
    pending: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        words = statement.split(None, 2)
        if "alembic_version SET version_num" in statement or "INTO alembic_version" in statement:
            found[next(part for part in statement.split("'") if part.isdigit())] = pending.copy()
            pending.clear()
        elif not parameters and words[0].upper() not in {"SELECT", "SHOW"}:
            pending.append(statement.strip().rstrip(";"))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        migrate(url)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
        # No fixture of this database does it; a connection that is left open is a warning in a later test.
        engine(url).dispose()
    return found


@pytest.mark.slow
def test_no_new_migration_blocks_or_breaks_what_runs(postgres: Postgres, tmp_path: Path) -> None:
    execute(postgres, "CREATE DATABASE linted")
    made = statements(database_named(postgres, "linted"))
    paths = [tmp_path / f"{revision}.sql" for revision in made]
    for path in paths:
        path.write_text("".join(f"{statement};\n" for statement in made[path.stem]))

    options = [
        "--reporter",
        "json",
        "--pg-version",
        "18.0",
        "--assume-in-transaction",
        f"--exclude={','.join(EXCLUDED)}",
    ]
    linted = subprocess.run([tool("squawk"), *options, *paths], capture_output=True, text=True, check=False)

    findings = {(Path(each["file"]).stem, each["rule_name"]) for each in json.loads(linted.stdout)}
    assert len(made) > 30
    assert findings == KNOWN
