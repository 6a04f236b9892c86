"""Life of a study on a real PostgreSQL."""

from __future__ import annotations

import datetime as dt
import itertools
import time

import pytest
from sqlalchemy import func, select, text

from db.errors import NotPossible, UnknownStudy
from db.jobs import claims
from db.models import Instance, Job, Quarantined
from db.operations import invariants
from db.reports import versions
from db.session import transaction
from db.studies import lifecycle, transfers
from db.studies.identity import decisions
from db.studies.lifecycle import Recorded
from db.studies.priority import LOW, STAT
from tests.integration.db.conftest import Arrivals


def test_first_image_creates_its_study(arrivals: Arrivals) -> None:
    assert arrivals.image() is Recorded.NEW
    assert arrivals.state() == "receiving"


def test_indexing_a_file_again_changes_nothing(arrivals: Arrivals) -> None:
    same = {"sop_instance_uid": "2.25.1", "file_path": "spool/store/a.dcm", "sha256": "a"}
    arrivals.image(**same)

    assert arrivals.image(**same) is Recorded.ALREADY_INDEXED


def test_object_sent_twice_is_a_duplicate(arrivals: Arrivals) -> None:
    arrivals.image(sop_instance_uid="2.25.1", sha256="a")

    assert arrivals.image(sop_instance_uid="2.25.1", sha256="a") is Recorded.DUPLICATE


def test_other_object_with_a_known_uid_is_a_conflict(arrivals: Arrivals) -> None:
    arrivals.image(sop_instance_uid="2.25.1", sha256="first")

    assert arrivals.image(sop_instance_uid="2.25.1", sha256="second") is Recorded.CONFLICT
    with transaction(arrivals.url) as session:
        assert session.scalars(select(Instance.sha256)).all() == ["first"]


def test_quiet_study_settles_once_with_its_reason(arrivals: Arrivals) -> None:
    arrivals.image()
    arrivals.image()

    assert len(arrivals.settle()) == 1
    assert arrivals.settle() == []
    with transaction(arrivals.url) as session:
        assert lifecycle.find(session, arrivals.uid).settle_reason == "quiet for 0 s, with 2 images"


def test_arriving_study_does_not_settle(arrivals: Arrivals) -> None:
    arrivals.image()

    assert arrivals.settle(settle_seconds=60) == []
    assert arrivals.state() == "receiving"


def test_ae_title_rule_takes_precedence(arrivals: Arrivals) -> None:
    arrivals.image()

    assert arrivals.settle(settle_seconds=0, settle_rules={"CT": 0, "CT_ER": 60}) == []
    assert len(arrivals.settle(settle_seconds=60, settle_rules={"CT": 60, "CT_ER": 0})) == 1


def test_study_that_an_association_sends_now_does_not_settle(arrivals: Arrivals) -> None:
    arrivals.image()
    quiet = {"settle_seconds": 0.01}

    time.sleep(0.02)
    assert arrivals.settle(sending={arrivals.uid: 0}, **quiet) == []
    assert len(arrivals.settle(sending={"2.25.1": 0}, **quiet)) == 1, "the association has moved on"


def test_silent_association_delays_a_routine_study_briefly_and_an_urgent_one_not_at_all(arrivals: Arrivals) -> None:
    urgent = Arrivals(arrivals.url)
    arrivals.image()
    urgent.image(study=lifecycle.StudyAttributes(urgent.uid, priority=STAT))
    time.sleep(0.02)
    silent = {arrivals.uid: 0.015, urgent.uid: 0.015}

    arrivals.settle(sending=silent, settle_seconds=0.01)
    assert (arrivals.state(), urgent.state()) == ("receiving", "settled")
    arrivals.settle(sending={arrivals.uid: 0.02}, settle_seconds=0.01)
    assert arrivals.state() == "settled"


def test_cap_settles_an_arriving_study(arrivals: Arrivals) -> None:
    arrivals.image()

    assert len(arrivals.settle(settle_seconds=60, settle_cap_seconds=0, sending={arrivals.uid: 0})) == 1
    with transaction(arrivals.url) as session:
        assert lifecycle.find(session, arrivals.uid).settle_reason == "still receiving images after 0 s, with 1 image"


def break_off(arrivals: Arrivals, association_id: str) -> int:
    with transaction(arrivals.url) as session:
        return transfers.break_off(session, arrivals.uid, association_id)


def settled_with(arrivals: Arrivals, **limits: float) -> tuple[str | None, list[str]]:
    """Settle; return the settle reason and the limitations."""
    arrivals.settle(settle_broken_seconds=0.01, **limits)
    with transaction(arrivals.url) as session:
        study = lifecycle.find(session, arrivals.uid)
        return study.settle_reason, transfers.limitations(session, study.id)


def test_study_whose_transfer_broke_off_waits_longer_and_its_report_states_it(arrivals: Arrivals) -> None:
    arrivals.image(association_id="broken")
    assert break_off(arrivals, "broken") == 1
    assert break_off(arrivals, "broken") == 0

    assert arrivals.settle(settle_broken_seconds=60) == []
    time.sleep(0.02)
    reason = "the transfer broke off, quiet for 0.01 s, with 1 image"
    assert settled_with(arrivals) == (reason, [transfers.LIMITATION])


