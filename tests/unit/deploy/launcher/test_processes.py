from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from pynetdicom import AE, evt

from db.errors import ConfigurationError
from db.settings import Settings
from deploy.embedded.server_process import free_port
from deploy.launcher.processes import VERIFICATION, answers_echo, check_api, check_flower, gives_signs, is_ready, near

if TYPE_CHECKING:
    from collections.abc import Iterator


class Answers(BaseHTTPRequestHandler):
    """An API without worker, and no Flower."""

    def do_GET(self) -> None:
        self.send_response(503 if self.path == "/v1/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def http_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def listener(port: int, **options: object) -> AE:
    ae = AE("PRELIM")
    ae.add_supported_context(VERIFICATION)
    for name, value in options.items():
        setattr(ae, name, value)
    ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _: 0x0000)])
    return ae


def test_a_listener_is_ready_when_it_answers_an_echo() -> None:
    settings = Settings(dicom_port=free_port())
    before = answers_echo(settings)
    ae = listener(settings.dicom_port)
    try:
        assert not before
        assert answers_echo(settings)
    finally:
        ae.shutdown()


def test_a_listener_that_rejects_strangers_is_ready_all_the_same() -> None:
    settings = Settings(dicom_port=free_port())
    ae = listener(settings.dicom_port, require_calling_aet=["FRIEND"])
    try:
        assert answers_echo(settings)
    finally:
        ae.shutdown()


def test_an_api_without_worker_is_ready(http_port: int) -> None:
    assert check_api(Settings(api_port=http_port))


def test_http_checks_want_an_answer_and_the_right_one(http_port: int) -> None:
    assert not check_api(Settings(api_port=free_port()))
    assert not check_flower(Settings(flower_port=http_port))


def test_a_sign_of_life_needs_a_database() -> None:
    nowhere = f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none"

    assert not gives_signs("worker")(Settings(database_url=nowhere), None)


def test_servers_that_bind_every_address_are_asked_on_loopback() -> None:
    assert [near("0.0.0.0"), near("::"), near("10.1.2.3")] == ["127.0.0.1", "::1", "10.1.2.3"]


def test_an_unknown_process_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="listner is none of listener, dispatcher"):
        is_ready("listner", Settings())
