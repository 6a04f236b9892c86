"""The Redis server of the queue: reachable, with persistence and room, evicting nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

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
    except (AuthenticationError, NoPermissionError) as error:
        return fault(
            f"PRELIM_BROKER_URL: {place} refuses user or password ({type(error).__name__})",
            "correct them in the URL; workers poll the database meanwhile",
        )
    except (RedisError, OSError) as error:
        return fault(
            f"PRELIM_BROKER_URL: {place} cannot be reached: {_cause(error, url)}",
            "start Redis there, or unset it to use the embedded one; workers poll the database meanwhile",
        )
    return ok(f"{place}, Redis {version}")


def _cause(error: Exception, url: str) -> str:
    """Return the first line of the client's message, without the password should it quote the URL."""
    # Of Sentinel, the objects of the client follow.
    line = (str(error).splitlines() or [type(error).__name__])[0].partition(" : <")[0]
    _, _, password = url.rpartition("@")[0].rpartition(":")
    return line.replace(password, "***") if password else line


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


def examine_role(installation: Installation) -> Finding:
    """Find a Redis that refuses messages: a replica, or one that could not write its file."""
    figures = _figures(installation)
    if figures.get("role", "master") != "master":
        return fault("this Redis is a replica, which refuses messages", "name the master, or its sentinels, in the URL")
    if figures.get("rdb_last_bgsave_status", "ok") != "ok":
        return fault(
            "the last snapshot of Redis failed, after which it refuses messages",
            'free space on its disk; see its log; Prelim needs no snapshots: `save ""` in redis.conf',
        )
    return ok("a master, which accepts messages")


def examine_encryption(installation: Installation) -> Finding:
    """Find a Redis of another machine whose password is sent without encryption."""
    url = installation.broker_url()
    far = [host for host, _ in server_urls.addresses(url) if not installation.is_near(host)]
    if not far or url.startswith("rediss://"):
        return ok("encrypted" if far else "the traffic stays on this machine or between its containers")
    return warning(
        f"the traffic to {', '.join(far)} is not encrypted",
        "turn on TLS in Redis and write rediss:// in PRELIM_BROKER_URL, or use a network of their own; sentinels"
        " have no TLS",
    )


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
    Check("broker_role", "a message that Redis refuses wakes no worker", examine_role),
    Check("broker_tls", "who listens on the network reads the password of the queue", examine_encryption),
    Check("broker_memory", "a full Redis refuses messages", examine_memory),
)
