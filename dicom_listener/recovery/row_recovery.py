"""Return stored files to the inbox whose rows the database has lost, because a standby without them was promoted.

Delete the images of reports that it has lost together with their jobs.

The spool notes the timeline of the database whose rows name all its files. On another one, all stored files are looked
up once, then the objects that the object storage received lately, while the other work goes on.
"""

from __future__ import annotations

import datetime as dt
import itertools
import time
from typing import TYPE_CHECKING

import structlog

from db.errors import ConfigurationError
from db.reports import image_files
from db.session import reading, transaction
from db.storage import object_files
from db.storage.errors import StorageError, Unavailable
from db.studies.deletion import file_deletions
from dicom_listener.indexing import repair
from dicom_listener.recovery import lost_objects, lost_rows
from dicom_listener.recovery.database_match import PROBLEMS, Match, compare
from dicom_listener.recovery.noted_timeline import current_timeline, note, noted, noted_at, touch
from dicom_listener.spool.durable import Spool

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from db.settings import Settings
    from dicom_listener.recovery.noted_timeline import Timeline

log = structlog.get_logger()

#: Seconds between two looks at the timeline, and at files that another dispatcher may have left in the inbox.
CHECK_SECONDS = 3
#: Seconds until an object storage that does not answer is asked again.
STORAGE_SECONDS = 15
#: Age of an image whose job is not in the database up to which a failover has lost the job: no standby lags for longer.
#: Also the time before the last look at the old timeline from which rows of objects can be lost.
LOST_WITHIN_SECONDS = 86_400


