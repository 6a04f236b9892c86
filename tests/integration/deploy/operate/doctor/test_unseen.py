"""A check of `prelim doctor` that cannot see passes nothing: it is not made, or it finds the obstacle."""

from __future__ import annotations

import os
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from sqlalchemy import make_url, text

from db.jobs import claims
from db.operations import disk
from db.operations.heartbeats import Role
from db.session import connect, engine, transaction
from db.settings import Settings
from deploy.operate.doctor.doctor import CHECKS, finding_of
from deploy.operate.doctor.finding import Finding, Installation, Level
from tests.certificates import write_certificate
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_claims import DRAFT
from tests.integration.deploy.operate.doctor.breaks import OTHER_FILE_SYSTEM, heartbeat
from tests.integration.deploy.operate.doctor.site import PASSWORD, Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cryptography.x509 import ObjectIdentifier

CANARY = '[[peer]]\nae_title = "PRELIM_CANARY"\n'
A6000 = "NVIDIA RTX A6000, 580.65.06, 49140, 0"
WITHOUT_CUDA = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def finding(name: str, installation: Installation) -> Finding:
    return finding_of(next(check for check in CHECKS if check.name == name), installation)


def test_table_that_is_locked_is_a_fault_and_no_database_that_is_away(site: Site, database_url: str) -> None:
    """Otherwise all later checks of the database would not be made, and the exit status would be 0."""
    site.values["database_url"] = database_url
    installation = site.installation()
    with closing(connect(database_url)) as connection, connection.transaction():
        connection.execute("LOCK TABLE studies IN ACCESS EXCLUSIVE MODE")
        locked = finding("reports", installation)
        assert finding("processes", installation).level is Level.NOT_CHECKED

    assert locked.level is Level.FAULT
    assert "does not answer a query" in locked.found
    assert "pg_locks" in locked.remedy
    assert finding("reports", installation).level is Level.OK


def test_database_that_is_lost_after_it_answered_is_a_fault(site: Site, database_url: str) -> None:
    site.values["database_url"] = database_url
    installation = site.installation()
    assert finding("database", installation).level is Level.OK
    away = {**site.values, "database_url": "postgresql+psycopg://u:correct-horse-battery@127.0.0.1:1/d"}
    installation.settings = Settings(**away)

    assert finding("processes", installation).level is Level.FAULT
    # Once: the others have the same cause.
    assert finding("alarms", installation).level is Level.NOT_CHECKED


@contextmanager
def guest(site: Site, url: str, *statements: str) -> Iterator[None]:
    """Let the site use the database as a user for whom *statements* are made."""
    parsed = make_url(url)
    with closing(connect(url)) as connection:
        connection.execute(f"CREATE ROLE doctor_owner LOGIN PASSWORD '{parsed.password}'".encode())
        for statement in statements:
            connection.execute(statement.format(database=parsed.database).encode())
        site.values["database_url"] = parsed.set(username="doctor_owner").render_as_string(hide_password=False)
        try:
            yield
        finally:
            engine(site.values["database_url"]).dispose()
            connection.execute(f"ALTER DATABASE {parsed.database} OWNER TO {parsed.username}".encode())
            connection.execute(b"DROP ROLE doctor_owner")


def test_tables_of_another_user_are_a_fault_as_after_a_restore_by_an_administrator(
    site: Site, database_url: str
) -> None:
    with guest(site, database_url, "ALTER DATABASE {database} OWNER TO doctor_owner"):
        owner, processes = site.finding("database_owner"), site.finding("processes")

    assert owner.level is Level.FAULT
    assert "does not own the table" in owner.found
    assert processes.level is Level.FAULT
    assert "no right to a table" in processes.found


