"""A load balancer that opens and closes a connection every second for a day leaves nothing behind."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
import uuid
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from dicom_listener.receive.listener import Listener
from tests.certificates import write_certificate
from tests.fuzz.listener import listening
from tests.fuzz.wire import Client, associate_rq, ct_slice
from tests.integration.dicom_listener.listening import connections, settings_for
from tests.long_form import size
from tests.polling import wait_until

if TYPE_CHECKING:
    from tests.fuzz.listener import Subject

Resources = tuple[int, int, int]
RESET = struct.pack("ii", 1, 0)
#: A day has 86,400 seconds.
MANY = size(2_000, 86_400)
#: Probes before the first measurement: the memory of a process grows over its first 5,000 connections.
WARM_UP = size(500, 5_000)
#: Growth of the resident memory of all processes that counts as none, in bytes: of a day, 300 bytes for each probe.
MEMORY_BYTES = size(32, 24) * 2**20
#: Probes that are open at a time for HELD_SECONDS each; a listener allows 16 silent connections of one address.
HELD, HELD_SECONDS = 8, 1.0
HALF_A_REQUEST = associate_rq()[:100]
LOGS = "from db import logs; logs.configure(Settings())"


def probe(port: int, number: int) -> None:
    """Connect and close, every second time by a reset, as load balancers do."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        if number % 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_probes_of_a_load_balancer_leave_no_log_line_and_no_thread(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Listener(settings_for(tmp_path)) as listener, Client(listener.port) as client:
        client.associate()
        assert client.echo() == 0
        probe(listener.port, 0)
        wait_until(lambda: connections() == 1)
        capfd.readouterr()
        threads, files = threading.active_count(), descriptors()
        for number in range(300):
            probe(listener.port, number)
            if number % 30 == 0:
                assert client.echo() == 0
        wait_until(lambda: connections() == 1)

        assert [line for line in "".join(capfd.readouterr()).splitlines() if "[debug" not in line] == []
        # One more: the state machine of the last connection ends later.
        wait_until(lambda: threading.active_count() <= threads + 1 and descriptors() <= files + 1)
        uid = f"2.25.{uuid.uuid4().int}"
        assert client.store(uid, ct_slice(uid)) == 0


class Sender:
    """An association that sends C-ECHO, and stores an object at every tenth time, until it is stopped."""

    def __init__(self, port: int) -> None:
        self.statuses: Counter[int | str] = Counter()
        self.stored = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, args=(port,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _send(self, port: int) -> None:
        try:
            with Client(port) as client:
                client.associate()
                while not self._stop.wait(0.05):
                    self.statuses[client.echo()] += 1
                    if self.statuses[0] % 10 == 1:
                        uid = f"2.25.{uuid.uuid4().int}"
                        self.stored += client.store(uid, ct_slice(uid)) == 0
                client.release()
        except (OSError, AssertionError) as error:
            self.statuses[repr(error)] += 1


class Probes:
    """Probes of four kinds: closed, reset, closed after half a request, and closed after HELD_SECONDS."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._held: deque[tuple[float, socket.socket]] = deque()
        self.counts: Counter[str] = Counter()

    def send(self, count: int) -> None:
        """Send *count* probes, as fast as they go."""
        kinds = (self._close, self._reset, self._stop_within_a_request, self._hold)
        for number in range(count):
            kinds[number % 4](self._connect(number))
            self._end_held()
        wait_until(lambda: self._end_held() == 0)

    def _connect(self, number: int) -> socket.socket:
        """Connect from one of several addresses: the ports of one would not suffice for so many in so short a time."""
        return socket.create_connection(
            ("127.0.0.1", self._port), timeout=30, source_address=(f"127.0.0.{2 + number % 8}", 0)
        )

    def _close(self, connection: socket.socket) -> None:
        """Close, and wait for the listener to do so: otherwise it would have more open at a time than in a day."""
        self.counts["closed"] += 1
        with connection:
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""

    def _reset(self, connection: socket.socket) -> None:
        self.counts["reset"] += 1
        with connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def _stop_within_a_request(self, connection: socket.socket) -> None:
        self.counts["closed after half a request"] += 1
        with connection:
            connection.sendall(HALF_A_REQUEST)

    def _hold(self, connection: socket.socket) -> None:
        if len(self._held) == HELD:
            self._close(connection)
        else:
            self.counts["closed after a second"] += 1
            self._held.append((time.monotonic(), connection))

    def _end_held(self) -> int:
        """Close the connections that were held long enough; return how many remain."""
        while self._held and time.monotonic() - self._held[0][0] >= HELD_SECONDS:
            self._held.popleft()[1].close()
        return len(self._held)


def write_figures(probes: Probes, before: Resources, after: Resources, stored: int) -> None:
    """Write the figures of the run for the reader of `pytest -s`."""
    names = ("resident bytes", "threads", "descriptors")
    figures = ", ".join(f"{name} {then} -> {now}" for name, then, now in zip(names, before, after, strict=True))
    sys.stdout.write(f"{dict(probes.counts)}; {figures}; objects stored meanwhile: {stored}\n")


def released(subject: Subject, before: Resources) -> bool:
    """Return whether the listener has no more memory, threads and descriptors than *before*."""
    memory, threads, descriptors = (now - then for now, then in zip(subject.resources(), before, strict=True))
    return memory <= MEMORY_BYTES and threads <= 0 and descriptors <= 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_probes_of_a_day_leave_nothing_behind_and_disturb_no_association(tmp_path: Path) -> None:
    log, stored = tmp_path / "listener.log", 0
    with listening(tmp_path, LOGS, listener_processes=2) as subject:
        probes = Probes(subject.port)
        probes.send(WARM_UP)
        before = subject.resources_at_rest()
        with Sender(subject.port) as first, Sender(subject.port) as second:
            wait_until(lambda: bool(first.statuses and second.statuses))
            lines = log.read_text().splitlines()
            probes.send(MANY)
            assert log.read_text().splitlines() == lines
        for sender in (first, second):
            assert set(sender.statuses) == {0}
            assert sender.stored == (sender.statuses[0] + 9) // 10
            stored += sender.stored
        wait_until(lambda: released(subject, before))
        write_figures(probes, before, subject.resources(), stored)
    assert sum(probes.counts.values()) == WARM_UP + MANY


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
