"""Passwords and keys that a one-machine installation makes for itself, in files only their owner reads."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from db.access import keys
from db.session import transaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from db.settings import Settings

#: Bytes of randomness of a made password.
PASSWORD_BYTES = 24
#: The name of the key that `prelim up` makes for the person who started it.
LOCAL_KEY = "local"


def flower_password(settings: Settings) -> str:
    """The configured password of Flower, or one made on first use and kept."""
    if settings.flower_password is not None:
        return settings.flower_password.get_secret_value()
    return _kept(settings.data_dir / "secrets" / "flower-password", lambda: secrets.token_urlsafe(PASSWORD_BYTES))


def local_api_key(settings: Settings) -> Path:
    """The file with this installation's own API key; a key is made when the file or its row is missing."""
    path = settings.data_dir / "secrets" / "api-key"
    with transaction(settings.database()) as session:
        if not path.is_file() or keys.verify(session, path.read_text().strip()) is None:
            path.unlink(missing_ok=True)
            _kept(path, lambda: keys.create(session, LOCAL_KEY, replace=True))
    return path


def _kept(path: Path, make: Callable[[], str]) -> str:
    if not path.is_file():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(make() + "\n")
    return path.read_text().strip()
