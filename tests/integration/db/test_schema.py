"""Migrations and models describe one schema."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from db.errors import ConfigurationError
from db.jobs import claims
from db.migrations.upgrade import alembic_config, migrate
from db.models import Base
from db.reports.versions import Draft
from db.session import reading, transaction
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


def test_images_are_not_compressed_twice(database_url: str) -> None:
    storage = "SELECT attstorage FROM pg_attribute WHERE attrelid = 'report_images'::regclass AND attname = 'png'"
    with transaction(database_url) as session:
        assert session.scalar(text(storage)) in ("e", b"e"), "EXTERNAL"


def test_newer_schema_is_rejected_with_advice(database_url: str) -> None:
    with transaction(database_url) as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(ConfigurationError, match="revision 9999, newer than this version.*install the version"):
        migrate(database_url)


def test_index_left_invalid_by_an_interrupted_migration_is_created_again(database_url: str) -> None:
    command.downgrade(alembic_config(database_url), "0007")
    with transaction(database_url) as session:
        session.execute(text("CREATE INDEX jobs_claimed ON jobs (claimed_at)"))
        session.execute(text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'jobs_claimed'::regclass"))

    migrate(database_url)

    with transaction(database_url) as session:
        assert session.scalar(text("SELECT count(*) FROM pg_index WHERE NOT indisvalid")) == 0


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