def test_report_that_a_wrong_clock_has_dated_later_is_none_of_the_last_day(site: Site, database_url: str) -> None:
    site.values["database_url"] = database_url
    claim = Arrivals(database_url).running_job()
    with transaction(database_url) as session:
        claims.finish(session, claim, DRAFT)
        # Without the trigger by which reports are immutable.
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("UPDATE reports SET created_at = now() + interval '300 days'"))
        session.execute(text("UPDATE studies SET first_received_at = now() - interval '3 hours'"))

    assert site.finding("reports").level is Level.FAULT


@pytest.mark.parametrize(("reason", "level"), [("undecodable", Level.FAULT), ("store_only", Level.OK)])
def test_day_without_a_report_is_found_whatever_ended_its_studies(
    site: Site, database_url: str, reason: str, level: Level
) -> None:
    site.values["database_url"] = database_url
    arrivals = Arrivals(database_url)
    claim = arrivals.running_job()
    with transaction(database_url) as session:
        claims.not_reportable(session, claim, reason, "")
        session.execute(text("UPDATE studies SET first_received_at = now() - interval '3 hours'"))

    assert site.finding("reports").level is level


def test_connection_limit_of_the_database_counts(site: Site, database_url: str) -> None:
    site.values["database_url"] = database_url
    heartbeat(site, Role.WORKER, {"slots": 4})
    assert site.finding("database_connections").level is Level.OK
    name = make_url(database_url).database
    with closing(connect(database_url)) as connection:
        connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 12".encode())
        found = site.finding("database_connections")

    assert found.level is Level.FAULT
    assert "12 of" in found.found


@pytest.mark.parametrize(
    "setting",
    [
        "log_parameter_max_length_on_error",
        "log_transaction_sample_rate",
        "auto_explain.log_min_duration",
        "pgaudit.log_parameter",
    ],
)
def test_every_setting_that_logs_values_is_named(site: Site, database_url: str, setting: str) -> None:
    site.values["database_url"] = database_url
    values = {
        "log_parameter_max_length_on_error": {"log_parameter_max_length_on_error": "100"},
        "log_transaction_sample_rate": {"log_transaction_sample_rate": "0.1", "log_parameter_max_length": "-1"},
        # As the module has it, which need not be installed.
        "auto_explain.log_min_duration": {
            "auto_explain.log_min_duration": "250ms",
            "auto_explain.log_parameter_max_length": "-1",
        },
        "pgaudit.log_parameter": {"pgaudit.log_parameter": "on"},
    }[setting]
    assert site.finding("database_log").level is Level.OK
    with closing(connect(database_url)) as connection:
        for name, value in values.items():
            connection.execute(f"ALTER DATABASE {make_url(database_url).database} SET {name} = '{value}'".encode())
    engine(database_url).dispose()
    found = site.finding("database_log")

    assert found.level is Level.WARNING
    assert found.found.startswith(f"{setting}:")


@pytest.mark.parametrize(
    ("peers", "values", "words"),
    [
        ('[[peer]]\nae_title = "CT_1"\n', {}, "PRELIM_CANARY is not a peer"),
        (f'called = ["PRELIM"]\n{CANARY}', {}, "they call PRELIM_DEMO"),
        (f'called = ["PRELIM"]\n{CANARY}', {"demo_ae_titles": ()}, ""),
        (f'called = ["PRELIM", "PRELIM_DEMO"]\n{CANARY}', {}, ""),
        ('[[peer]]\nae_title = "CT_1"\n', {"canary_seconds": 0}, ""),
    ],
)
def test_peers_file_that_refuses_canaries_is_found(site: Site, peers: str, values: dict[str, Any], words: str) -> None:
    """As the example of the documentation does, which has one accepted AE title."""
    site.write("peers.toml", peers)
    site.values |= values
    found = site.finding("peers")

    assert found.level is (Level.WARNING if words else Level.OK)
    assert words in found.found