class RowRecovery:
    """Looks up the stored files of one spool after a failover; call `run_once` again and again."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._spool = Spool(settings.spool)
        #: Timeline on which all stored files were looked up, and those that had no row.
        self._searched: Timeline | None = None
        self._without_row: set[str] = set()
        #: Files that were returned, or brought back; objects that cannot be.
        self._returned: set[str] = set()
        self._unreadable: set[str] = set()
        self._objects = lost_objects.ObjectSearch(settings)
        #: Timeline that this process has seen as the noted one, and when it did so last.
        self._last: tuple[Timeline, float] | None = None
        self._began = time.time()
        #: Why the database cannot be used.
        self._refusal = ""

    def run_once(self) -> None:
        """Return the files without a row if the database continues another timeline than before; then wait.

        Raises SQLAlchemyError, and OSError if a folder of the spool cannot be listed.
        """
        with reading(self._settings.database()) as session:
            current = current_timeline(session)
        try:
            before = self._noted()
        except ConfigurationError as error:
            self._refuse(str(error))
            return
        if before == current:
            self._forget()
            self._touch(current)
            self._last = current, time.time()
        elif self._are_all_named(before, current):
            note(self._spool.timeline, current)
        self._stop.wait(CHECK_SECONDS)

    def _touch(self, current: Timeline) -> None:
        if self._last is None:  # perhaps in the form of a development version, which earlier releases cannot read
            note(self._spool.timeline, current)
        else:
            touch(self._spool.timeline)

    def _noted(self) -> Timeline | None:
        """Return the noted timeline, and note it again if the note was lost or damaged since this process saw it."""
        path = self._spool.timeline
        try:
            found = noted(path)
        except ConfigurationError:
            if self._last is None:
                raise
            found = None
        if found is None and self._last is not None:
            log.warning("timeline.noted_again", file=path.name)
            note(path, *self._last)
            return self._last[0]
        return found

    def _are_all_named(self, before: Timeline | None, current: Timeline) -> bool:
        """Return whether the rows name all stored files, or another one has to see to it."""
        if before is None or not before.is_same_database(current):
            if not self._is_accepted(before):
                return False
            if before is None or before.database or before.system != current.system:
                return True
            # Of an earlier release, which noted no database; its timeline may have changed since.
            note(self._spool.timeline, before._replace(database=current.database), noted_at(self._spool.timeline))
            return False
        if self._searched != current:
            self._forget()
            log.warning("database.timeline_changed", before=before.number, now=current.number)
            self._without_row = self._search()
            self._searched = current
        self._remove_images()
        self._return_lost()
        if self._without_row or self._stop.is_set() or not self._are_objects_named(before, current):
            return False
        self._delete_objects()
        return True

    def _is_accepted(self, before: Timeline | None) -> bool:
        """Return whether another database names stored files of before; end the process if it names none of them.

        The next start refuses such a database, with what to do, unless the operator accepts it.
        """
        seen = self._began if before is None else noted_at(self._spool.timeline)
        try:
            found = compare(self._settings, seen)
        except Unavailable as error:
            log.warning("objects.not_searched", error=str(error))
            self._stop.wait(STORAGE_SECONDS)
            return False
        if found in PROBLEMS:
            log.error("database.lost", action="see the message of the next start, or `prelim doctor`")
            self._refuse(PROBLEMS[found])
            return False
        if found is Match.NAMED and (before is None or before.database):
            # Perhaps a restored backup: to index the whole store into it could be a mistake.
            event = "timeline.missing" if before is None else "database.replaced"
            log.warning(event, action="prelim audit; --repair indexes the files without a row")
        return True

    def _refuse(self, refusal: str) -> None:
        self._refusal = refusal
        self._stop.set()

    def require_database(self) -> None:
        """Raise ConfigurationError if the database is not that of the stored files, or it is not known which one is."""
        if self._refusal:
            raise ConfigurationError(self._refusal)

    def _forget(self) -> None:
        """Forget an earlier search: what it returned can have lost its row again."""
        self._searched = None
        for found in (self._without_row, self._returned, self._unreadable):
            found.clear()

    def _are_objects_named(self, before: Timeline, current: Timeline) -> bool:
        """Return whether rows name all objects that a failover may concern; bring the others back, to be returned."""
        if self._settings.storage.storage_url is None:
            return True
        self._objects.begin(before, current)
        try:
            while self._is_part_named():
                if self._objects.complete():
                    return True
        except Unavailable as error:
            log.warning("objects.not_searched", error=str(error))
            self._stop.wait(STORAGE_SECONDS)
        return False

    def _is_part_named(self) -> bool:
        unknown = self._objects.part(_seen(self._spool.timeline), self._stop) - self._unreadable
        brought_back = [path for path in sorted(unknown - self._returned) if self._bring_back(path)]
        if brought_back:
            log.warning("objects.brought_back", objects=len(brought_back))
        # Listed again after each: another dispatcher may bring one back whose file was sent again.
        there = {file_path for file_path in unknown if self._path(file_path).exists()}
        self._without_row |= there
        self._note_objects((unknown & self._returned) - there)
        return not unknown and not self._stop.is_set()

    def _bring_back(self, file_path: str) -> bool:
        try:
            lost_objects.bring_back(self._settings, file_path)
        except Unavailable:
            raise
        except (StorageError, OSError) as error:
            # The others must not wait for it; the audit names it.
            cause = str(error) if isinstance(error, StorageError) else error.strerror
            log.error("row.not_recovered", file=self._path(file_path).name, error=cause)  # noqa: TRY400
            self._unreadable.add(file_path)
            return False
        self._returned.add(file_path)
        return True

    def _search(self) -> set[str]:
        errors: list[OSError] = []
        pages = lost_rows.suspects(self._settings, errors)
        found = {path for page in itertools.takewhile(lambda _: not self._stop.is_set(), pages) for path in page}
        if errors:
            raise errors[0]
        return found

    def _return_lost(self) -> None:
        """Return files without a row to the inbox.

        A dispatcher that committed a row just before it was lost removes the file from the inbox some time later: those
        that are in an inbox are looked at again until they have a row.
        """
        lost = lost_rows.confirmed(self._settings, self._without_row)
        for file_path in lost:
            self._return(file_path)
        self._returned |= {file_path for file_path in lost if file_path.startswith(object_files.STORE)}
        if lost:
            log.warning("rows.lost", files=len(lost))
        left = self._without_row - lost_rows.known(self._settings, self._without_row)
        self._without_row = {file_path for file_path in left if self._path(file_path).exists()}

    def _remove_images(self) -> None:
        """Delete the images of reports that were lost together with their jobs: other reports are written."""
        written_after = time.time() - LOST_WITHIN_SECONDS
        removed = image_files.remove_of_lost_jobs(
            self._settings.database(), self._settings.operations.data_dir, written_after
        )
        if removed:
            log.warning("report_images.lost", files_removed=removed)

    def _delete_objects(self) -> None:
        """Have the objects deleted of returned files that are stored under another path now, or were sent again."""
        if self._settings.storage.storage_url is not None:
            self._note_objects({file_path for file_path in self._returned if not self._path(file_path).exists()})
        self._returned.clear()

    def _note_objects(self, gone: set[str]) -> None:
        if left := gone - lost_rows.known(self._settings, gone):
            with transaction(self._settings.database()) as session:
                file_deletions.note_objects(session, left)

    def _return(self, file_path: str) -> None:
        try:
            repair.return_to_inbox(self._path(file_path), self._spool)
        except (FileExistsError, FileNotFoundError):  # another dispatcher has returned it
            pass
        except OSError as error:
            # The others must not wait for it; the audit names it.
            log.error("row.not_recovered", file=self._path(file_path).name, error=error.strerror)  # noqa: TRY400
            self._without_row.discard(file_path)

    def _path(self, file_path: str) -> Path:
        return self._settings.operations.data_dir / file_path


def _seen(path: Path) -> dt.datetime:
    """Return the time from which rows of objects can be lost: before it, all were on the noted timeline."""
    return dt.datetime.fromtimestamp(path.stat().st_mtime - LOST_WITHIN_SECONDS, dt.UTC)
