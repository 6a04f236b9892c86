from __future__ import annotations

import stat
import sys
from typing import TYPE_CHECKING

import pytest

from db.errors import ConfigurationError
from db.settings import Settings
from deploy.embedded import accounts
from deploy.embedded.accounts import accessible_copy, is_public, require_linux
from deploy.embedded.databases import embedded
from deploy.spawn import Account

if TYPE_CHECKING:
    from pathlib import Path

ANYONE = Account(65534, 65534)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Wheel with a program and a library, in a folder that only its owner may enter."""
    closed = tmp_path / "closed"
    (closed / "lib").mkdir(parents=True)
    closed.chmod(0o700)
    (closed / "server").write_text("one")
    (closed / "server").chmod(0o700)
    (closed / "lib" / "part").write_text("data")
    (closed / "lib" / "part").chmod(0o600)
    return closed


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(accounts, "PROGRAM_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_copy_is_complete_and_readable_but_not_writable_by_all(programs: Path, cache: Path) -> None:
    copy = accessible_copy(programs, ("server", "lib"), ANYONE)

    assert copy.parent == cache
    assert (copy / "server").read_text() == "one"
    assert [mode(path) for path in (cache, copy, copy / "server", copy / "lib" / "part")] == [
        0o755,
        0o755,
        0o755,
        0o644,
    ]
    assert mode(programs) == 0o700


def test_each_version_of_a_program_is_copied_once(programs: Path, cache: Path) -> None:
    first = accessible_copy(programs, ("server", "lib"), ANYONE)
    again = accessible_copy(programs, ("server", "lib"), ANYONE)
    (programs / "server").write_text("two")
    other = accessible_copy(programs, ("server", "lib"), ANYONE)

    assert first == again
    assert set(cache.iterdir()) == {first, other}


def test_nothing_is_copied_for_the_caller_itself(programs: Path, cache: Path) -> None:
    assert accessible_copy(programs, ("server", "lib"), None) == programs
    assert not cache.exists()


def test_program_is_public_only_if_each_parent_folder_is(programs: Path) -> None:
    (programs / "server").chmod(0o755)

    assert not is_public(programs / "server")


def test_other_systems_than_linux_are_rejected_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    with pytest.raises(ConfigurationError, match=r"Linux only: use docker-compose\.yml"):
        require_linux()


def test_error_names_an_unwritable_data_folder() -> None:
    with (
        pytest.raises(ConfigurationError, match="belongs to another user"),
        # Not writable even by root.
        embedded(Settings(data_dir="/sys/prelim")),
    ):
        pass
