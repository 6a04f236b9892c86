"""Limit the rate of requests of a caller and of failed logins of an address, counted in Redis for all processes.

Without Redis nothing is limited: reading must not depend on it, and a key of 256 random bits cannot be guessed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import structlog
from limits import RateLimitItemPerMinute
from limits.storage import RedisSentinelStorage, RedisStorage
from limits.strategies import FixedWindowRateLimiter
from redis.exceptions import RedisError

from api.errors import ApiError, ErrorCode, Problem
from db.environment import current_urls
from db.errors import ConfigurationError
from db.jobs import redis_client
from db.log_budget import LogBudget
from db.settings import server_urls

if TYPE_CHECKING:
    from db.access.principals import Principal
    from db.settings import Settings

log = structlog.get_logger()

#: Seconds to wait for Redis, and after a failure until it is asked again: a request must not wait for it.
TIMEOUT_SECONDS, PAUSE_SECONDS = 0.2, 5.0
KEY_PREFIX = "prelim:limits"


class RateLimits:
    """Limits of one application."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limiter: FixedWindowRateLimiter | None = None
        self._paused_until = 0.0
        #: Of the lines that callers without a valid credential cause.
        self.log_budget = LogBudget("logins.not_logged")

    def connect(self) -> None:
        """Connect to Redis unless that was done, or failed just now: its URL may be in a file."""
        if self._limiter is None and time.monotonic() >= self._paused_until:
            try:
                self._limiter = FixedWindowRateLimiter(_storage(current_urls(self._settings.broker())[0]))
            except (RedisError, ConfigurationError) as error:
                self._suspend(error)

    def count_failed_login(self, address: str) -> None:
        """Count a failed login or an invalid credential; raises ApiError 429 for an address with too many.

        A valid credential is accepted even then: one faulty program must not exclude everybody behind a proxy.
        """
        self._count(self._settings.api.failed_logins_per_minute, "failed", address)

    def count_request(self, principal: Principal) -> None:
        """Count a request; raises ApiError 429 for a caller with too many."""
        self._count(self._settings.api.requests_per_minute, "request", str(principal))

    def _count(self, limit: int, *names: str) -> None:
        if not limit or time.monotonic() < self._paused_until:
            return
        self.connect()
        limiter, item = self._limiter, RateLimitItemPerMinute(limit)
        if limiter is None:
            return
        try:
            if limiter.hit(item, *names):
                return
            seconds = max(1, round(limiter.get_window_stats(item, *names).reset_time - time.time()))
        except RedisError as error:
            self._suspend(error)
            return
        if self.log_budget.allows():
            log.warning("rate_limits.exceeded", limit=names[0])
        hint = f"wait {seconds} s, and send fewer requests"
        problem = Problem(error=ErrorCode.TOO_MANY_REQUESTS, message=f"more than {limit} in a minute", hint=hint)
        raise ApiError(429, problem, {"Retry-After": str(seconds)})

    def _suspend(self, error: Exception) -> None:
        # The next one has the password of that time.
        self._limiter = None
        self._paused_until = time.monotonic() + PAUSE_SECONDS
        log.warning("rate_limits.suspended", error=type(error).__name__)


def _storage(url: str) -> RedisStorage:
    limits: dict[str, Any] = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
    found = server_urls.sentinel(url)
    if found is None:
        return RedisStorage(url, key_prefix=KEY_PREFIX, **limits)
    options: dict[str, Any] = {"username": found.username, "password": found.password, "db": found.database}
    return RedisSentinelStorage(
        redis_client.limits_url(found),
        use_replicas=False,
        # Else the password of the master would be sent to the sentinels.
        sentinel_kwargs=limits | {"username": None, "password": found.sentinel_password},
        key_prefix=KEY_PREFIX,
        **limits,
        **options,
    )
