"""`prelim doctor` finds further faults of sites, each with its cause and a remedy that fits it."""

from __future__ import annotations

import errno
import os
import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import redis
from cryptography.hazmat.primitives import serialization
from sqlalchemy import make_url, text

from db.errors import ConfigurationError
from db.models import ReferenceSnapshot
from db.operations.heartbeats import Role
from db.session import transaction
from deploy.embedded.server_process import free_port
from deploy.operate.doctor import database_server, listener_certificate, ports, preflight
from deploy.operate.doctor.finding import Level
from tests.certificates import write_certificate
from tests.integration.deploy.operate.doctor.breaks import heartbeat, served
from tests.integration.deploy.operate.doctor.site import Site
from worker.model.checkpoint.manifest import write_manifest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("kind", "options", "level", "word"),
    [
        ("nfs4", ["hard", "sync", "addr=10.0.0.7"], Level.NOT_CHECKED, "on 10.0.0.7, `exportfs -v` must list `sync`"),
        ("nfs4", ["vers=4.2", "soft", "timeo=600"], Level.FAULT, "hard"),
        ("nfs", ["vers=3", "hard", "nolock"], Level.FAULT, "without that option"),
        ("nfs4", ["hard", "local_lock=flock"], Level.FAULT, "without that option"),
        ("cifs", ["vers=3.1.1"], Level.WARNING, "NFS 4"),
        ("fuse.sshfs", [], Level.WARNING, "local disk"),
    ],
)
def test_data_directory_on_another_machine_is_judged_by_its_mount(
    site: Site, kind: str, options: list[str], level: Level, word: str
) -> None:
    site.mount(kind, *options)
    found = site.finding("disk_file_system")

    assert found.level is level
    assert kind in found.found
    assert word in found.found + found.remedy


@pytest.mark.parametrize(
    ("zone", "level"),
    [
        ("Europe/Berlin", Level.OK),
        (":Europe/Berlin", Level.OK),
        ("CET-1CEST,M3.5.0,M10.5.0/3", Level.OK),
        ("UTC", Level.OK),
        (":/etc/hostname", Level.OK),
        ("Berlin", Level.WARNING),
        ("CETX", Level.WARNING),
        ("/usr/share/zoneinfo/Europe/Berln", Level.WARNING),
    ],
)
def test_time_zone_is_known_to_the_c_library(site: Site, zone: str, level: Level) -> None:
    with site.patch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        found = site.finding("time_zone")
    time.tzset()

    assert found.level is level


def test_certificate_is_compared_with_the_name_of_the_machine_or_of_the_canary(site: Site) -> None:
    site.patch.setattr(listener_certificate.socket, "gethostname", lambda: "prelim")
    assert site.finding("tls_names").level is Level.OK

    site.patch.setattr(listener_certificate.socket, "gethostname", lambda: "ris")
    found = site.finding("tls_names")
    assert (found.level, "prelim.test" in found.found, "ris" in found.found) == (Level.WARNING, True, True)

    site.write("root/.dockerenv", "")
    assert site.finding("tls_names").level is Level.NOT_CHECKED


def test_certificate_for_an_address_is_not_one_for_another(site: Site) -> None:
    write_certificate(site.path / "certificate.pem", site.path / "key.pem", days=365, address="192.0.2.7")
    site.values["canary_host"] = "192.0.2.7"
    assert site.finding("tls_names").level is Level.OK

    site.values["canary_host"] = "192.0.2.8"
    assert site.finding("tls_names").level is Level.WARNING


@pytest.mark.parametrize(
    ("days", "level", "word"), [(-1, Level.FAULT, "ended on"), (20, Level.WARNING, "ends on"), (365, Level.OK, "")]
)
def test_ended_certificate_is_a_fault(site: Site, days: int, level: Level, word: str) -> None:
    site.certificate(days=days)
    found = site.finding("tls_dates")

    assert found.level is level
    assert word in found.found


def test_served_certificate_is_compared_with_the_files_on_every_listener(site: Site, database_url: str) -> None:
    site.values["database_url"] = database_url
    assert site.finding("tls_served").level is Level.NOT_CHECKED, "no listener"
    heartbeat(site, Role.LISTENER, {"open": 0}, process="host:1")
    assert site.finding("tls_served").level is Level.NOT_CHECKED, "an earlier release"
    heartbeat(site, Role.LISTENER, {"open": 0, "certificate": None}, process="host:1")
    assert (site.finding("tls_served").level, site.finding("tls_dates").level) == (Level.FAULT, Level.OK)

    served(site, "host:1")
    served(site, "host:2")
    assert site.finding("tls_served").level is Level.OK
    site.certificate(days=400)
    served(site, "host:1")
    found = site.finding("tls_served")
    assert (found.level, "1 of 2 processes" in found.found) == (Level.WARNING, True)
    assert "SIGHUP to each" in found.remedy

    served(site, "host:2")
    assert site.finding("tls_served").level is Level.OK
    served(site, "host:2", authorities="0" * 64)
    assert site.finding("tls_served").level is Level.WARNING, "an authority that is no longer trusted is still admitted"

    served(site, "host:2")
    heartbeat(site, Role.LISTENER, {"open": 0, "certificate": None}, process="host:3")
    found = site.finding("tls_served")
    assert (found.level, "1 of 3 processes" in found.found) == (Level.FAULT, True), (
        "one beside the others is in the clear"
    )


