"""`prelim erase`: nothing of the patient is left in any table or file, and others keep everything."""

from __future__ import annotations

import datetime as dt
import errno
import io
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import select, text
from typer.testing import CliRunner

from db import reference
from db.access import audit_log
from db.errors import NotPossible
from db.jobs import claims
from db.models import (
    AuditRow,
    Base,
    Commitment,
    Inquiry,
    Instance,
    Job,
    ProcedureStep,
    Quarantined,
    ReferenceCase,
    ReferenceErasure,
    Report,
    ReportFeedback,
    SpecialistDraft,
    SpecialistPrediction,
    Study,
    StudyHold,
)
from db.reports import versions
from db.session import transaction
from db.states import StudyState
from db.studies.deletion import erasures, patients
from db.studies.deletion.file_deletions import BackupRunning, held_off
from deploy.cli.operate import app
from deploy.operate import audit, report_images
from deploy.operate.erasure import erase, unnamed_files
from dicom_listener.indexing import headers, indexer
from dicom_listener.spool.durable import Spool
from tests.integration.db.conftest import Arrivals
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import encode, image, receive, store

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom import Dataset

    from db.settings import Settings
    from dicom_listener.spool.file_meta import FileMeta

ID, NAME = "PAT-74017", "Zauberfrau^Anne"
#: Texts about the patient, in places of their own.
REPORT, QUESTION, EDIT, CASE, DRAFT = (f"Zebra {word}." for word in ("finding", "question", "edit", "case", "draft"))


@dataclass
class Site:
    """An installation with a study of the patient and one of another patient, reported, and their traces."""

    settings: Settings
    theirs: list[Dataset]
    other: Dataset

    @property
    def words(self) -> list[str]:
        uids = {str(one[name].value) for one in self.theirs for name in ("StudyInstanceUID", "SOPInstanceUID")}
        return [ID, NAME, REPORT, QUESTION, EDIT, CASE, DRAFT, *uids]

    def left(self) -> list[str]:
        """Places of the database and the data directory that hold a word about the patient."""
        found = []
        with transaction(self.settings.database()) as session:
            for table in Base.metadata.sorted_tables:
                rows = " ".join(session.scalars(text(f"SELECT t::text FROM {table.name} AS t")))
                found += [table.name for word in self.words if word in rows]
        for path in self.settings.operations.data_dir.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            found += [str(path) for word in self.words if word.encode() in content]
        return found

    def study(self, of: Dataset) -> Study:
        with transaction(self.settings.database()) as session:
            uid = Study.study_instance_uid == of.StudyInstanceUID
            return session.scalars(select(Study).where(uid, Study.patient_id == of.PatientID)).one()

    def erase(self) -> erase.Amount:
        found = erase.show(self.settings, Console(quiet=True), ID, None)
        return erase.run(self.settings, Console(quiet=True), ID, None, found)


def of_patient(**values: Any) -> Dataset:
    return image(PatientID=ID, PatientName=NAME, **values)


