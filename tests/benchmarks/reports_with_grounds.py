"""Grounds of some reports of a database of bench_scale: as many rows as a report of the demo has."""

from __future__ import annotations

import psycopg

#: Reports with grounds: 8 sentences, 6 findings with a citation each, 9 checks, 2 images.
REPORTS = 500
CALIBRATE = f"""
    UPDATE reports SET calibration = 'uncalibrated' WHERE id IN (
        SELECT md5('r2.25.' || n)::uuid FROM generate_series(1, {REPORTS}) AS n)
"""
ROWS = (
    """
    INSERT INTO report_sentences (report_id, ordinal, section, start, "end")
    SELECT id, n, 'findings', (n - 1) * 21, n * 21 - 1 FROM reports, generate_series(1, 8) AS n
    WHERE calibration IS NOT NULL
    """,
    """
    INSERT INTO report_findings (report_id, ordinal, sentence, name, side, zone, size, certainty, start, "end", verdict,
        in_image, log_prob)
    SELECT id, n, n, 'effusion', 'left', 'lower', '', 'present', (n - 1) * 21, n * 21 - 1, 'supported',
        jsonb_build_object('score', 0.7, 'threshold', 0.5, 'image', 1, 'region', '[0.1, 0.2, 0.3, 0.4]'::jsonb,
            'shares', (SELECT jsonb_agg(0.01) FROM generate_series(1, 64))), -0.2
    FROM reports, generate_series(1, 6) AS n WHERE calibration IS NOT NULL
    """,
    """
    INSERT INTO report_citations (report_id, finding, rank, stance, sentence)
    SELECT id, n, 1, 'affirms', 'There is a small left effusion.' FROM reports, generate_series(1, 6) AS n
    WHERE calibration IS NOT NULL
    """,
    """
    INSERT INTO report_checks (report_id, name, state, sentences)
    SELECT id, 'check' || n, 'passed', '{}' FROM reports, generate_series(1, 9) AS n WHERE calibration IS NOT NULL
    """,
    """
    INSERT INTO report_images (report_id, ordinal, sop_instance_uid, frame, reason, transform, warnings, png, sha256)
    SELECT id, n, '2.25.1.' || n, 0, 'largest', '{"window": "VOI LUT"}', '{}', 'png', md5(id::text)
    FROM reports, generate_series(1, 2) AS n WHERE calibration IS NOT NULL
    """,
    "ANALYZE",
)


def add_grounds(dsn: str) -> list[str]:
    """Give REPORTS reports their grounds; return the ids of their studies."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        # A trigger refuses the change of a report.
        connection.execute("SET session_replication_role = replica")
        for statement in (CALIBRATE, *ROWS):
            connection.execute(statement.encode())
        rows = connection.execute("SELECT study_id FROM reports WHERE calibration IS NOT NULL").fetchall()
    return [str(row[0]) for row in rows]
