from __future__ import annotations

import stat
import sys
from typing import TYPE_CHECKING

import pytest

from db.errors import ConfigurationError
from db.settings import Settings
from deploy.embedded import accounts
from deploy.embedded.accounts import is_public, require_linux, within_reach
from deploy.embedded.databases import embedded
from deploy.launcher.spawn import Account

if TYPE_CHECKING:
    from pathlib import Path

ANYONE = Account(65534, 65534)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A wheel with a program and a library, in a folder that only its owner may enter."""
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


def test_a_copy_is_whole_and_anyone_may_use_but_not_change_it(programs: Path, cache: Path) -> None:
    copy = within_reach(programs, ("server", "lib"), ANYONE)

    assert copy.parent == cache
    assert (copy / "server").read_text() == "one"
    assert [mode(path) for path in (cache, copy, copy / "server", copy / "lib" / "part")] == [
        0o755,
        0o755,
        0o755,
        0o644,
    ]
    assert mode(programs) == 0o700


def test_the_same_program_is_copied_once_and_another_version_again(programs: Path, cache: Path) -> None:
    first = within_reach(programs, ("server", "lib"), ANYONE)
    again = within_reach(programs, ("server", "lib"), ANYONE)
    (programs / "server").write_text("two")
    other = within_reach(programs, ("server", "lib"), ANYONE)

    assert first == again
    assert set(cache.iterdir()) == {first, other}


def test_nothing_is_copied_for_ourselves(programs: Path, cache: Path) -> None:
    assert within_reach(programs, ("server", "lib"), None) == programs
    assert not cache.exists()


def test_a_program_is_public_only_if_each_folder_above_it_is(programs: Path) -> None:
    (programs / "server").chmod(0o755)

    assert not is_public(programs / "server")


def test_elsewhere_than_on_linux_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    with pytest.raises(ConfigurationError, match=r"Linux only: use docker-compose\.yml"):
        require_linux()


def test_a_data_folder_where_we_may_not_write_is_named() -> None:
    with (
        pytest.raises(ConfigurationError, match="another user's"),
        # Root may write nearly everywhere, but not here.
        embedded(Settings(data_dir="/sys/prelim")),
    ):
        pass
