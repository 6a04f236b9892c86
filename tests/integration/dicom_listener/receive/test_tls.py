"""DICOM over TLS."""

from __future__ import annotations

import contextlib
import gc
import shutil
import ssl
import subprocess
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from pynetdicom import AE
from typer.testing import CliRunner

from db.errors import ConfigurationError
from deploy.cli import app
from dicom_listener.dicom.uids import VERIFICATION
from dicom_listener.receive import status_file, tls
from dicom_listener.receive.listener import Listener
from dicom_listener.receive.seats import MAX_PENDING_PER_ADDRESS
from dicom_listener.receive.upper_layer import wire
from dicom_listener.spool.durable import Spool
from tests.certificates import write_certificate
from tests.conftest import missing
from tests.fuzz.wire import Client
from tests.integration.dicom_listener.listening import connections, settings_for
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect such sockets here, not in the test of another module."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Self-signed certificates with their keys: listener, trusted peer, untrusted peer."""
    if shutil.which("openssl") is None:
        missing("openssl, to make certificates,")
    folder = tmp_path_factory.mktemp("certificates")
    made = {name: folder / f"{name}.pem" for name in ("listener", "peer", "untrusted")}
    for name, path in made.items():
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        subprocess.run([*request, "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
        path.write_bytes(path.read_bytes() + path.with_name(f"{path.name}.crt").read_bytes())
    return made


@pytest.fixture
def listener(tmp_path: Path, certificates: dict[str, Path]) -> Iterator[Listener]:
    settings = settings_for(tmp_path, tls_certificate=certificates["listener"], tls_client_ca=certificates["peer"])
    with Listener(settings) as listener:
        yield listener


def client_context(certificates: dict[str, Path], who: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(certificates["listener"])
    if who is not None:
        context.load_cert_chain(certificates[who])
    return context


def echoes(listener: Listener, context: ssl.SSLContext | None) -> bool:
    ae = AE()
    ae.add_requested_context(VERIFICATION)
    ae.connection_timeout = ae.acse_timeout = 5
    tls = None if context is None else (context, "listener")
    association = ae.associate("127.0.0.1", listener.port, tls_args=tls)
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return bool("Status" in status and status.Status == 0)


def test_peer_with_a_trusted_certificate_is_served(listener: Listener, certificates: dict[str, Path]) -> None:
    assert echoes(listener, client_context(certificates, "peer"))


@pytest.mark.parametrize("suite", ["AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA256", "DHE-RSA-AES256-GCM-SHA384"])
def test_suites_without_authenticated_encryption_and_ecdhe_are_refused(
    listener: Listener, certificates: dict[str, Path], suite: str
) -> None:
    context = client_context(certificates, "peer")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suite)
    assert not echoes(listener, context)

    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    assert echoes(listener, context)


@pytest.mark.parametrize("who", ["untrusted", None])
def test_peer_without_a_trusted_certificate_is_not_served(
    listener: Listener, certificates: dict[str, Path], who: str | None
) -> None:
    assert not echoes(listener, client_context(certificates, who))


@pytest.mark.parametrize(("who", "status"), [("peer", 0), ("untrusted", 1)])
def test_commands_present_a_client_certificate(
    listener: Listener, certificates: dict[str, Path], tmp_path: Path, who: str, status: int
) -> None:
    tls = ["--ca", str(certificates["listener"]), "--cert", str(certificates[who])]
    node = ["--host", "127.0.0.1", "--port", str(listener.port)]
    (tmp_path / "notes.txt").write_text("no DICOM file")

    assert CliRunner().invoke(app.app, ["echo", *node, *tls]).exit_code == status
    assert CliRunner().invoke(app.app, ["send", str(tmp_path / "notes.txt"), *node, *tls]).exit_code == 1


def test_peer_without_tls_is_not_served(listener: Listener) -> None:
    assert not echoes(listener, None)


def test_tls_before_1_2_is_not_supported(listener: Listener, certificates: dict[str, Path]) -> None:
    context = client_context(certificates, "peer")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "TLSVersion.TLSv1 is deprecated": the point of this test
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    assert not echoes(listener, context)


def test_missing_tls_handshake_ends_the_connection(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HANDSHAKE_SECONDS", 0.2)
    with Client(listener.port):
        wait_until(lambda: connections() == 0)


def test_silent_connection_keeps_no_other_peer_waiting(listener: Listener, certificates: dict[str, Path]) -> None:
    with Client(listener.port), Client(listener.port):
        began = time.monotonic()
        assert echoes(listener, client_context(certificates, "peer"))
        assert time.monotonic() - began < wire.HANDSHAKE_SECONDS / 2


def test_new_certificate_is_used_and_an_unusable_one_is_not(tmp_path: Path, certificates: dict[str, Path]) -> None:
    current = tmp_path / "current.pem"
    shutil.copy(certificates["untrusted"], current)
    with Listener(settings_for(tmp_path, tls_certificate=current)) as listener:
        context = client_context(certificates, None)
        assert not echoes(listener, context)
        shutil.copy(certificates["listener"], current)
        listener.read_certificate()
        assert echoes(listener, context)
        current.write_text("")
        listener.read_certificate()
        assert echoes(listener, context)


def test_status_has_the_certificate_that_is_served_and_not_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_file, "WRITE_SECONDS", 0.0)
    current, key = tmp_path / "current.pem", tmp_path / "key.pem"
    write_certificate(current, key, days=20)
    settings = settings_for(tmp_path, tls_certificate=current, tls_key=key)
    loaded = tls.description(settings)
    with Listener(settings) as listener:
        wait_until(lambda: served(settings) == loaded)
        write_certificate(current, key, days=400)
        replaced = tls.description(settings)
        [path] = tmp_path.glob("spool/slots/*/listener.json")
        written = path.stat().st_mtime_ns
        wait_until(lambda: path.stat().st_mtime_ns > written)
        assert served(settings) == loaded

        listener.read_certificate()
        wait_until(lambda: served(settings) == replaced)
        current.write_text("")
        listener.read_certificate()
        assert served(settings) == replaced

    assert replaced["ends"] - loaded["ends"] > 379 * 86400


def served(settings: Settings) -> dict[str, Any] | None:
    found = status_file.read_all(Spool(settings.spool))
    return found[0]["certificate"] if found else None


def test_file_that_is_replaced_while_it_is_loaded_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    current, key = tmp_path / "current.pem", tmp_path / "key.pem"
    write_certificate(current, key, days=20)
    settings = settings_for(tmp_path, tls_certificate=current, tls_key=key)
    load, replaced = tls._load, []

    def replace(*arguments: Any) -> None:
        load(*arguments)
        if not replaced:
            write_certificate(current, key, days=400)
            replaced.append(tls.description(settings))

    monkeypatch.setattr(tls, "_load", replace)
    context = tls.server_context(settings)

    assert context is not None
    assert [context.loaded] == replaced


def test_pending_handshakes_above_the_limit_are_ended(listener: Listener) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(2 * MAX_PENDING_PER_ADDRESS):
            stack.enter_context(Client(listener.port))
        wait_until(lambda: connections() <= MAX_PENDING_PER_ADDRESS)


def test_tls_key_without_certificate_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="PRELIM_TLS_CERTIFICATE"):
        Listener(settings_for(tmp_path, tls_key=tmp_path))
