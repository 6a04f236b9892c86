"""A load balancer that opens and closes a connection every second leaves nothing behind."""

from __future__ import annotations

import socket
import struct
import threading
import uuid
from pathlib import Path

import pytest

from dicom_listener.receive.listener import Listener
from tests.certificates import write_certificate
from tests.fuzz.wire import Client, ct_slice
from tests.integration.dicom_listener.listening import connections, settings_for
from tests.long_form import size
from tests.polling import wait_until

RESET = struct.pack("ii", 1, 0)
#: Of a day there are 86,400; 10,000 take ten seconds of a free processor, and more than a minute of a busy one.
MANY = size(2_000, 10_000)


def probe(port: int, number: int) -> None:
    """Connect and close, every second time by a reset, as load balancers do."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        if number % 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("probes", [300, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_probes_of_a_load_balancer_leave_no_log_line_and_no_thread(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], probes: int
) -> None:
    with Listener(settings_for(tmp_path)) as listener, Client(listener.port) as client:
        client.associate()
        assert client.echo() == 0
        probe(listener.port, 0)
        wait_until(lambda: connections() == 1)
        capfd.readouterr()
        threads, files = threading.active_count(), descriptors()
        for number in range(probes):
            probe(listener.port, number)
            if number % (probes // 10) == 0:
                assert client.echo() == 0
        wait_until(lambda: connections() == 1)

        assert [line for line in "".join(capfd.readouterr()).splitlines() if "[debug" not in line] == []
        # One more: the state machine of the last connection ends later.
        wait_until(lambda: threading.active_count() <= threads + 1 and descriptors() <= files + 1)
        uid = f"2.25.{uuid.uuid4().int}"
        assert client.store(uid, ct_slice(uid)) == 0


def test_probes_of_a_port_with_tls_leave_no_log_line_and_a_failed_handshake_does(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    write_certificate(certificate, key, days=1)
    settings = settings_for(tmp_path / "data", tls_certificate=certificate, tls_key=key)

    def lines() -> list[str]:
        return [line for line in "".join(capfd.readouterr()).splitlines() if "[debug" not in line]

    with Listener(settings) as listener:
        lines()
        for number in range(50):
            probe(listener.port, number)
        wait_until(lambda: connections() == 0)
        assert lines() == []
        with socket.create_connection(("127.0.0.1", listener.port)) as connection:
            connection.sendall(b"no TLS")
        found: list[str] = []
        wait_until(lambda: bool(found.extend(lines()) or found))
        assert "TLS handshake failed" in found[0]
