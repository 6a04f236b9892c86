"""URLs of PostgreSQL and of the broker, also of several servers of which one accepts writes.

postgresql+psycopg://user:password@db1:5432,db2:5432/prelim
sentinel://:password@host1:26379,host2:26379,host3:26379/0?master_name=prelim
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

SCHEMES = {"database_url": ("postgresql+psycopg://",), "broker_url": ("redis://", "rediss://", "sentinel://")}
SENTINEL_PORT = 26379
SENTINEL_PARAMETERS = frozenset({"master_name", "sentinel_password"})


class Sentinel(NamedTuple):
    """Sentinels that name the current master of *master_name*; the credentials are those of the master."""

    nodes: tuple[tuple[str, int], ...]
    master_name: str
    database: int
    username: str | None
    password: str | None
    sentinel_password: str | None


def checked(name: str, url: str) -> str:
    """Return the URL of the setting *name* in the form of its client library; raises ValueError without its text."""
    if not url.startswith(SCHEMES[name]):
        raise ValueError(f"must begin with {' or '.join(SCHEMES[name])}")
    if name == "database_url":
        return _with_host_parameters(url)
    sentinel(url)
    return url


def addresses(url: str) -> list[tuple[str, int | None]]:
    """Return hosts and ports of a URL; raises ValueError if a port is no number, without the password in its text."""
    _, _, hosts, _ = _split(url)
    places = [urlsplit(f"//{host}") for host in hosts.split(",")]
    return [(place.hostname or "", place.port) for place in places]


def sentinel(url: str) -> Sentinel | None:
    """Return the sentinels of a `sentinel://` URL; None for another one. Raises ValueError for what is missing."""
    if not url.startswith("sentinel://"):
        return None
    _, user, _, tail = _split(url)
    path, _, query = tail.partition("?")
    parameters = dict(parse_qsl(query))
    if not parameters.get("master_name") or parameters.keys() - SENTINEL_PARAMETERS:
        raise ValueError("a sentinel:// URL must end with ?master_name=NAME; &sentinel_password=... may follow")
    nodes = tuple((host, port or SENTINEL_PORT) for host, port in addresses(url))
    if not all(host for host, _ in nodes) or not re.fullmatch(r"/?\d*", path):
        raise ValueError("a sentinel:// URL must have the form sentinel://:PASSWORD@HOST:PORT,HOST:PORT/NUMBER?...")
    name, _, password = user.partition(":")
    return Sentinel(
        nodes,
        parameters["master_name"],
        int(path.removeprefix("/") or 0),
        unquote(name) or None,
        unquote(password) or None,
        parameters.get("sentinel_password"),
    )


def credentials(found: Sentinel) -> str:
    """Return the user name and password of the master as the begin of a URL's authority; empty without a password."""
    return f"{quote(found.username or '', safe='')}:{quote(found.password, safe='')}@" if found.password else ""


def places(found: Sentinel) -> list[str]:
    """Return `host:port` of each sentinel."""
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in found.nodes]


def _with_host_parameters(url: str) -> str:
    """Return a URL of several hosts, as libpq has them after the `@`, with parameters `host`, as for SQLAlchemy."""
    scheme, user, hosts, tail = _split(url)
    if "," not in hosts:
        return url
    path, _, query = tail.partition("?")
    parameters = [f"host={host}" for host in hosts.split(",")] + [query] * bool(query)
    credentials = f"{user}@" if user else ""
    return f"{scheme}://{credentials}{path or '/'}?{'&'.join(parameters)}"


def _split(url: str) -> tuple[str, str, str, str]:
    """Split a URL into scheme, credentials, hosts, and the rest from the path on."""
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    credentials, _, hosts = authority.rpartition("@")
    return scheme, credentials, hosts, rest[len(authority) :]
