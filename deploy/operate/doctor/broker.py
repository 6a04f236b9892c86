"""The Redis server of the queue: reachable, with persistence and room, evicting nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from db.jobs import redis_client
from db.settings import server_urls
from deploy.operate.doctor.finding import Check, Finding, NotChecked, fault, ok, warning

if TYPE_CHECKING:
    from deploy.operate.doctor.finding import Installation

#: Seconds for Redis to answer: a check should fail while its user still looks.
ANSWER_SECONDS = 5
#: Oldest version that Prelim is tested with.
MIN_VERSION = (6, 2)
#: Share of maxmemory from which messages may soon be refused.
MAX_MEMORY_SHARE = 0.8


def reachable(installation: Installation) -> Finding:
    """Ping Redis; the finding names its address without the password."""
    url = installation.broker_url()
    place = ", ".join(f"{host}:{port}" if port else host for host, port in server_urls.addresses(url))
    try:
        version = _info(url)["redis_version"]
    except (RedisError, OSError) as error:
        return fault(
            f"PRELIM_BROKER_URL: {place} cannot be reached ({type(error).__name__})",
            "start Redis there, or unset it to use the embedded one; workers poll the database meanwhile",
        )
    return ok(f"{place}, Redis {version}")


def _info(url: str) -> dict[str, Any]:
    """Return the figures of INFO, which an account without CONFIG may read; raises RedisError, OSError."""
    with redis_client.connect(url, ANSWER_SECONDS) as client:
        client.ping()
        info: dict[str, Any] = client.info()
        return info


def _figures(installation: Installation) -> dict[str, Any]:
    try:
        return _info(installation.broker_url())
    except (RedisError, OSError) as error:
        raise NotChecked("Redis cannot be reached") from error


def examine_version(installation: Installation) -> Finding:
    """Compare the server's version with the oldest tested one."""
    version = str(_figures(installation)["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) >= MIN_VERSION:
        return ok(f"Redis {version}")
    return warning(f"Redis {version}", f"upgrade to {'.'.join(map(str, MIN_VERSION))} or later")


def examine_persistence(installation: Installation) -> Finding:
    """Report a Redis that keeps its messages in memory only, or failed to write them."""
    figures = _figures(installation)
    if not figures.get("aof_enabled"):
        return warning("appendonly is off", "set `appendonly yes` in redis.conf")
    if figures.get("aof_last_write_status", "ok") != "ok":
        return fault("the last write of the append-only file failed", "free space on the disk of Redis; see its log")
    return ok("appendonly is on")


def examine_eviction(installation: Installation) -> Finding:
    """Require that Redis refuses writes rather than drops messages."""
    policy = _figures(installation).get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return ok("maxmemory-policy is noeviction")
    return fault(f"maxmemory-policy is {policy}", "set `maxmemory-policy noeviction` in redis.conf")


def examine_memory(installation: Installation) -> Finding:
    """Compare the used memory with the limit of Redis."""
    figures = _figures(installation)
    limit, used = int(figures.get("maxmemory", 0)), int(figures["used_memory"])
    if not limit:
        return ok(f"{used >> 20} MiB used, no limit")
    found = f"{used >> 20} of {limit >> 20} MiB used"
    return ok(found) if used < MAX_MEMORY_SHARE * limit else warning(found, "raise maxmemory of Redis")


CHECKS = (
    Check("broker", "without Redis, workers find jobs by polling, up to 3 s later", reachable),
    Check("broker_version", "Prelim is tested with Redis 6.2 and later", examine_version),
    Check(
        "broker_persistence", "a restart empties the queue, and jobs start only when sent again", examine_persistence
    ),
    Check("broker_eviction", "Redis would drop messages when its memory is full", examine_eviction),
    Check("broker_memory", "a full Redis refuses messages", examine_memory),
)
