"""Settings read from the environment and from secret files."""

import difflib
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError, create_model
from pydantic_settings import BaseSettings, SettingsConfigDict

from db import container_limits
from db.errors import ConfigurationError
from db.settings import PREFIX, SECTION_OF, Queue, Settings
from db.settings.server_urls import addresses

SECRETS_DIRECTORY = Path("/run/secrets")
#: Names of earlier releases: accepted for one more release, with a warning in the log.
OLD_NAMES = {
    "maximum_associations": "max_associations",
    "maximum_attempts": "max_attempts",
    "maximum_new_tokens": "max_new_tokens",
    "maximum_pdu_bytes": "max_pdu_bytes",
    "maximum_revisions": "max_revisions",
    "nudge_seconds": "redeliver_seconds",
    "pictures_per_study": "images_per_study",
    "refuse_strange": "ood_reject",
}

#: Variables of the test suite in earlier releases, ignored for one more: a developer's shell may still export them.
IGNORED = frozenset({"PRELIM_TEST_DATA", "PRELIM_REQUIRE_TEST_DATA"})


class _Source(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX)


def load_settings(secrets_directory: Path = SECRETS_DIRECTORY) -> Settings:
    """Return the settings of the environment; raises ConfigurationError naming every invalid variable."""
    _refuse_unknown_variables()
    given = _given(secrets_directory)
    for old in old_names(given):
        new = OLD_NAMES[old]
        if new in given:
            raise ConfigurationError(
                f"{variable(old)} and {variable(new)} are both set: remove the first, which is the old name"
            )
        given[new] = given.pop(old)
    _require_ports(given)
    given.setdefault("worker_slots", str(container_limits.slots(Queue().worker_slots)))
    try:
        return Settings(**given)
    except ValidationError as error:
        # The values are left out: one of them may be a password.
        invalid = (f"{variable(str(e['loc'][1]))}: {e['msg']}" for e in error.errors())
        raise ConfigurationError("; ".join(invalid)) from None


def _require_ports(given: dict[str, str]) -> None:
    """Raise ConfigurationError for a URL whose port is no number: a client library's error may quote a password."""
    for name in ("database_url", "broker_url"):
        try:
            addresses(given.get(name, ""))
        except ValueError:
            raise ConfigurationError(f"{variable(name)}: the host or port is invalid: expected HOST:NUMBER") from None


def variable(name: str) -> str:
    """Name of the environment variable of a setting."""
    return PREFIX + name.upper()


def old_names(given: dict[str, str] | None = None) -> list[str]:
    """Settings that are given under a name of an earlier release."""
    return sorted(OLD_NAMES.keys() & (_given(SECRETS_DIRECTORY) if given is None else given).keys())


def _given(secrets_directory: Path) -> dict[str, str]:
    """Values as text by setting, old names included; the environment takes precedence over a secret file."""
    source = _source()(_secrets_dir=secrets_directory if secrets_directory.is_dir() else None)
    return source.model_dump(exclude_unset=True)


@lru_cache(maxsize=1)
def _source() -> type[_Source]:
    fields: dict[str, Any] = dict.fromkeys((*SECTION_OF, *OLD_NAMES), (str | None, None))
    return create_model("Source", __base__=_Source, **fields)


def _refuse_unknown_variables() -> None:
    known = {variable(name) for name in (*SECTION_OF, *OLD_NAMES)} | IGNORED
    unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name not in known)
    if unknown:
        raise ConfigurationError("; ".join(f"{name} is not a setting{_suggestion(name)}" for name in unknown))


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name, [variable(known) for known in SECTION_OF], n=1)
    return f" (did you mean {close[0]}?)" if close else ""
