"""One way to break an installation for each check of `prelim doctor`."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import socket
import tempfile
import time
import uuid
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
from sqlalchemy import make_url, text

from db.models import Canary
from db.operations import disk, heartbeats
from db.operations.heartbeats import Role
from db.session import connect, engine, transaction
from deploy.embedded.server_process import free_port
from deploy.launcher import unfinished_restore
from deploy.operate.doctor import broker, database_server, machine
from deploy.operate.doctor.finding import Installation
from dicom_listener.receive import tls
from tests.integration.db.conftest import Arrivals
from tests.integration.deploy.launcher.test_pooling import pooled
from tests.object_storage import PREFIX, Put
from worker.model.checkpoint.manifest import write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.deploy.operate.doctor.site import Site

H100 = "NVIDIA H100 80GB HBM3, 580.65.06, 81559, 0"

OTHER_FILE_SYSTEM = Path("/dev/shm")


def old_name(site: Site) -> None:
    site.patch.setenv("PRELIM_NUDGE_SECONDS", "5")


def invalid_rules(site: Site) -> None:
    site.values["rules"] = site.write("rules.toml", "[[rule]]\nnonsense = 1\n")


def no_peers_file(site: Site) -> None:
    del site.values["peers_file"]


def world_readable_password(site: Site) -> None:
    site.write("data/postgres/password", "secret", mode=0o644)


@contextmanager
def spool_open_to_all(site: Site) -> Iterator[None]:
    """A data directory that everyone can enter; the test's own is below one that others cannot."""
    with tempfile.TemporaryDirectory(dir=OTHER_FILE_SYSTEM) as folder:
        site.values["data_dir"] = Path(folder)
        (Path(folder) / "spool").mkdir()
        for each in (Path(folder), Path(folder) / "spool"):
            each.chmod(0o755)
        yield


def short_password(site: Site) -> None:
    site.values["flower_password"] = "flower"


def data_of_another_user(site: Site) -> None:
    if os.geteuid() == 0:
        os.chown(site.data, 4321, -1)
    else:
        site.patch.setattr(os, "geteuid", lambda: 4321)


def full_disk(site: Site) -> None:
    site.patch.setattr(disk, "measure", lambda _: disk.Disk(100 << 20, None))


def no_inodes(site: Site) -> None:
    site.patch.setattr(disk, "measure", lambda _: disk.Disk(1 << 40, 100))


@contextmanager
def store_on_another_file_system(site: Site) -> Iterator[None]:
    store = site.data / "spool" / "store"
    if OTHER_FILE_SYSTEM.stat().st_dev == site.data.stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=OTHER_FILE_SYSTEM) as other:
        shutil.rmtree(store)
        store.symlink_to(other)
        yield


def no_quarantine_folder(site: Site) -> None:
    (site.data / "spool" / "quarantine").rmdir()


def data_in_memory(site: Site) -> None:
    site.mount("tmpfs")


def large_studies(site: Site) -> None:
    Arrivals(site.values["database_url"]).image(file_bytes=10**15)
    with transaction(site.values["database_url"]) as session:
        session.execute(text("UPDATE instances SET indexed_at = now() - interval '1 day'"))


def long_log(site: Site) -> None:
    os.truncate(site.write("data/postgres/log", ""), 300 << 20)


def few_open_files(site: Site) -> None:
    site.patch.setattr(machine.resource, "getrlimit", lambda _: (1024, 1024))


def small_container(site: Site) -> None:
    site.write("root/sys/fs/cgroup/memory.max", f"{512 << 20}\n")


def used_memory(site: Site) -> None:
    site.write("root/proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable: 100000 kB\n")


def strict_overcommit(site: Site) -> None:
    site.write("root/proc/sys/vm/overcommit_memory", "2\n")


def half_a_processor(site: Site) -> None:
    site.write("root/sys/fs/cgroup/cpu.max", "50000 100000\n")


def misspelt_time_zone(site: Site) -> None:
    site.patch.setenv("TZ", "Europe/Berln")


def missing_decoder(site: Site) -> None:
    site.patch.setattr(machine, "DECODERS", {"no_such_decoder": "JPEG 2000"})


@contextmanager
def port_of_another_program(site: Site) -> Iterator[None]:
    with closing(socket.create_server(("127.0.0.1", site.values["api_port"]))):
        yield


def listener_on_loopback(site: Site) -> None:
    site.values["dicom_host"] = "127.0.0.1"


