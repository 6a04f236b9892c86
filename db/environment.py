"""Settings read from the environment and from secret files.

A password is rotated without a restart: a new connection takes it from the secret file as it is then. While a server
has the old password and its clients get the new one, the file has two lines, the newer URL first.
"""

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
from db.settings.server_urls import addresses, checked

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


#: Settings whose files are read again for each new connection.
SERVERS = ("database_url", "broker_url")
#: Setting and secret file of each URL that was read from one.
_files: dict[str, tuple[str, Path]] = {}


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
        settings = Settings(**given)
    except ValidationError as error:
        # The values are left out: one of them may be a password.
        invalid = (f"{variable(str(e['loc'][1]))}: {e['msg']}" for e in error.errors())
        raise ConfigurationError("; ".join(invalid)) from None
    for name in SERVERS:
        path = secrets_directory / f"prelim_{name}"
        if name in given and not _is_variable(name) and path.is_file():
            _files[getattr(settings.operations, name).get_secret_value()] = name, path
    return settings


def current_urls(url: str) -> list[str]:
    """Return the URLs to connect with, in this order, to the server that had *url* when the settings were read.

    They are the lines of its secret file; *url* alone without a file, or if no line is a URL of such a server.
    """
    if url not in _files:
        return [url]
    name, path = _files[url]
    try:
        return [checked(name, line) for line in urls_of(name, path)] or [url]
    except (OSError, UnicodeDecodeError):
        return [url]


def urls_of(name: str, path: Path) -> list[str]:
    """Return the lines of a secret file that are URLs of one of SERVERS, the newest first; raises OSError."""
    found = []
    for line in map(str.strip, path.read_text().splitlines()):
        try:
            checked(name, line)
        except ValueError:  # the end of a longer one that was overwritten
            continue
        found.append(line)
    return found


def _is_variable(name: str) -> bool:
    return any(key.upper() == variable(name) for key in os.environ)


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
    given: dict[str, str] = source.model_dump(exclude_unset=True)
    return given | {name: given[name].strip().partition("\n")[0].strip() for name in SERVERS if given.get(name)}


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
