"""Fail each test in which the product works with a file while it has a transaction open.

A disk that hangs would keep the transaction's locks, and stop other processes. Loaded by tests/conftest.py; it sees
the processes' code that runs in the test process. Transactions that a test opens itself do not count.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

import db.session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from sqlalchemy.orm import SessionTransaction

REPOSITORY = Path(__file__).parent.parent.as_posix()
TESTS = f"{REPOSITORY}/tests/"
#: Files of tests are below it; modules imported within a transaction are not.
TEMPORARY = tempfile.gettempdir()
#: Events of sys.addaudithook whose first argument is a path.
PATH_EVENTS = frozenset(("open", "os.link", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.scandir"))
#: Functions of os without an event.
FLUSHES, STATUS = ("fsync", "fdatasync"), "statvfs"
#: Opens the transaction of a request in another thread than the one that the route runs in.
OF_REQUESTS = f"{REPOSITORY}/api/access/authenticate.py"
ANY_THREAD = 0


class Opened(NamedTuple):
    """Thread and frame in which a transaction was opened."""

    thread: int
    frame: FrameType


#: Open transactions by the id of their session.
_open: dict[int, Opened] = {}
_found: list[str] = []


class WatchedSession(Session):
    """Session that notes by whom it is opened."""

    #: None if it is not counted.
    opened: Opened | None = None

    def __init__(self, bind: Any, **more: Any) -> None:
        super().__init__(bind, **more)
        owner = next((frame for frame in _frames() if frame.f_code.co_filename != db.session.__file__), None)
        own_transactions = bind.get_execution_options().get("isolation_level") != "AUTOCOMMIT"
        if owner is not None and own_transactions and not owner.f_code.co_filename.startswith(TESTS):
            of_request = owner.f_code.co_filename == OF_REQUESTS
            self.opened = Opened(ANY_THREAD if of_request else threading.get_ident(), owner)


@event.listens_for(WatchedSession, "after_begin")
def _begins(session: WatchedSession, *_: object) -> None:
    if session.opened is not None:
        _open[id(session)] = session.opened


@event.listens_for(WatchedSession, "after_transaction_end")
def _ends(session: WatchedSession, ended: SessionTransaction) -> None:
    if ended.parent is None:
        _open.pop(id(session), None)


def _frames() -> Iterator[FrameType]:
    """Yield the frames of this repository, the innermost first, without those of this module."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(REPOSITORY) and name != __file__:
            yield frame
        frame = frame.f_back


def _note(operation: str) -> None:
    frames = list(_frames())
    if any(_is_within(opened, frames) for opened in list(_open.values())):
        places = [f"{frame.f_code.co_filename[len(REPOSITORY) + 1 :]}:{frame.f_lineno}" for frame in frames[:4]]
        _found.append(f"{operation} at {' < '.join(places)}")


def _is_within(opened: Opened, frames: Sequence[FrameType]) -> bool:
    """Return whether the frames belong to the transaction, and not to code of a test that it calls."""
    # A generator that has opened it and waits is in no stack.
    inner = frames[: frames.index(opened.frame)] if opened.frame in frames else frames[:1]
    if not frames or any(frame.f_code.co_filename.startswith(TESTS) for frame in inner):
        return False
    if opened.thread == ANY_THREAD:
        return any(f"{REPOSITORY}/api/" in frame.f_code.co_filename for frame in frames)
    return opened.thread == threading.get_ident()


def _is_temporary(path: object) -> bool:
    if not isinstance(path, (str, os.PathLike)):
        return False
    name = os.fspath(path)
    # The repository itself may be below it.
    return isinstance(name, str) and name.startswith(TEMPORARY) and not name.startswith(f"{REPOSITORY}/")


def _hook(name: str, arguments: tuple[Any, ...]) -> None:
    if _open and name in PATH_EVENTS and _is_temporary(arguments[0]):
        _note(name)


def _watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(target: Any, *more: Any) -> Any:
        if _open and (name in FLUSHES or _is_temporary(target)):
            _note(name)
        return function(target, *more)

    return call


def pytest_configure() -> None:
    """Watch from now on: an audit hook cannot be removed."""
    db.session.Session = WatchedSession  # type: ignore[misc]
    sys.addaudithook(_hook)
    for name in (*FLUSHES, STATUS):
        setattr(os, name, _watched(name, getattr(os, name)))


@pytest.fixture(autouse=True)
def no_file_within_a_transaction() -> Iterator[None]:
    """Fail the test if the product has worked with a file while its transaction was open."""
    _found.clear()
    yield
    assert not _found, "no transaction may be open across work with files"