def key_of_another_certificate(site: Site) -> None:
    site.certificate(days=365, name="other.pem")


def certificate_that_ends(site: Site) -> None:
    site.certificate(days=20)


def served(site: Site, process: str = "host:1", **values: Any) -> None:
    """Record a process of a listener that has loaded the files of now."""
    loaded = tls.description(site.installation().settings)
    heartbeat(site, Role.LISTENER, {"open": 0, "certificate": loaded | values}, process=process)


def certificate_that_is_replaced_and_not_loaded(site: Site) -> None:
    site.certificate(days=365)


def certificate_of_another_name(site: Site) -> None:
    site.values["canary_host"] = "dicom.hospital.example"


def foreign_certificate_in_the_chain(site: Site) -> None:
    other = site.certificate(days=365, name="other.pem", key="other-key.pem")
    chain = site.path / "certificate.pem"
    chain.write_bytes(chain.read_bytes() + other)


def unreachable_database(site: Site) -> None:
    site.values["database_url"] = "postgresql+psycopg://u:correct-horse-battery@127.0.0.1:1/d"


def other_release_of_postgres(site: Site) -> None:
    site.patch.setattr(database_server, "TESTED_MAJOR", 19)


def cluster_of_another_release(site: Site) -> None:
    site.values["database_url"] = None
    site.write("data/postgres/cluster/PG_VERSION", "15\n")


@contextmanager
def other_database(site: Site, create: str, user: str | None = None) -> Iterator[None]:
    """Use a database of the server that *create* makes."""
    url = site.values["database_url"]
    changed = make_url(url).set(database="doctor_other") if user is None else make_url(url).set(username=user)
    with closing(connect(url)) as connection:
        connection.execute(create.encode())
        site.values["database_url"] = changed.render_as_string(hide_password=False)
        try:
            yield
        finally:
            engine(site.values["database_url"]).dispose()
            drop = f"DROP ROLE {user}" if user else "DROP DATABASE doctor_other WITH (FORCE)"
            connection.execute(drop.encode())


def database_without_unicode(site: Site) -> Any:
    return other_database(
        site, "CREATE DATABASE doctor_other TEMPLATE template0 ENCODING SQL_ASCII LOCALE_PROVIDER libc LOCALE 'C'"
    )


def user_who_owns_nothing(site: Site) -> Any:
    password = make_url(site.values["database_url"]).password
    return other_database(site, f"CREATE ROLE doctor_guest LOGIN PASSWORD '{password}'", "doctor_guest")


def commits_that_do_not_wait(site: Site) -> None:
    name = make_url(site.values["database_url"]).database
    with closing(connect(site.values["database_url"])) as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off".encode())
    # Open sessions keep their settings.
    engine(site.values["database_url"]).dispose()


def far_away(site: Site) -> None:
    """The servers are on other machines, and speak no TLS."""
    site.patch.setattr(Installation, "is_near", lambda *_: False)


def statements_in_the_log(site: Site) -> None:
    name = make_url(site.values["database_url"]).database
    with closing(connect(site.values["database_url"])) as connection:
        connection.execute(f"ALTER DATABASE {name} SET log_statement = 'mod'".encode())
        connection.execute(f"ALTER DATABASE {name} SET log_parameter_max_length = -1".encode())
    engine(site.values["database_url"]).dispose()


@contextmanager
def standby_that_no_commit_waits_for(site: Site) -> Iterator[None]:
    url = site.values["database_url"].replace("+psycopg", "")
    with psycopg.connect(url, replication="true", application_name="standby_1", autocommit=True):
        yield


def heartbeat(site: Site, role: Role, info: dict[str, Any], process: str | None = None) -> None:
    with transaction(site.values["database_url"]) as session:
        heartbeats.record(session, role, info, process=process)


def too_many_slots(site: Site) -> None:
    heartbeat(site, Role.WORKER, {"slots": 1000})


@contextmanager
def open_transaction(site: Site) -> Iterator[None]:
    site.patch.setattr(database_server, "MAX_TRANSACTION_SECONDS", 0)
    with closing(connect(site.values["database_url"])) as connection, connection.transaction():
        connection.execute("SELECT 1")
        yield


def wrong_clock(site: Site) -> None:
    now = time.time
    site.patch.setattr(database_server.time, "time", lambda: now() + 10)


