"""The address of a client is that of its connection, or the one that a configured proxy has appended."""

from __future__ import annotations

import http.client
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError
from sqlalchemy import select

from api.server import serve
from db.errors import ConfigurationError
from db.models import AuditRow
from db.session import transaction
from db.settings import Settings
from tests.benchmarks.receivers import free_port
from tests.integration.api.page.conftest import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Every address of 127.0.0.0/8 is this machine: the proxy, an attacker who connects directly, and two readers.
PROXY, ATTACKER, READER, OTHER = "127.0.0.2", "127.0.0.3", "127.0.0.10", "127.0.0.11"


@contextmanager
def proxy(upstream: int) -> Iterator[int]:
    """Run a reverse proxy that appends the client's address, as proxies do, to what the client sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("X-Forwarded-For")
            named = f"{given}, {self.client_address[0]}" if given else self.client_address[0]
            headers = {"Authorization": self.headers["Authorization"], "X-Forwarded-For": named}
            self.send_response(status(upstream, PROXY, self.path, headers))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def status(port: int, source: str, path: str, headers: dict[str, str]) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30, source_address=(source, 0))) as connection:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status


def guesses(port: int, source: str, count: int) -> list[int]:
    """Return the answers to invalid keys, each sent with another address as the client's own."""
    named = ({"X-Forwarded-For": f"10.0.0.{number}"} for number in range(count))
    return [status(port, source, "/v1/studies", each | {"Authorization": "Bearer prelim_x"}) for each in named]


@pytest.mark.slow
def test_client_cannot_name_another_address_as_its_own(database_url: str, broker_url: str, tmp_path: Path) -> None:
    settings = {
        "PRELIM_BROKER_URL": broker_url,
        "PRELIM_FAILED_LOGINS_PER_MINUTE": "2",
        "PRELIM_TRUSTED_PROXIES": f"10.9.0.0/16, {PROXY}",
    }
    port = free_port()
    with serving(database_url, tmp_path, port, **settings), proxy(port) as front:
        found = [guesses(front, READER, 3), guesses(port, ATTACKER, 3), guesses(front, OTHER, 1)]
    with transaction(database_url) as session:
        addresses = session.scalars(select(AuditRow.address).order_by(AuditRow.at)).all()

    assert found == [[401, 401, 429], [401, 401, 429], [401]]
    assert addresses == [READER] * 3 + [ATTACKER] * 3 + [OTHER]


@pytest.mark.parametrize("proxies", ["*", "proxy.example", "10.0.0.1/8", "127.0.0.1, 0.0.0.0/0", "::/0"])
def test_all_addresses_or_none_are_refused_as_proxies(proxies: str) -> None:
    with pytest.raises(ValidationError):
        Settings(trusted_proxies=proxies)


def test_variable_of_earlier_releases_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.1")

    with pytest.raises(ConfigurationError, match="set PRELIM_TRUSTED_PROXIES"):
        serve.run(Settings(data_dir=tmp_path))
