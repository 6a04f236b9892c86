"""Find files of erased patients that no row names: those in quarantine, which are read, and marks of transfers."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select

from db.limits import MAX_SKEW
from db.models import Quarantined, Study
from db.models.base import any_of
from db.session import reading, transaction
from db.studies.deletion import erasures, file_deletions
from dicom_listener.dicom.statuses import Refusal
from dicom_listener.indexing import headers
from dicom_listener.spool.associations import SpoolMarks
from dicom_listener.spool.durable import Spool, open_regular

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from db.settings import Settings

#: Rows of one page.
PAGE = 200
#: Of a file that cannot be parsed, the bytes in which identifiers are looked for, and the shortest one: a Patient ID of
#: three characters would be found in the files of others.
SEARCHED_BYTES, MIN_CHARACTERS = 1 << 20, 4
RUN = re.compile(rb"[ -~]{%d,64}" % MIN_CHARACTERS)
#: Values in other characters than ASCII, behind the length of their element; the character set of a damaged file is
#: not known, so that all of PS3.3 C.12.1.1.2 are tried.
VALUE = re.compile(rb"(?<=\0)[ -~\x80-\xff\x1b]{%d,256}" % MIN_CHARACTERS)
CODECS = (
    *("utf_8", "gb18030", "cp949", "shift_jis", "iso2022_jp_2", "iso2022_kr", "tis_620"),
    *(f"iso8859_{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)),
)


def erase(settings: Settings, unread: set[str], *, dated_later: bool) -> int:
    """Delete the rows of erased patients' files and note the files; return their number.

    With *dated_later*, one that a wrong clock has dated later than now is that of a patient who is being erased, too.
    Paths of files that cannot be read, and may be an erased patient's, are added to *unread*.
    """
    erased = 0
    for page in _pages(settings):
        prints = {row.id: _fingerprints(settings.operations.data_dir, row.file_path, unread) for row in page}
        with transaction(settings.database()) as session:
            known = erasures.erased_at(session, set().union(*prints.values()))
            later = session.scalars(select(func.now() + MAX_SKEW)).one()
            begun = erasures.unfinished_among(session, known) if dated_later else frozenset[str]()
            gone = [
                row
                for row in page
                if erasures.is_covered(known, prints[row.id], row.received_at)
                or (row.received_at > later and not prints[row.id].isdisjoint(begun))
            ]
            file_deletions.note(session, [row.file_path for row in gone])
            session.execute(delete(Quarantined).where(Quarantined.id.in_([row.id for row in gone])))
        erased += len(gone)
    return erased


def forget_transfers(settings: Settings) -> None:
    """Remove the marks of broken transfers of erased studies; one of a UID with another patient's study stays."""
    marks = SpoolMarks(Spool(settings.spool))
    uids = {transfer.association_id: transfer.study_instance_uid for transfer in marks.broken()}
    with reading(settings.database()) as session:
        erased = erasures.erased_at(session, {*map(erasures.fingerprint, uids.values())} - {""})
        in_use = Study.study_instance_uid == any_of(uids.values())
        kept = set(session.scalars(select(Study.study_instance_uid).where(in_use)))
    for association_id, uid in uids.items():
        if erasures.fingerprint(uid) in erased and uid not in kept:
            marks.forget(association_id)


def _pages(settings: Settings) -> Iterator[Sequence[Quarantined]]:
    last: uuid.UUID | None = None
    while True:
        query = select(Quarantined).order_by(Quarantined.id).limit(PAGE)
        with reading(settings.database()) as session:
            page = session.scalars(query if last is None else query.where(Quarantined.id > last)).all()
        if not page:
            return
        yield page
        last = page[-1].id


def _fingerprints(data_dir: Path, file_path: str, unread: set[str]) -> set[str]:
    try:
        return _of_file(data_dir / file_path)
    except OSError:
        # What is gone, and a pipe or a folder, holds nothing of a patient; `prelim audit` reports it.
        if (data_dir / file_path).is_file():
            unread.add(file_path)
        return set()


def _of_file(path: Path) -> set[str]:
    """Return the fingerprints of the patient in a file; of one that cannot be parsed, those of all its short texts."""
    try:
        return erasures.of_study(headers.read(path, headers.read_meta(path), "").study)
    except (ValueError, Refusal):
        with open_regular(path) as file:
            found = _texts(file.read(SEARCHED_BYTES))
        return set(map(erasures.fingerprint, found)) - {""}


def _texts(content: bytes) -> Iterator[str]:
    for run in RUN.findall(content):
        yield run.decode()
    for value in VALUE.findall(content):
        if not value.isascii() or b"\x1b" in value:
            for codec in CODECS:
                with suppress(UnicodeDecodeError):
                    if len(text := value.decode(codec)) >= MIN_CHARACTERS:
                        yield text