def studies_of_the_future(site: Site) -> None:
    Arrivals(site.values["database_url"]).image()
    with transaction(site.values["database_url"]) as session:
        session.execute(text("UPDATE studies SET first_received_at = now() + interval '2 hours'"))


@contextmanager
def pooler_of_transactions(site: Site) -> Iterator[None]:
    folder = site.path / "pooler"
    folder.mkdir()
    with pooled(site.values["database_url"], folder, "transaction") as url:
        site.values["database_url"] = url
        yield


def old_schema(site: Site) -> None:
    with transaction(site.values["database_url"]) as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))


def worker_alone(site: Site) -> None:
    heartbeat(site, Role.WORKER, {})


def processes_of_two_releases(site: Site) -> None:
    heartbeat(site, Role.WORKER, {})
    heartbeat(site, Role.DISPATCHER, {"release": "0.0.1"}, process="other:1")


def damaged_checkpoint(site: Site) -> None:
    heartbeat(site, Role.WORKER, {"checkpoint_damaged": "model.safetensors"})


def studies_without_reports(site: Site) -> None:
    arrivals = Arrivals(site.values["database_url"])
    arrivals.image()
    arrivals.settle()
    with transaction(arrivals.url) as session:
        session.execute(text("UPDATE studies SET first_received_at = now() - interval '3 hours'"))


def refused_sender(site: Site) -> None:
    heartbeat(site, Role.LISTENER, {"refused": [["CT_9", "unknown calling AE title", 4]]}, process="host:1")


def missed_canaries(site: Site) -> None:
    with transaction(site.values["database_url"]) as session:
        session.add(Canary(study_instance_uid="2.25.1", begun_at=dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)))


def no_valid_key(site: Site) -> None:
    with transaction(site.values["database_url"]) as session:
        session.execute(text("UPDATE api_keys SET expires_at = now()"))


def index_of_another_checkpoint(site: Site) -> None:
    heartbeat(site, Role.WORKER, {"model": "0" * 64})


def repository_that_is_away(site: Site) -> None:
    site.values["audit_syslog_url"] = f"syslog+tls://127.0.0.1:{free_port()}"


def collector_that_is_away(site: Site) -> None:
    site.values["traces_url"] = f"http://127.0.0.1:{free_port()}"


def interrupted_erasure(site: Site) -> None:
    with transaction(site.values["database_url"]) as session:
        session.execute(text("INSERT INTO patient_erasures (fingerprint) VALUES ('a')"))


def studies_without_a_backup(site: Site) -> None:
    Arrivals(site.values["database_url"]).image()


def interrupted_restore(site: Site) -> None:
    unfinished_restore.begin(site.values["database_url"], "20260101T000000.000000Z")


def scratch_folder_of_a_killed_verification(site: Site) -> None:
    (site.path / "prelim-restore-abc").mkdir()
    (site.path / "prelim-restore-abc" / "lock").touch()


def unreachable_broker(site: Site) -> None:
    site.values["broker_url"] = "redis://:correct-horse-battery@127.0.0.1:1/0"


def other_release_of_redis(site: Site) -> None:
    site.patch.setattr(broker, "MIN_VERSION", (99, 0))


@contextmanager
def replica(site: Site) -> Iterator[None]:
    """Redis follows a master that does not exist, until the end of the test."""
    with redis.Redis.from_url(site.values["broker_url"]) as client:
        client.replicaof("127.0.0.1", free_port())
        try:
            yield
        finally:
            client.replicaof("NO", "ONE")


