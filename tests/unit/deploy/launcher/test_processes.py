from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from pynetdicom import AE, evt

from db.operations.heartbeats import Role
from db.settings import Settings
from deploy.embedded.server_process import free_port
from deploy.launcher.processes import (
    answers_echo,
    check_api,
    check_flower,
    has_heartbeat,
    loopback_address,
)
from dicom_listener.dicom.uids import VERIFICATION

if TYPE_CHECKING:
    from collections.abc import Iterator


class FakeApi(BaseHTTPRequestHandler):
    """API without a worker; any other path is not found."""

    def do_GET(self) -> None:
        self.send_response(503 if self.path == "/v1/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Write no access log."""


@pytest.fixture
def http_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeApi) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def listener(port: int, *, calling: tuple[str, ...] = ()) -> AE:
    ae = AE("PRELIM")
    ae.add_supported_context(VERIFICATION)
    ae.require_calling_aet = list(calling)
    ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _: 0x0000)])
    return ae


def test_listener_that_answers_echo_is_ready() -> None:
    settings = Settings(dicom_port=free_port())
    before = answers_echo(settings)
    ae = listener(settings.dicom.dicom_port)
    try:
        assert not before
        assert answers_echo(settings)
    finally:
        ae.shutdown()


def test_listener_that_rejects_unlisted_callers_is_ready() -> None:
    settings = Settings(dicom_port=free_port())
    ae = listener(settings.dicom.dicom_port, calling=("FRIEND",))
    try:
        assert answers_echo(settings)
    finally:
        ae.shutdown()


def test_api_without_worker_is_ready(http_port: int) -> None:
    assert check_api(Settings(api_port=http_port))


def test_http_checks_need_the_expected_status(http_port: int) -> None:
    assert not check_api(Settings(api_port=free_port()))
    assert not check_flower(Settings(flower_port=http_port))


def test_heartbeat_check_fails_without_a_database() -> None:
    nowhere = f"postgresql+psycopg://user@127.0.0.1:{free_port()}/none"

    assert not has_heartbeat(Role.WORKER)(Settings(database_url=nowhere), None)


def test_servers_that_bind_every_address_are_reached_on_loopback() -> None:
    assert [loopback_address("0.0.0.0"), loopback_address("::"), loopback_address("10.1.2.3")] == [
        "127.0.0.1",
        "::1",
        "10.1.2.3",
    ]