def mounts(site: Site, *lines: tuple[Path, str]) -> None:
    """Let the kernel list these mounts beside that of the root, which is on a disk."""
    listed = ["29 1 254:0 / / rw,relatime - ext4 /dev/vda rw"]
    listed += [f"30 29 0:9 / {path} rw - {kind} none rw" for path, kind in lines]
    site.write("root/proc/self/mountinfo", "\n".join(listed))


def test_file_system_is_that_to_which_a_symbolic_link_leads(site: Site) -> None:
    target = site.path / "memory"
    site.data.rename(target)
    site.data.symlink_to(target)
    mounts(site, (target, "tmpfs"))
    found = site.finding("disk_file_system")

    assert found.level is Level.FAULT
    assert str(target) in found.found


def test_file_system_of_a_spool_on_a_volume_of_its_own_is_examined(site: Site) -> None:
    mounts(site, (site.data, "ext4"))
    assert site.finding("disk_file_system").level is Level.OK
    mounts(site, (site.data, "ext4"), (site.data / "spool", "tmpfs"))

    assert site.finding("disk_file_system").level is Level.FAULT


@pytest.mark.parametrize("name", ["", "spool"])
def test_space_of_the_spool_and_of_the_databases_counts(site: Site, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    place = (site.data / name).resolve()
    full, empty = disk.Disk(100 << 20, 100), disk.Disk(1 << 40, None)
    monkeypatch.setattr(disk, "measure", lambda directory: full if directory == place else empty)

    assert site.finding("disk_space").level is Level.FAULT
    assert site.finding("disk_inodes").level is Level.FAULT


def test_room_ends_where_routine_objects_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 1 << 30
    of_100_gib = SimpleNamespace(f_frsize=1 << 20, f_blocks=100 << 10, f_bfree=40 << 10, f_bavail=40 << 10)
    monkeypatch.setattr(os, "statvfs", lambda _path: of_100_gib)

    assert disk.room(tmp_path, 90) == pytest.approx(30 * gib, abs=1)
    assert disk.room(tmp_path, 100) == 40 * gib - disk.RESERVED_BYTES
    assert disk.room(tmp_path, 50) == 0


def test_folder_above_the_target_of_a_link_decides_who_can_enter_the_spool(site: Site) -> None:
    """The link is in a folder of the owner's alone; its target can be entered by all."""
    target = OTHER_FILE_SYSTEM / f"prelim-doctor-{os.getpid()}"
    target.mkdir(mode=0o755)
    try:
        (target / "spool").mkdir(mode=0o755)
        link = site.path / "closed" / "data"
        link.parent.mkdir(mode=0o700)
        link.symlink_to(target)
        site.values["data_dir"] = link
        assert site.finding("data_access").level is Level.FAULT
    finally:
        (target / "spool").rmdir()
        target.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_folder_of_another_user_in_the_spool_is_named(site: Site) -> None:
    inbox = site.data / "spool" / "inbox"
    assert site.finding("data_owner").level is Level.OK
    os.chown(inbox, 4321, -1)
    found = site.finding("data_owner")

    assert found.level is Level.FAULT
    assert f"{inbox} belongs to user 4321" in found.found


@pytest.mark.parametrize(("mode", "level"), [(0o2770, Level.OK), (0o2750, Level.FAULT)])
def test_volume_of_root_that_the_group_of_a_pod_may_write_passes(
    site: Site, monkeypatch: pytest.MonkeyPatch, mode: int, level: Level
) -> None:
    """As Kubernetes makes it with fsGroup; the folders below are made by the processes."""
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    for folder in (site.data, *site.data.rglob("*")):
        folder.chmod(mode)

    assert site.finding("data_owner").level is level


@pytest.mark.parametrize("setting", ["audit_syslog_key", "audit_syslog_certificate", "tls_certificate"])
def test_every_file_with_a_private_key_counts(site: Site, setting: str) -> None:
    certificate, key = site.path / "one.pem", site.path / "one-key.pem"
    write_certificate(certificate, key, days=30)
    certificate.chmod(0o644)
    key.chmod(0o600)
    site.values |= {"audit_syslog_url": "syslog+tls://localhost:6514", "audit_syslog_certificate": certificate}
    site.values[setting] = certificate
    assert site.finding("secret_files").level is Level.OK
    certificate.write_bytes(key.read_bytes() + certificate.read_bytes())

    assert site.finding("secret_files").level is Level.FAULT


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("broker_url", "sentinel://:{password}@one:26379,two:26379/0?master_name=queue"),
        ("broker_url", "rediss://:{password}@queue.example/0"),
        ("database_url", "postgresql+psycopg://prelim:{password}@one:5432,two:5432/prelim"),
        ("database_url", "postgresql+psycopg://prelim@db.example/prelim?password={password}"),
    ],
)
def test_password_is_read_from_every_form_of_a_url(site: Site, setting: str, url: str) -> None:
    site.values[setting] = url.format(password=PASSWORD)
    assert site.finding("passwords").level is Level.OK
    site.values[setting] = url.format(password="short")
    found = site.finding("passwords")

    assert found.level is Level.WARNING
    assert "has a short password" in found.found