@pytest.fixture
def site(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(erase, "INDEXER_SECONDS", 0)
    settings = settings_for(tmp_path, database_url=SecretStr(database_url))
    first, other = of_patient(AccessionNumber="A-9"), image(PatientID="OTHER-1", PatientName="Other^One")
    second = of_patient(StudyInstanceUID=first.StudyInstanceUID)
    site = Site(settings, [first, second], other)
    for one in (first, second, other):
        store(settings, one)
    index(settings)
    for _ in range(2):
        report(Arrivals(database_url))
    add_traces(site)
    report_images.move(settings, Console(quiet=True), "files")
    slot = Spool(settings.spool).unowned
    slot.prepare()
    (slot.broken_transfers / "1").write_text(f"{first.StudyInstanceUID}\n")
    # Another version of a stored object, a damaged file, and one that waits to be indexed.
    receive(settings, of_patient(StudyInstanceUID=first.StudyInstanceUID, SOPInstanceUID=first.SOPInstanceUID, Rows=4))
    receive(settings, first, data=encode(first)[:60] + b"LO\x0a\0" + ID.encode() + b"\0\0")
    index(settings)
    waiting = of_patient()
    site.theirs.append(waiting)
    receive(settings, waiting)
    return site


def index(settings: Settings) -> None:
    while indexer.run_once(settings):
        pass


def report(arrivals: Arrivals) -> None:
    arrivals.settle()
    claim = arrivals.claim()
    assert claim is not None
    shown = versions.Shown(b"png", sop_instance_uid="2.25.1", frame=0, reason="only image", transform={})
    with transaction(arrivals.url) as session:
        words = REPORT if session.get_one(Study, claim.study_id).patient_id == ID else "Other finding."
        claims.finish(session, claim, versions.Draft(words, "i", "1 image", "1", "d", {}, images=[shown]))


def add_traces(site: Site) -> None:
    first, study = site.theirs[0], site.study(site.theirs[0])
    with transaction(site.settings.database()) as session:
        job = Job(study_id=study.id, kind="question", revision=1)
        session.add(job)
        session.flush()
        session.add(Inquiry(job_id=job.id, study_id=study.id, kind="question", question=QUESTION, requested_by="key a"))
        session.add(ReportFeedback(study_id=study.id, version=1, kind="final", text=EDIT, author="key a"))
        session.add(StudyHold(study_id=study.id, reason="r", held_by="key a"))
        values = {"name": "n", "version": "1", "source": "s"}
        report_id = session.scalars(select(Report.id).where(Report.study_id == study.id)).one()
        session.add(SpecialistDraft(report_id=report_id, text=DRAFT, quoted=DRAFT, warnings=[], **values))
        session.add(SpecialistPrediction(study="A-9", draft=DRAFT, label="", **values))
        values["label"] = "l"
        session.add_all(SpecialistPrediction(study=name, **values) for name in (study.study_instance_uid, "A-9"))
        session.add(
            ProcedureStep(
                sop_instance_uid="2.25.5", study_instance_uid=study.study_instance_uid, state="COMPLETED", images=[]
            )
        )
        for requested in ([first], [first, site.other]):
            pairs = [[one.SOPClassUID, one.SOPInstanceUID] for one in requested]
            names = {"transaction_uid": f"2.25.{len(pairs)}", "calling_ae_title": "A", "called_ae_title": "B"}
            session.add(
                Commitment(
                    id=uuid.uuid4(), association_id="a", requested=pairs, received_at=dt.datetime.now(dt.UTC), **names
                )
            )
        owner = {"patient_hash": reference.fingerprint(ID), "study_hash": "s"}
        session.add(ReferenceCase(source="s", source_case="c", modality="CT", report=CASE, labels=[], **owner))


def test_nothing_of_an_erased_patient_is_left_and_others_keep_everything(site: Site) -> None:
    held = {"studies", "instances", "reports", "inquiries", "report_feedback", "commitments", "reference_cases"}
    assert held <= set(site.left())

    assert site.erase() == (1, 2, 2, 1, 0)

    assert site.left() == []
    assert audit.check(site.settings) == []
    study = site.study(site.other)
    with transaction(site.settings.database()) as session:
        assert session.scalars(select(Instance.study_id)).all() == [study.id]
        (commitment,) = session.scalars(select(Commitment)).all()
        assert [pair[1] for pair in commitment.requested] == [site.other.SOPInstanceUID]
        assert reference.erased(session, [reference.fingerprint(ID)]), "no import brings the cases back"
        (row,) = session.scalars(select(AuditRow)).all()
        assert (row.action, row.route, row.detail) == ("delete", "prelim erase", {"studies": 1, "objects": 2})
        assert audit_log.verify(session).problems == []
    assert len(list(Spool(site.settings.spool).store.rglob("*.dcm"))) == 1
    assert len(list((site.settings.operations.data_dir / "report_images").rglob("*.png"))) == 1


def test_dry_run_prints_numbers_and_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    before = site.left()
    monkeypatch.setenv("PRELIM_DATABASE_URL", site.settings.database())
    monkeypatch.setenv("PRELIM_DATA_DIR", str(site.settings.operations.data_dir))
    result = CliRunner().invoke(app, ["erase", "--patient", "-", "--dry-run"], input=f"{ID}\n")
    assert result.exit_code == 0, result.output
    assert site.left() == before
    assert CliRunner().invoke(app, ["erase", "--patient", ID], input="n\n").exit_code == 1
    assert site.left() == before
    assert CliRunner().invoke(app, ["erase", "--patient", ID, "--yes"]).exit_code == 0
    assert site.left() == []


@pytest.mark.parametrize(
    ("patient", "read", "found"),
    [("", "", 0), ("  ", "", 0), ("-", "", 0), ("-", "\n", 0), ("-", f"{ID}\nOTHER-1\n", 2)],
)
def test_empty_patient_and_a_list_are_refused(site: Site, patient: str, read: str, found: int) -> None:
    before = site.left()
    arguments = ["erase", "--patient", patient, "--yes"]
    result = CliRunner().invoke(app, arguments, input=read, env=environment(site.settings))

    assert isinstance(result.exception, NotPossible)
    assert f"found {found}" in str(result.exception)
    assert site.left() == before


STEPS = [
    (erase, "_erase_cases"),
    (erase, "_erase_studies"),
    (patients, "_forget_names"),
    (unnamed_files, "erase"),
    (erase, "_index_waiting"),
    (erase.file_deletions, "delete_files"),
    (erase.file_deletions, "forget"),
    (report_images, "remove_unused"),
    (erasures, "complete"),
]


def test_interrupted_at_each_step_it_goes_on(site: Site) -> None:
    for where, name in STEPS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(where, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                site.erase() if name == STEPS[0][1] else resume(site)
        with transaction(site.settings.database()) as session:
            assert erasures.are_unfinished(session)
    resume(site)
    assert site.left() == []
    assert audit.check(site.settings) == []
    with transaction(site.settings.database()) as session:
        assert not erasures.are_unfinished(session)


def test_file_in_quarantine_that_cannot_be_read_leaves_the_erasure_unfinished(site: Site) -> None:
    with transaction(site.settings.database()) as session:
        damaged = session.scalars(select(Quarantined.file_path)).first() or ""
    read = headers.read_meta

    def read_meta(path: Path) -> FileMeta:
        if path == site.settings.operations.data_dir / damaged:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(headers, "read_meta", read_meta)
        with pytest.raises(NotPossible, match=damaged):
            site.erase()
    with transaction(site.settings.database()) as session:
        assert erasures.are_unfinished(session)
        assert session.scalars(select(Quarantined.file_path)).all() == [damaged]
    resume(site)
    assert site.left() == []


@pytest.mark.parametrize(
    ("patient_id", "codec"),
    [
        ("Ж-74017", "utf_8"),
        ("Ж-74017", "iso8859_5"),
        ("Ö-74017", "iso8859_1"),
        ("山田太郎", "iso2022_jp_2"),
        ("김-74017", "cp949"),
    ],
)
def test_damaged_file_in_quarantine_is_found_by_an_id_in_other_letters(site: Site, patient_id: str, codec: str) -> None:
    value = patient_id.encode(codec)
    damaged = encode(site.other)[:60] + b"LO" + len(value).to_bytes(2, "little") + value + b"\x10\0"
    receive(site.settings, site.other, data=damaged)
    index(site.settings)
    quiet = Console(quiet=True)

    found = erase.show(site.settings, quiet, patient_id, None)
    assert erase.run(site.settings, quiet, patient_id, None, found).quarantined == 1


#: The command, which is killed when it is about to commit for the nth time.
KILLED = """
import itertools, os, signal, sys
from sqlalchemy import Engine, event
from deploy.cli.entry import main
last, commits = int(sys.argv.pop(1)), itertools.count(1)
event.listen(Engine, "commit", lambda _: next(commits) == last and os.kill(os.getpid(), signal.SIGKILL))
main()
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_is_completed(site: Site) -> None:
    settings = site.settings
    environment = dict(
        os.environ, PRELIM_DATABASE_URL=settings.database(), PRELIM_DATA_DIR=str(settings.operations.data_dir)
    )
    begun = []
    for commits in range(2, 60, 3):
        begun.append(is_begun(site))
        options = [] if begun[-1] else ["--patient", ID, "--yes"]
        program = [sys.executable, "-c", KILLED, str(commits), "erase", *options]
        if not subprocess.run(program, env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
            break
    # Killed before the erasure was recorded, and at several commits after it.
    assert not begun[0]
    assert sum(begun) > 3
    assert site.left() == []
    assert audit.check(settings) == []


def is_begun(site: Site) -> bool:
    with transaction(site.settings.database()) as session:
        return bool(erasures.every(session))


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def resume(site: Site) -> None:
    erase.resume(site.settings, Console(quiet=True))


@pytest.mark.slow
def test_files_wait_for_a_running_backup(site: Site) -> None:
    with held_off(site.settings.database()), pytest.raises(BackupRunning):
        site.erase()
    resume(site)
    assert site.left() == []


def test_late_objects_of_before_are_dropped_and_a_new_examination_stays(site: Site) -> None:
    late = of_patient()
    path = receive(site.settings, late)
    aside = path.rename(site.settings.operations.data_dir / path.name)
    site.erase()
    aside.rename(path)
    index(site.settings)
    site.theirs.append(late)
    assert site.left() == []

    again = of_patient()
    store(site.settings, again)
    index(site.settings)
    assert site.study(again).state == StudyState.RECEIVING


def test_other_patient_under_the_same_uid_stays_and_is_released(site: Site) -> None:
    first = site.theirs[0]
    sibling = image(StudyInstanceUID=first.StudyInstanceUID, PatientID="SIBLING", PatientName="Sibling^One")
    store(site.settings, sibling)
    index(site.settings)
    assert site.study(sibling).state == site.study(first).state == StudyState.HELD

    site.erase()

    study = site.study(sibling)
    assert (study.state, study.identity_number, study.differs) == (StudyState.RECEIVING, 1, None)
    site.theirs = site.theirs[2:]
    assert ID not in "".join(site.left())


@pytest.mark.slow
def test_running_report_of_an_erased_study_cannot_be_stored(site: Site) -> None:
    third = of_patient()
    store(site.settings, third)
    index(site.settings)
    arrivals = Arrivals(site.settings.database())
    arrivals.settle()
    while (claim := arrivals.claim()) is not None and claim.study_id != site.study(third).id:
        pass
    assert claim is not None
    site.erase()
    with pytest.raises(claims.StaleFence), transaction(site.settings.database()) as session:
        claims.finish(session, claim, versions.Draft(REPORT, "i", "1 image", "1", "d", {}))
    assert site.left() == []


@pytest.mark.slow
def test_patient_id_of_two_issuers_needs_the_issuer(site: Site) -> None:
    other_issuer = of_patient(IssuerOfPatientID="CLINIC-2")
    store(site.settings, other_issuer)
    index(site.settings)
    with pytest.raises(NotPossible, match="2 issuers"):
        site.erase()
    printed = io.StringIO()
    found = erase.show(site.settings, Console(file=printed), ID, "CLINIC-2")
    assert erase.run(site.settings, Console(file=printed), ID, "CLINIC-2", found).studies == 1
    assert site.study(site.theirs[0]).patient_id == ID
    with transaction(site.settings.database()) as session:
        assert session.scalars(select(ReferenceErasure.fingerprint)).all()


@pytest.mark.slow
def test_patient_without_an_issuer_is_erased_alone(site: Site) -> None:
    other_issuer = of_patient(IssuerOfPatientID="CLINIC-2")
    store(site.settings, other_issuer)
    index(site.settings)
    late = of_patient(IssuerOfPatientID="CLINIC-2")
    receive(site.settings, late)

    result = CliRunner().invoke(app, ["erase", "--patient", ID, "--no-issuer", "--yes"], env=environment(site.settings))

    assert result.exit_code == 0, result.output
    with transaction(site.settings.database()) as session:
        assert set(session.scalars(select(Study.study_instance_uid).where(Study.patient_id == ID))) == {
            other_issuer.StudyInstanceUID,
            late.StudyInstanceUID,
        }


def test_erasure_that_finds_nothing_says_so(tmp_path: Path, database_url: str) -> None:
    settings = settings_for(tmp_path, database_url=SecretStr(database_url))
    arguments = ["erase", "--patient", "NOBODY", "--yes"]

    result = CliRunner().invoke(app, arguments, env=environment(settings))

    assert result.exit_code == 1
    assert "nothing was found" in result.output


@pytest.mark.parametrize("arguments", [["--issuer", "A", "--no-issuer"], ["--issuer", ""]])
def test_issuer_that_says_nothing_is_refused(tmp_path: Path, database_url: str, arguments: list[str]) -> None:
    settings = settings_for(tmp_path, database_url=SecretStr(database_url))

    result = CliRunner().invoke(app, ["erase", "--patient", ID, "--yes", *arguments], env=environment(settings))

    assert result.exit_code != 0
    assert isinstance(result.exception, NotPossible)


def environment(settings: Settings) -> dict[str, str]:
    """Variables by which a command finds the installation."""
    data_dir = settings.operations.data_dir
    return {"PRELIM_DATA_DIR": str(data_dir), "PRELIM_DATABASE_URL": settings.database()}