@pytest.mark.parametrize(("days", "level"), [(-1, Level.FAULT), (20, Level.WARNING), (365, Level.OK)])
def test_end_of_the_served_certificate_counts_where_its_file_is_not(
    site: Site, database_url: str, days: int, level: Level
) -> None:
    site.values["database_url"] = database_url
    site.certificate(days=days)
    served(site)
    for replaced in (site.certificate(days=365), None):
        if replaced is None:
            del site.values["tls_certificate"], site.values["tls_key"]
        found = site.finding("tls_served")
        assert found.level is (level if replaced is None or days < 0 else Level.WARNING)


@pytest.mark.parametrize("info", [{"release": "0.1.0+0001.00000000"}, {}])
def test_listener_that_was_not_started_again_after_an_upgrade_is_named(
    site: Site, database_url: str, info: dict[str, str]
) -> None:
    site.values["database_url"] = database_url
    heartbeat(site, Role.WORKER, {})
    heartbeat(site, Role.LISTENER, info, process="host:1")
    found = site.finding("releases")

    assert (found.level, "listener" in found.found) == (Level.WARNING, True)


def test_authority_of_peers_that_has_ended_is_named(site: Site) -> None:
    ended = site.certificate(days=-1, name="ca.pem", key="ca-key.pem")
    site.values["tls_client_ca"] = site.path / "ca.pem"
    assert site.finding("tls_dates").level is Level.FAULT

    valid = site.certificate(days=365, name="ca.pem", key="ca-key.pem")
    (site.path / "ca.pem").write_bytes(valid + ended)
    found = site.finding("tls_dates")
    assert (found.level, "1 of 2 authorities" in found.found) == (Level.WARNING, True)


def test_encrypted_key_is_refused_instead_of_asked_for_at_the_terminal(site: Site) -> None:
    path = site.path / "key.pem"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"secret"))
    )
    found = site.finding("tls")

    assert found.level is Level.FAULT
    assert "is encrypted" in found.found


@pytest.mark.parametrize("setting", ["tls_certificate", "tls_key", "tls_client_ca"])
def test_missing_file_of_tls_is_named(site: Site, setting: str) -> None:
    site.values[setting] = site.path / "none.pem"
    found = site.finding("tls")

    assert (found.level, "none.pem" in found.found) == (Level.FAULT, True)


def test_sentinels_that_are_away_are_named_without_objects_of_the_client(site: Site) -> None:
    site.values["broker_url"] = f"sentinel://:correct-horse-battery@127.0.0.1:{free_port()}/0?master_name=other"
    found = site.finding("broker")

    assert (found.level, "<" in found.found) == (Level.FAULT, False)
    assert "correct-horse" not in repr(found)


def test_certificate_that_is_not_valid_yet_is_a_fault(site: Site) -> None:
    write_certificate(site.path / "certificate.pem", site.path / "key.pem", begins=1, days=365)
    found = site.finding("tls_dates")

    assert (found.level, "check the clock" in found.remedy) == (Level.FAULT, True)


@pytest.mark.parametrize("part", ["missing", "half"])
def test_checkpoint_that_is_half_copied_is_found_without_reading_it(site: Site, part: str) -> None:
    # A sparse file of more than the bytes that the check reads.
    weights = site.write("checkpoint/model.safetensors", "")
    os.truncate(weights, 200 << 20)
    write_manifest(site.checkpoint, {"demo": False}, {"model.safetensors": "0" * 64})
    assert site.finding("checkpoint_digest").level is Level.NOT_CHECKED

    if part == "missing":
        weights.unlink()
    else:
        os.truncate(weights, 100 << 20)
    found = site.finding("checkpoint_digest")
    assert found.level is Level.FAULT
    assert str(weights) in found.remedy


def test_index_of_another_checkpoint_is_found_before_a_worker_runs(site: Site, database_url: str) -> None:
    site.values["database_url"] = database_url
    assert site.finding("reference_index").level is Level.NOT_CHECKED

    with transaction(database_url) as session:
        session.add(ReferenceSnapshot(directory="reference/1", model_digest="1" * 64, cases=1))
    found = site.finding("reference_index")
    assert (found.level, "another checkpoint" in found.found) == (Level.WARNING, True)