@pytest.mark.parametrize(
    ("device", "limit", "level"),
    [
        ("auto", None, Level.OK),
        ("cuda", None, Level.FAULT),
        ("cuda:1", None, Level.FAULT),
        ("cuda:2", None, Level.NOT_CHECKED),
        ("auto", 40, Level.FAULT),
    ],
)
def test_memory_is_that_of_the_gpus_that_a_worker_may_use(
    site: Site, device: str, limit: float | None, level: Level
) -> None:
    """75 GiB of weights on two GPUs of 48 GB, over which only `auto` spreads them."""
    site.gpu(A6000, A6000)
    site.values |= {"device": device, "gpu_memory_gib": limit}
    os.truncate(site.write("checkpoint/model.safetensors", ""), 75 << 30)

    assert site.finding("gpu_memory").level is level


def test_quantized_weights_larger_than_the_gpu_are_no_weights_that_fit(site: Site) -> None:
    site.gpu(A6000)
    site.values["quantization"] = "int8"
    os.truncate(site.write("checkpoint/model.safetensors", ""), 75 << 30)
    found = site.finding("gpu_memory")

    assert found.level is Level.NOT_CHECKED
    assert "quantized to int8" in found.found


def test_gpu_that_counts_no_memory_errors_is_not_one_without_them(site: Site) -> None:
    site.gpu(A6000.replace(", 0", ", [N/A]"))

    assert site.finding("gpu_errors").level is Level.NOT_CHECKED


@pytest.mark.parametrize(
    ("usage", "level"),
    [
        (None, Level.OK),
        (ExtendedKeyUsageOID.SERVER_AUTH, Level.OK),
        (ExtendedKeyUsageOID.CLIENT_AUTH, Level.FAULT),
    ],
)
def test_certificate_that_clients_refuse_for_its_purpose_is_a_fault(
    site: Site, usage: ObjectIdentifier | None, level: Level
) -> None:
    write_certificate(site.path / "certificate.pem", site.path / "key.pem", days=365, usage=usage)
    found = site.finding("tls_chain")

    assert found.level is level
    # A missing certificate after the last one cannot be seen here.
    assert level is Level.FAULT or "must trust its issuer: CN=prelim.test" in found.found


def test_weights_count_as_memory_where_torch_has_no_cuda(site: Site) -> None:
    site.gpu()
    site.write("root/sys/fs/cgroup/memory.max", f"{8 << 30}\n")
    os.truncate(site.write("checkpoint/model.safetensors", ""), 75 << 30)
    site.values["device"] = "auto"
    assert site.finding("memory_limit").level is Level.OK
    site.patch.setattr("deploy.operate.doctor.gpu._torch_version", lambda: WITHOUT_CUDA)

    assert site.finding("memory_limit").level is Level.FAULT
