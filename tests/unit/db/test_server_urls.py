"""URLs of several servers."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from api.access import rate_limits
from db.environment import load_settings
from db.errors import ConfigurationError
from db.jobs import redis_client
from db.jobs.celery_app import make_app
from db.settings import Settings, server_urls

SENTINELS = "sentinel://:p%40ss@one:1,two,[::1]:3/2?master_name=queue&sentinel_password=s"


@pytest.mark.parametrize("tail", ["/prelim", "/prelim?connect_timeout=3"])
def test_hosts_of_libpq_become_those_of_sqlalchemy(tail: str) -> None:
    url = make_url(Settings(database_url=f"postgresql+psycopg://me:p%40ss@one:1,two{tail}").database())
    _, arguments = PGDialect_psycopg().create_connect_args(url)

    assert (arguments["host"], arguments["port"]) == ("one,two", "1,")
    assert (arguments["user"], arguments["password"], arguments["dbname"]) == ("me", "p@ss", "prelim")


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://me@one/prelim", "postgresql+psycopg://me@/prelim?host=one:1&host=two:2"]
)
def test_other_forms_of_a_database_url_stay_as_they_are(url: str) -> None:
    assert Settings(database_url=url).database() == url


def test_sentinels_are_given_to_every_client() -> None:
    app = make_app(Settings(broker_url=SENTINELS).broker())
    with app.connection() as connection:
        assert connection.alt == [f"sentinel://:p%40ss@{place}/2" for place in ("one:1", "two:26379", "[::1]:3")]
        channel = connection.transport_options
    assert (channel["master_name"], channel["sentinel_kwargs"]["password"]) == ("queue", "s")

    client = redis_client.connect(SENTINELS, 1)
    pool = client.connection_pool
    assert [sentinel.connection_pool.connection_kwargs["host"] for sentinel in pool.sentinel_manager.sentinels] == [
        "one",
        "two",
        "::1",
    ]
    assert (pool.service_name, pool.connection_kwargs["password"], pool.connection_kwargs["db"]) == ("queue", "p@ss", 2)

    storage = rate_limits._storage(SENTINELS)
    assert (storage.service_name, storage.sentinel.connection_kwargs["password"]) == ("queue", "p@ss")
    assert storage.sentinel.sentinel_kwargs["password"] == "s"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sentinel://:secret@one:1/0", "must end with \\?master_name=NAME"),
        ("sentinel://:secret@one:1/0?master_name=q&other=1", "master_name"),
        ("sentinel://:secret@one:1,:2/0?master_name=q", "must have the form"),
        ("sentinel://:secret@one:1/queue?master_name=q", "must have the form"),
        ("sentinel://:secret@one:x/0?master_name=q", "host or port is invalid"),
        ("amqp://:secret@one", "must begin with redis:// or rediss:// or sentinel://"),
    ],
)
def test_invalid_url_is_refused_without_its_password(url: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_BROKER_URL", url)
    with pytest.raises(ConfigurationError, match=problem) as refused:
        load_settings()
    assert "secret" not in str(refused.value)


def test_one_invalid_port_of_several_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_DATABASE_URL", "postgresql+psycopg://me:secret@one:1,two:x/prelim")
    with pytest.raises(ConfigurationError, match="host or port is invalid"):
        load_settings()


def test_url_of_one_server_has_no_sentinels() -> None:
    assert server_urls.sentinel("redis://one") is None
    assert redis_client.kombu_url("redis://one") == "redis://one"
