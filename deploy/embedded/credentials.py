"""Create the passwords and keys of a one-machine installation, in files that only their owner can read."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from db.access import keys
from db.access.principals import READER
from db.session import transaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from db.settings import Settings

#: Random bytes of a generated password.
PASSWORD_BYTES = 24
#: Name of the API key that `prelim up` creates for the user who started it.
LOCAL_KEY = "local"
#: User name of Flower's basic authentication.
FLOWER_USER = "prelim"


def flower_password(settings: Settings) -> str:
    """Return the configured password of Flower, or one generated on first use and stored."""
    if settings.operations.flower_password is not None:
        return settings.operations.flower_password.get_secret_value()
    return _stored(
        settings.operations.data_dir / "secrets" / "flower-password", lambda: secrets.token_urlsafe(PASSWORD_BYTES)
    )


def local_api_key(settings: Settings) -> Path:
    """Return the file with this installation's own API key; a key is created if the file or its row is missing."""
    path = settings.operations.data_dir / "secrets" / "api-key"
    given = path.read_text().strip() if path.is_file() else ""
    with transaction(settings.database()) as session:
        created = keys.create(session, LOCAL_KEY, READER, replace=True) if keys.verify(session, given) is None else None
    if created is not None:
        path.unlink(missing_ok=True)
        _stored(path, lambda: created)
    return path


def _stored(path: Path, make: Callable[[], str]) -> str:
    if not path.is_file():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(make() + "\n")
    return path.read_text().strip()
