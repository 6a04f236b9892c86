"""A sample of a large table costs what the sample costs."""

from __future__ import annotations

import pytest
from sqlalchemy import select, text

from db.models import Quarantined
from db.operations import row_sample
from db.session import reading, transaction

FILL = """
    INSERT INTO quarantine (id, file_path, file_bytes, sha256, calling_ae_title, reason, detail, received_at)
    SELECT uuidv7(), 'spool/quarantine/' || n, 1, 'd', '', 'other', '', now()
    FROM generate_series(1, :rows) AS n
"""
ROWS_READ = "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'quarantine'"


@pytest.mark.parametrize(("number", "drawn"), [(1, 1), (50, 50), (30_000, 20_000)])
def test_sample_has_the_number_of_rows_or_all(database_url: str, number: int, drawn: int) -> None:
    with transaction(database_url) as session:
        session.execute(text(FILL), {"rows": 20_000})

    with reading(database_url) as session:
        found = row_sample.draw(session, Quarantined, number, lambda rows: select(rows.id))
        read = session.scalar(text(ROWS_READ)) or 0

    assert len(set(found)) == drawn
    # Pages hold some 60 rows; few pages by chance make it draw again.
    assert read <= max(number, 5) * 60 * 10


def test_two_samples_are_different(database_url: str) -> None:
    with transaction(database_url) as session:
        session.execute(text(FILL), {"rows": 2000})

    with reading(database_url) as session:
        first, second = (set(row_sample.draw(session, Quarantined, 20, lambda rows: select(rows.id))) for _ in range(2))

    assert first != second
