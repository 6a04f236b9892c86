"""Clients of the broker: its URL may name one server, or sentinels that name the current master."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from redis import CredentialProvider, Redis
from redis.sentinel import Sentinel

from db.environment import current_urls
from db.settings import server_urls

if TYPE_CHECKING:
    from db.settings.server_urls import Sentinel as Sentinels


class SecretFile(CredentialProvider):
    """User and password of the broker for a new connection: those of its secret file as it is then."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return user name and password, or the password alone."""
        found = urlsplit(current_urls(self._url)[0])
        password = unquote(found.password or "")
        return (unquote(found.username), password) if found.username else (password,)


def secret_file(url: str) -> SecretFile | None:
    """Return the credentials of a broker with a password; with sentinels, they are those of the start."""
    has_password = server_urls.sentinel(url) is None and urlsplit(url).password
    return SecretFile(url) if has_password else None


def connect(url: str, seconds: float) -> Redis:
    """Return a client with *seconds* for each connection and answer; with sentinels, one of the current master."""
    limits: dict[str, Any] = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    found = server_urls.sentinel(url)
    if found is None:
        return Redis.from_url(url, **limits)
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call] # redis has types in parts
        found.nodes,
        sentinel_kwargs=limits | {"password": found.sentinel_password},
        username=found.username,
        password=found.password,
        db=found.database,
        **limits,
    )
    client: Redis = sentinel.master_for(found.master_name)
    return client


def kombu_url(url: str) -> str:
    """Return the URL in kombu's form: one URL for each sentinel."""
    found = server_urls.sentinel(url)
    if found is None:
        return url
    credentials = server_urls.credentials(found)
    return ";".join(f"sentinel://{credentials}{place}/{found.database}" for place in server_urls.places(found))


def kombu_options(url: str, seconds: float) -> dict[str, Any]:
    """Return kombu's transport options for sentinels; without sentinels, none."""
    found = server_urls.sentinel(url)
    if found is None:
        return {}
    limits = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    return {"master_name": found.master_name, "sentinel_kwargs": limits | {"password": found.sentinel_password}}


def limits_url(found: Sentinels) -> str:
    """Return the URL in the form of the library limits, which does not decode credentials."""
    return f"redis+sentinel://{','.join(server_urls.places(found))}/{quote(found.master_name)}"
