"""Migrations and models describe one schema."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from db.jobs import claims
from db.migrations.upgrade import alembic_config, migrate
from db.models import Base, ReportFeedback
from db.reports import versions
from db.reports.grounds import GroundedFinding, GroundedSentence, Grounds
from db.reports.versions import CheckResult, Draft
from db.session import reading, transaction
from db.states import CheckState, FeedbackKind, Verdict
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from tests.integration.db.conftest import Arrivals

MIGRATE = [sys.executable, "-c", "import sys; from db.migrations.upgrade import migrate; migrate(sys.argv[1])"]


def test_migrations_make_the_tables_of_the_models(database_url: str) -> None:
    with reading(database_url) as session:
        differences = compare_metadata(MigrationContext.configure(session.connection()), Base.metadata)

    assert differences == []


def test_migrating_again_changes_nothing(database_url: str) -> None:
    migrate(database_url)


def test_renamed_column_and_table_keep_their_rows(arrivals: Arrivals) -> None:
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        draft = Draft("No effusion.", "Normal.", "1 of 1 images", "1", "d", {}, limitations=["The text was cut off."])
        claims.finish(session, claim, draft)

    command.downgrade(alembic_config(arrivals.url), "0002")
    with transaction(arrivals.url) as session:
        assert session.scalar(text("SELECT remarks FROM reports")) == ["The text was cut off."]
        assert session.scalar(text("SELECT count(*) FROM report_pictures")) == 0
    migrate(arrivals.url)

    with transaction(arrivals.url) as session:
        assert session.scalar(text("SELECT limitations FROM reports")) == ["The text was cut off."]


def flags(arrivals: Arrivals) -> tuple[int, int, bool]:
    """Version of the current report and of the opened one, and whether the study is marked."""
    with transaction(arrivals.url) as session:
        row = session.execute(text("SELECT report_version, opened_version, is_marked FROM studies")).one()
    return row[0], row[1], row[2]


CONTRADICTED = GroundedFinding("pleural effusion", "", "", "", "absent", 0, 12, Verdict.CONTRADICTED)


@pytest.mark.parametrize(
    "mark",
    [
        {"checks": [CheckResult("sides", CheckState.WARNING)]},
        {"grounds": Grounds([GroundedSentence("findings", 0, 12, [CONTRADICTED])])},
    ],
    ids=["check", "verdict"],
)
def test_upgrade_fills_the_flags_of_studies_reported_before(arrivals: Arrivals, mark: dict[str, Any]) -> None:
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, Draft("No effusion.", "Normal.", "1 of 1 images", "1", "d", {}, **mark))
        session.add(ReportFeedback(study_id=claim.study_id, version=1, kind=FeedbackKind.OPENED, text="", author="a"))

    command.downgrade(alembic_config(arrivals.url), "0032")
    migrate(arrivals.url)

    assert flags(arrivals) == (1, 1, True)


def test_result_of_an_earlier_release_sets_the_flags_too(arrivals: Arrivals) -> None:
    claim = arrivals.running_job()
    warned = [CheckResult("sides", CheckState.WARNING)]
    earlier = versions.insert_for(
        claims.FINISH.text.partition("INSERT INTO reports")[0].replace(
            ", is_marked = :is_marked,\n            report_version = report_version + 1", ""
        )
    )
    names = {"study_id": claim.study_id, "job_id": claim.job_id, "fence": claim.fence, "token": claim.token}
    draft = Draft("No effusion.", "Normal.", "1 of 1 images", "1", "d", {}, checks=warned)
    with transaction(arrivals.url) as session:
        assert versions.insert(session, earlier, names, draft)

    assert flags(arrivals) == (1, 0, True)


def test_images_are_not_compressed_twice(database_url: str) -> None:
    storage = "SELECT attstorage FROM pg_attribute WHERE attrelid = 'report_images'::regclass AND attname = 'png'"
    with transaction(database_url) as session:
        assert session.scalar(text(storage)) in ("e", b"e"), "EXTERNAL"


def test_index_left_invalid_by_an_interrupted_migration_is_created_again(database_url: str) -> None:
    command.downgrade(alembic_config(database_url), "0007")
    with transaction(database_url) as session:
        session.execute(text("CREATE INDEX jobs_claimed ON jobs (claimed_at)"))
        session.execute(text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'jobs_claimed'::regclass"))

    migrate(database_url)

    with transaction(database_url) as session:
        assert session.scalar(text("SELECT count(*) FROM pg_index WHERE NOT indisvalid")) == 0


#: Migrations whose last part is one transaction with their number, which an interruption undoes as a whole.
ENDS_IN_A_TRANSACTION = {"0020"}


def test_migration_of_several_transactions_can_be_repeated_after_an_interruption(database_url: str) -> None:
    config = alembic_config(database_url)
    command.downgrade(config, "base")
    scripts = ScriptDirectory.from_config(config).walk_revisions()
    for script in reversed(list(scripts)):
        command.upgrade(config, script.revision)
        several = "concurrently" in Path(script.path).read_text() and script.revision not in ENDS_IN_A_TRANSACTION
        if several and script.down_revision is not None:
            # Interrupted at its end, before its number was stored.
            command.stamp(config, str(script.down_revision))
            command.upgrade(config, script.revision)

    test_migrations_make_the_tables_of_the_models(database_url)


def test_migrations_at_the_same_time_do_not_disturb_each_other(database_url: str) -> None:
    command.downgrade(alembic_config(database_url), "0007")
    with ThreadPoolExecutor(2) as pool:
        # In processes of their own: Alembic's context is global.
        list(pool.map(lambda _: subprocess.run([*MIGRATE, database_url], check=True, cwd=REPOSITORY), range(2)))

    test_migrations_make_the_tables_of_the_models(database_url)


def test_every_migration_can_be_undone(database_url: str) -> None:
    command.downgrade(alembic_config(database_url), "base")
    migrate(database_url)

    test_migrations_make_the_tables_of_the_models(database_url)