def configured(name: str, value: str) -> Callable[[Site], Any]:
    """Return a break that configures Redis otherwise until the end of the test."""

    @contextmanager
    def change(site: Site) -> Iterator[None]:
        with redis.Redis.from_url(site.values["broker_url"]) as client:
            (before,) = client.config_get(name).values()
            used = client.info()["used_memory"]
            client.config_set(name, value.format(used=used + used // 20))
            try:
                yield
            finally:
                client.config_set(name, before)

    return change


def no_checkpoint(site: Site) -> None:
    (site.checkpoint / "config.json").unlink()


def changed_checkpoint(site: Site) -> None:
    site.write("checkpoint/config.json", '{"changed": true}')


def demo_checkpoint(site: Site) -> None:
    write_manifest(site.checkpoint, {"demo": True})


def gpu_that_was_taken_away(site: Site) -> None:
    site.gpu("Failed to initialize NVML: Unknown Error", status=255)


def old_driver(site: Site) -> None:
    site.gpu("Tesla V100, 470.82.01, 16160, 0")


def weights_beyond_the_gpu(site: Site) -> None:
    site.gpu(H100)
    os.truncate(site.write("checkpoint/model.safetensors", ""), 90 << 30)


def gpu_with_memory_errors(site: Site) -> None:
    site.gpu("NVIDIA H100 80GB HBM3, 580.65.06, 81559, 3")


def storage_that_is_away(site: Site) -> None:
    site.storage.away = True


def storage_without_conditions(site: Site) -> None:
    site.storage.honours_conditions = False


def storage_without_checksums(site: Site) -> None:
    site.storage.checks_checksums = False


def storage_of_another_installation(site: Site) -> None:
    earlier = dt.datetime.now(dt.UTC) - dt.timedelta(hours=2)
    site.storage.objects[f"{PREFIX}/ab/{uuid.uuid4().hex}.dcm"] = Put(b"", modified=earlier.isoformat())


def storage_of_another_time(site: Site) -> None:
    site.storage.clock_ahead_seconds = -400


BREAKS: dict[str, Callable[[Site], Any]] = {
    "settings": old_name,
    "rules": invalid_rules,
    "peers": no_peers_file,
    "secret_files": world_readable_password,
    "data_access": spool_open_to_all,
    "passwords": short_password,
    "data_owner": data_of_another_user,
    "disk_space": full_disk,
    "disk_inodes": no_inodes,
    "disk_links": store_on_another_file_system,
    "disk_writes": no_quarantine_folder,
    "disk_file_system": data_in_memory,
    "disk_growth": large_studies,
    "log_files": long_log,
    "open_files": few_open_files,
    "memory_limit": small_container,
    "memory": used_memory,
    "overcommit": strict_overcommit,
    "processors": half_a_processor,
    "time_zone": misspelt_time_zone,
    "decoders": missing_decoder,
    "ports": port_of_another_program,
    "dicom_address": listener_on_loopback,
    "tls": key_of_another_certificate,
    "tls_dates": certificate_that_ends,
    "tls_served": certificate_that_is_replaced_and_not_loaded,
    "tls_names": certificate_of_another_name,
    "tls_chain": foreign_certificate_in_the_chain,
    "database": unreachable_database,
    "database_version": other_release_of_postgres,
    "database_cluster": cluster_of_another_release,
    "database_encoding": database_without_unicode,
    "database_owner": user_who_owns_nothing,
    "database_durability": commits_that_do_not_wait,
    "database_tls": far_away,
    "database_log": statements_in_the_log,
    "database_standby": standby_that_no_commit_waits_for,
    "database_connections": too_many_slots,
    "database_transactions": open_transaction,
    "clock": wrong_clock,
    "clock_order": studies_of_the_future,
    "database_pooler": pooler_of_transactions,
    "schema": old_schema,
    "processes": worker_alone,
    "releases": processes_of_two_releases,
    "alarms": damaged_checkpoint,
    "reports": studies_without_reports,
    "refused_senders": refused_sender,
    "canary": missed_canaries,
    "api_keys": no_valid_key,
    "reference_index": index_of_another_checkpoint,
    "erasures": interrupted_erasure,
    "backup": studies_without_a_backup,
    "restore": interrupted_restore,
    "restore_scratch": scratch_folder_of_a_killed_verification,
    "audit_repository": repository_that_is_away,
    "traces": collector_that_is_away,
    "broker": unreachable_broker,
    "broker_version": other_release_of_redis,
    "broker_persistence": configured("appendonly", "no"),
    "broker_eviction": configured("maxmemory-policy", "allkeys-lru"),
    "broker_role": replica,
    "broker_tls": far_away,
    "broker_memory": configured("maxmemory", "{used}"),
    "storage": storage_that_is_away,
    "storage_condition": storage_without_conditions,
    "storage_checksum": storage_without_checksums,
    "storage_clock": storage_of_another_time,
    "storage_prefix": storage_of_another_installation,
    "checkpoint": no_checkpoint,
    "checkpoint_digest": changed_checkpoint,
    "checkpoint_use": demo_checkpoint,
    "gpu": gpu_that_was_taken_away,
    "gpu_driver": old_driver,
    "gpu_memory": weights_beyond_the_gpu,
    "gpu_errors": gpu_with_memory_errors,
}