@pytest.mark.parametrize(("oldest", "level"), [("0047", Level.WARNING), ("9998", Level.FAULT)])
def test_newer_schema_is_a_fault_unless_this_release_runs_on_it(
    site: Site, database_url: str, oldest: str, level: Level
) -> None:
    site.values["database_url"] = database_url
    comment = f"oldest revision whose processes run on this schema: {oldest}"
    with transaction(database_url) as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        session.execute(text(f"COMMENT ON TABLE alembic_version IS '{comment}'"))

    found = site.finding("schema")
    assert (found.level, "9999, newer than this release" in found.found) == (level, True)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "ip_unprivileged_port_start=104"),
        (OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"), "not an address of this machine"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "cannot be resolved"),
    ],
)
def test_port_that_cannot_be_bound_has_the_remedy_of_its_cause(site: Site, error: OSError, word: str) -> None:
    site.values["dicom_port"] = 104
    real = ports.refusal
    site.patch.setattr(ports, "refusal", lambda host, port: error if port == 104 else real(host, port))
    found = site.finding("ports")

    assert found.level is Level.FAULT
    assert word in f"{found.found} {found.remedy}"
    assert "in use" not in found.found


def test_address_of_another_machine_is_not_a_port_in_use(site: Site) -> None:
    site.values["api_host"] = "192.0.2.1"
    found = site.finding("ports")

    assert "192.0.2.1 is not an address of this machine" in found.found


def test_name_of_a_service_is_near_in_a_container_only(site: Site) -> None:
    installation = site.installation()
    near = {"127.0.0.1", "::1", "localhost", "/run/postgresql"}
    assert {host for host in (*near, "10.0.0.5", "postgres", "db.example") if installation.is_near(host)} == near

    site.write("root/run/.containerenv", "")
    assert installation.is_near("postgres")
    assert not installation.is_near("db.example")
    assert not installation.is_near("10.0.0.5")


def test_encrypted_queue_of_another_machine_passes(site: Site) -> None:
    site.values["broker_url"] = "redis://:correct-horse-battery@queue.example:6379/0"
    assert site.finding("broker_tls").level is Level.WARNING

    site.values["broker_url"] = "rediss://:correct-horse-battery@queue.example:6379/0"
    assert site.finding("broker_tls").level is Level.OK


def test_wrong_password_of_redis_is_told_from_one_that_is_away(site: Site, broker_url: str) -> None:
    _, _, place = broker_url.rpartition("@")
    site.values["broker_url"] = f"redis://:wrong-horse-battery@{place}"
    found = site.finding("broker")

    assert (found.level, "refuses user or password" in found.found) == (Level.FAULT, True)
    assert "wrong-horse" not in repr(found)


def test_every_redis_policy_that_drops_messages_is_a_fault(site: Site, broker_url: str) -> None:
    site.values["broker_url"] = broker_url
    with redis.Redis.from_url(broker_url) as client:
        before = client.config_get("maxmemory-policy")["maxmemory-policy"]
        try:
            for policy in ("volatile-lru", "allkeys-lfu", "volatile-ttl", "allkeys-random"):
                client.config_set("maxmemory-policy", policy)
                assert site.finding("broker_eviction").level is Level.FAULT, policy
        finally:
            client.config_set("maxmemory-policy", before)


def test_password_of_a_wrong_database_is_in_no_finding(site: Site, database_url: str) -> None:
    wrong = make_url(database_url).set(password="correct-horse-battery")
    site.values["database_url"] = wrong.render_as_string(hide_password=False)
    found = site.finding("database")

    assert found.level is Level.FAULT
    assert "correct-horse" not in repr(found)


def test_port_of_another_program_is_named_with_its_setting(site: Site) -> None:
    with closing(socket.create_server(("127.0.0.1", site.values["flower_port"]))):
        found = site.finding("ports")

    assert (found.level, "PRELIM_FLOWER_PORT" in found.remedy) == (Level.FAULT, True)


def test_port_that_two_servers_would_bind_is_a_fault_and_prevents_the_start(site: Site) -> None:
    site.values["flower_port"] = site.values["api_port"]
    found = site.finding("ports")

    assert (found.level, "PRELIM_API_PORT and PRELIM_FLOWER_PORT" in found.found) == (Level.FAULT, True)
    with pytest.raises(ConfigurationError, match="PRELIM_API_PORT and PRELIM_FLOWER_PORT"):
        preflight.check(site.installation().settings)


def test_data_directory_that_is_a_file_is_said_so(site: Site) -> None:
    site.values["data_dir"] = site.write("file", "")
    found = site.finding("data_owner")

    assert (found.level, "is not a directory" in found.found) == (Level.FAULT, True)


@pytest.mark.parametrize(("state", "is_set"), [(0, True), (-1, True), (5, False)])
def test_clock_that_no_time_service_sets_is_named(site: Site, database_url: str, state: int, is_set: bool) -> None:
    """On the one machine of an installation, it agrees with the database's, however wrong it is."""
    site.values["database_url"] = database_url
    site.patch.setattr(database_server, "_clock_state", lambda: state)
    found = site.finding("clock")

    assert found.level is Level.OK
    assert ("no time service sets this machine's clock" in found.found) is not is_set


def test_state_of_the_clock_is_one_of_the_kernels() -> None:
    assert database_server._clock_state() in range(-1, 6)
