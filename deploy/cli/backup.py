"""Commands that back up the system, and restore or verify a backup."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.help_text import Command
from deploy.cli.operate import PANEL
from deploy.cli.startup import console, load_settings

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from db.settings import Settings

app = typer.Typer()
command = partial(app.command, cls=Command, rich_help_panel=PANEL)

KeyFile = Annotated[Path, typer.Option(help="File with the key of the backups: 64 hexadecimal digits.")]


@command()
def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the backups.")],
    key_file: KeyFile,
    keep: Annotated[int, typer.Option(min=1, help="Number of complete backups to keep, this one included.")] = 14,
) -> None:
    """Back up database and files, encrypted, beside all processes; exit with 1 if files are missing or unreadable."""
    from deploy.operate.backup import create
    from deploy.operate.backup.repository import Repository

    made = create.run(load_settings(), console, Repository(folder, _key(key_file)), keep=keep)
    raise typer.Exit(1 if made.absent else 0)


@command()
def restore(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the backups.")],
    key_file: KeyFile,
    name: Annotated[str | None, typer.Option(help="Name of the backup.", show_default="the latest")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Restore in a scratch folder, audit it and remove it again.")
    ] = False,
    scratch: Annotated[
        Path | None, typer.Option(help="Folder for --verify, with space for all files.", show_default="the system's")
    ] = None,
    finish: Annotated[bool, typer.Option("--finish", help="Complete a restore that was interrupted.")] = False,
) -> None:
    """Restore a backup into the data directory and an empty database.

    Exit with 1 if a file is lost or its audit finds violations.

    Stop all processes first. With --verify nothing of the running system is touched.
    """
    from deploy.operate.backup import restore as restoring
    from deploy.operate.backup import scratch_folder
    from deploy.operate.backup.repository import Repository

    settings, repository = load_settings(), Repository(folder, _key(key_file))
    name = repository.latest() if name is None else name
    if not finish and (lacking := restoring.lacking(repository, name)) is not None:
        console.print(lacking, highlight=False, soft_wrap=True)
    if verify:
        with scratch_folder.removed_on_signals():
            violations = restoring.verify(settings, console, repository, name, scratch).violations
        raise typer.Exit(1 if violations else 0)
    with _database(settings):
        lost = 0 if finish else restoring.restore(settings, repository, name).lost
        if lost:  # before the end of the restore, which may fail: --finish does not count them again
            named = "them" if lost <= restoring.NAMED else f"the first {restoring.NAMED} of them"
            console.print(f"{lost} files could not be restored: the log names {named}", highlight=False, soft_wrap=True)
        violations = restoring.finish(settings, console, repository)
    console.print(f"{'completed the restore' if finish else f'restored backup {name}'}: start the processes")
    raise typer.Exit(1 if violations or lost else 0)


def _key(path: Path) -> bytes:
    """Return the key of the backups; print a warning if other users can read it."""
    from deploy.operate.backup import sealing

    key = sealing.read_key(path)
    if (readers := sealing.readers(path)) is not None:
        console.print(
            f"warning: {readers} can read {path}, and with it each backup: `chmod 600 {path}`", soft_wrap=True
        )
    return key


def _database(settings: Settings) -> AbstractContextManager[object]:
    """Run the embedded servers unless a setting names others."""
    from deploy.embedded.databases import embedded

    return nullcontext() if settings.operations.database_url is not None else embedded(settings)