def test_transfer_of_a_held_study_that_broke_off_is_a_limitation_after_the_decision(arrivals: Arrivals) -> None:
    arrivals.image(association_id="broken")
    other = lifecycle.StudyAttributes(arrivals.uid, patient_id="PHANTOM-2", patient_name="PHANTOM^TWO")
    arrivals.image(study=other, association_id="broken")
    assert break_off(arrivals, "broken") == 2
    with transaction(arrivals.url) as session:
        first = lifecycle.find(session, arrivals.uid)
        decisions.decide(session, first, decisions.Decision.KEEP_APART, "operator")

    assert arrivals.settle(settle_broken_seconds=60) == []
    assert len(arrivals.settle(settle_broken_seconds=0)) == 2
    with transaction(arrivals.url) as session:
        for study in (first, *decisions.siblings(session, first)):
            assert transfers.limitations(session, study.id) == [transfers.LIMITATION]


@pytest.mark.parametrize("association_id", ["broken", "its repetition"])
def test_transfer_that_is_resumed_or_repeated_did_not_break_off(arrivals: Arrivals, association_id: str) -> None:
    arrivals.image(association_id="broken")
    break_off(arrivals, "broken")
    arrivals.image(association_id=association_id)

    assert settled_with(arrivals) == ("quiet for 0 s, with 2 images", [])


def test_repetition_of_a_complete_transfer_is_no_broken_one(arrivals: Arrivals) -> None:
    same = {"sop_instance_uid": "2.25.1", "sha256": "a"}
    arrivals.image(**same, association_id="broken")
    break_off(arrivals, "broken")
    assert arrivals.image(**same, association_id="its repetition") is Recorded.DUPLICATE

    assert settled_with(arrivals) == ("quiet for 0 s, with 1 image", [])


def test_parallel_association_does_not_repeat_a_transfer_that_broke_off(arrivals: Arrivals) -> None:
    for association_id in ("parallel", "broken"):
        arrivals.image(association_id=association_id)
    break_off(arrivals, "broken")
    arrivals.image(association_id="parallel")
    time.sleep(0.02)

    assert settled_with(arrivals)[1] == [transfers.LIMITATION]


def test_study_with_all_announced_objects_is_complete_although_its_association_was_lost(arrivals: Arrivals) -> None:
    arrivals.image(study=lifecycle.StudyAttributes(arrivals.uid, announced=1), association_id="broken")
    break_off(arrivals, "broken")

    assert settled_with(arrivals) == ("quiet for 0 s, with 1 image", [])


def test_study_without_images_is_not_reportable(arrivals: Arrivals) -> None:
    arrivals.image(reportable=False)

    assert arrivals.settle() == []
    assert arrivals.state() == "not_reportable"


def test_late_images_supersede_the_running_job(arrivals: Arrivals) -> None:
    claim = arrivals.running_job()
    arrivals.image()

    assert arrivals.state() == "receiving"
    (second,) = arrivals.settle()
    with transaction(arrivals.url) as session:
        first = session.get_one(Job, claim.job_id)
        assert (first.state, first.reason) == ("superseded", "late_images")
        assert session.get_one(Job, second).revision == 2


def test_late_object_without_pixels_changes_nothing(arrivals: Arrivals) -> None:
    arrivals.running_job()
    arrivals.image(reportable=False)

    assert arrivals.state() == "settled"


def test_quarantined_file_has_one_row(database_url: str) -> None:
    for _ in range(2):
        with transaction(database_url) as session:
            file = Quarantined(
                file_path="spool/quarantine/a.dcm",
                file_bytes=1,
                sha256="a",
                reason="unreadable",
                detail="cut short",
                received_at=dt.datetime.now(dt.UTC),
            )
            lifecycle.quarantine(session, file)
    with transaction(database_url) as session:
        assert session.scalar(select(func.count()).select_from(Quarantined)) == 1


def test_unknown_study_is_an_error(database_url: str) -> None:
    with transaction(database_url) as session, pytest.raises(UnknownStudy, match="no study"):
        lifecycle.find(session, "ACC-404")


START = dt.datetime(2026, 1, 1, 10, tzinfo=dt.UTC)


def series(arrivals: Arrivals, number: int, *, images: int, minutes: int) -> None:
    """Receive one more series *minutes* after the start, then settle the study."""
    for _ in range(images):
        arrivals.image(
            received_at=START + dt.timedelta(minutes=minutes),
            series_number=number,
            series_instance_uid=f"{arrivals.uid}.0.{number}",
        )
    arrivals.settle()


def report(arrivals: Arrivals) -> None:
    claim = arrivals.claim()
    assert claim is not None
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, versions.Draft("No effusion.", "Normal.", "1 of 1 images", "1", "d", {}))


def late_arrivals(arrivals: Arrivals, revision: int) -> list[str]:
    with transaction(arrivals.url) as session:
        return lifecycle.late_arrivals(session, lifecycle.find(session, arrivals.uid).id, revision)


def test_late_images_are_described(arrivals: Arrivals) -> None:
    series(arrivals, 1, images=1, minutes=0)
    report(arrivals)
    series(arrivals, 4, images=2, minutes=14)

    assert late_arrivals(arrivals, 2) == ["2 images of series 4 arrived 14 min later"]
    assert late_arrivals(arrivals, 1) == []


def test_late_images_are_counted_since_the_last_report(arrivals: Arrivals) -> None:
    series(arrivals, 1, images=1, minutes=0)
    report(arrivals)
    series(arrivals, 4, images=3, minutes=14)
    assert arrivals.claim() is not None
    series(arrivals, 5, images=1, minutes=20)

    assert late_arrivals(arrivals, 3) == [
        "3 images of series 4 arrived 14 min later",
        "1 image of series 5 arrived 20 min later",
    ]
    report(arrivals)
    series(arrivals, 6, images=1, minutes=30)
    assert late_arrivals(arrivals, 4) == ["1 image of series 6 arrived 10 min later"]


def test_first_report_has_no_late_images(arrivals: Arrivals) -> None:
    series(arrivals, 1, images=1, minutes=0)
    assert arrivals.claim() is not None
    series(arrivals, 4, images=3, minutes=14)

    assert late_arrivals(arrivals, 2) == []


def test_each_revision_must_be_quiet_for_longer(arrivals: Arrivals) -> None:
    arrivals.image()
    arrivals.settle()
    arrivals.image()
    with transaction(arrivals.url) as session:
        session.execute(text("UPDATE studies SET last_received_at = last_received_at - interval '15 s'"))

    assert arrivals.settle(settle_seconds=10) == []
    assert len(arrivals.settle(settle_seconds=7)) == 1


def test_study_without_images_cannot_be_retried(arrivals: Arrivals) -> None:
    arrivals.image(reportable=False)
    arrivals.settle()

    with (
        pytest.raises(NotPossible, match="^the study contains no image that can be reported$"),
        transaction(arrivals.url) as session,
    ):
        claims.retry(session, lifecycle.find(session, arrivals.uid, lock=True))


def test_too_many_revisions_wait_for_an_operator(arrivals: Arrivals) -> None:
    arrivals.image()
    assert len(arrivals.settle(max_revisions=1)) == 1
    arrivals.image()

    assert arrivals.settle(max_revisions=1) == []
    assert arrivals.state() == "cancelled"
    assert arrivals.claim() is None
    with transaction(arrivals.url) as session:
        claims.retry(session, lifecycle.find(session, arrivals.uid, lock=True))
        assert invariants.check(session) == []
    assert arrivals.claim() is not None


def test_object_that_another_dispatcher_indexed_first_makes_no_revision(
    arrivals: Arrivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = {"sop_instance_uid": "2.25.1", "file_path": "spool/store/a.dcm", "sha256": "a"}
    arrivals.image(**same)
    arrivals.settle()
    look_up = lifecycle._known

    def before_the_other_committed(*_: object) -> None:
        monkeypatch.setattr(lifecycle, "_known", look_up)

    monkeypatch.setattr(lifecycle, "_known", before_the_other_committed)

    assert arrivals.image(**same) is Recorded.ALREADY_INDEXED
    assert arrivals.state() == "settled"


def test_urgent_object_raises_the_queued_job_of_its_study(arrivals: Arrivals) -> None:
    arrivals.image()
    arrivals.settle()
    other = Arrivals(arrivals.url)
    other.image(study=lifecycle.StudyAttributes(other.uid, priority=1))
    other.settle()
    arrivals.image(reportable=False, study=lifecycle.StudyAttributes(arrivals.uid, priority=STAT))

    claim = arrivals.claim()
    assert claim is not None
    with transaction(arrivals.url) as session:
        assert claim.study_id == lifecycle.find(session, arrivals.uid).id


def test_object_without_priority_leaves_a_study_low(arrivals: Arrivals) -> None:
    arrivals.image(study=lifecycle.StudyAttributes(arrivals.uid, priority=LOW))
    arrivals.image()

    with transaction(arrivals.url) as session:
        assert lifecycle.find(session, arrivals.uid).priority == LOW


def test_modality_and_body_parts_of_a_study_do_not_depend_on_the_order_of_arrival(database_url: str) -> None:
    objects = [("CT", "CHEST"), ("CT", "HEAD"), ("DX", "CHEST"), ("CT", "")]
    found = set()
    for order in itertools.permutations(objects):
        arrivals = Arrivals(database_url)
        for modality, body_part in order:
            arrivals.image(modality=modality, body_part=body_part)
        arrivals.settle()
        with transaction(database_url) as session:
            study = lifecycle.find(session, arrivals.uid)
            found.add((study.modality, study.body_part))

    assert found == {("CT", "CHEST, HEAD")}
