"""Two identities under one Study Instance UID: held, separated, decided by a person."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, text

from db.answers import predictions
from db.answers.predictions import Received
from db.errors import NotPossible, Reason, StaleFence
from db.jobs import claims
from db.models import IdentityDecision, Instance, ReportFeedback, Study, StudyHold
from db.operations import invariants
from db.reports import feedback, holds, versions
from db.session import transaction
from db.studies import lifecycle
from db.studies.deletion import retention
from db.studies.identity import decisions, identity
from db.studies.identity.decisions import Decision
from db.studies.identity.identity import Identity
from db.studies.lifecycle import Recorded, StudyAttributes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sqlalchemy.orm import Session

    from tests.integration.db.conftest import Arrivals

A = Identity("A", "SITE", "Phantom^Alpha", "19700101", "M", "ACC-A", "20260102")
B = Identity("B", "SITE", "Phantom^Beta", "19330303", "F", "ACC-B", "20260102")


OTHER = B._asdict() | {"issuer_of_patient_id": "ELSEWHERE", "study_date": "20260103"}


def draft() -> versions.Draft:
    return versions.Draft("No effusion.", "Normal.", "1 of 1 images", "1", "d", {})


class Identities:
    """One Study Instance UID, to which objects of any identity are sent."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals

    def image(self, given: Identity, **changes: Any) -> Recorded:
        return self.arrivals.image(
            **{"study": self.attributes(given), "series_instance_uid": f"2.25.{abs(hash(given))}"} | changes
        )

    def attributes(self, given: Identity) -> StudyAttributes:
        return StudyAttributes(self.arrivals.uid, **given._asdict())

    def studies(self) -> list[Study]:
        with transaction(self.arrivals.url) as session:
            return list(session.scalars(select(Study).order_by(Study.identity_number)))

    def states(self) -> list[str]:
        return [study.state for study in self.studies()]

    def objects(self) -> list[int]:
        with transaction(self.arrivals.url) as session:
            rows = session.scalars(select(Instance.study_id)).all()
        return [rows.count(study.id) for study in self.studies()]

    def decide(self, decision: Decision, number: int = 1, **values: Any) -> Study:
        named = self.studies()[number - 1]
        with transaction(self.arrivals.url) as session:
            return decisions.decide(session, named, decision, "user test", **values)

    def report(self) -> None:
        for _ in self.arrivals.settle():
            claim = self.arrivals.claim()
            assert claim is not None
            with transaction(self.arrivals.url) as session:
                claims.finish(session, claim, draft())

    def sentences(self) -> list[str]:
        with transaction(self.arrivals.url) as session:
            return decisions.sentences(session, self.studies()[0].id)


def wait_for_lock(session: Session) -> None:
    """Wait until another transaction waits for a lock."""
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    for _ in range(500):
        if session.scalar(waiting):
            return
        time.sleep(0.01)
    pytest.fail("no transaction waits for a lock")


@pytest.fixture
def identities(arrivals: Arrivals) -> Iterator[Identities]:
    yield Identities(arrivals)
    with transaction(arrivals.url) as session:
        assert invariants.check(session) == []


def test_each_differing_field_holds_the_study(arrivals: Arrivals) -> None:
    for field in Identity._fields:
        same_request = {"accession_number": ""} if field == "study_date" else {}
        uid = f"{arrivals.uid}.{len(field)}.{len(same_request)}"
        for number, given in enumerate(
            (A._replace(**same_request), A._replace(**same_request | {field: OTHER[field]}))
        ):
            attributes = StudyAttributes(uid, **given._asdict())
            arrivals.image(study=attributes, sop_instance_uid=f"{uid}.{number}")
        with transaction(arrivals.url) as session:
            found = session.scalars(select(Study).where(Study.study_instance_uid == uid)).all()
        assert [(row.state, row.reason, row.differs) for row in found] == [("held", "identity_conflict", [field])] * 2

    assert arrivals.settle() == []


def test_harmless_variants_are_one_study(identities: Identities) -> None:
    identities.image(A)
    identities.image(A._replace(patient_name="PHANTOM^ALPHA^^^", patient_id="A "))
    identities.image(A._replace(patient_name="Phantom^Alpha=幻影^阿尔法"))
    identities.image(Identity())

    assert (identities.states(), identities.objects()) == (["receiving"], [4])
    assert identities.studies()[0].patient_name == "Phantom^Alpha=幻影^阿尔法"


def test_empty_values_are_filled_from_later_objects(identities: Identities) -> None:
    identities.image(Identity())
    identities.image(A._replace(patient_sex="", accession_number=""))
    identities.image(Identity(patient_sex="F", accession_number="ACC-LATE"))

    expected = A._replace(patient_sex="F", accession_number="ACC-LATE")
    assert identity.of(identities.studies()[0]) == expected


def test_running_job_of_a_held_study_is_superseded(identities: Identities) -> None:
    identities.image(A)
    identities.arrivals.settle()
    claim = identities.arrivals.claim()
    assert claim is not None
    identities.image(B)

    with pytest.raises(StaleFence), transaction(identities.arrivals.url) as session:
        claims.finish(session, claim, draft())
    assert identities.states() == ["held", "held"]


def test_reported_study_is_held_and_keeps_its_report(identities: Identities) -> None:
    identities.image(A)
    identities.report()
    identities.image(B)

    assert identities.states() == ["held", "held"]
    with transaction(identities.arrivals.url) as session:
        assert versions.current(session, identities.studies()[0].id) is not None
    identities.decide(Decision.KEEP_APART)
    # No image of A has arrived since: its report is still the current one.
    assert identities.states() == ["reported", "receiving"]


def test_kept_apart_identities_get_a_report_each(identities: Identities) -> None:
    identities.image(A)
    identities.image(B)
    identities.image(A)
    identities.decide(Decision.KEEP_APART)
    identities.report()

    assert (identities.states(), identities.objects()) == (["reported", "reported"], [2, 1])
    # The decision holds: later objects go to their own study and nobody is asked again.
    identities.image(B)
    assert (identities.states(), identities.objects()) == (["reported", "receiving"], [2, 2])


def test_taken_over_demographics_cover_all_objects(identities: Identities) -> None:
    identities.image(A)
    identities.report()
    identities.image(B)
    identities.decide(Decision.TAKE_OVER)

    assert (identities.states(), identities.objects()) == (["receiving"], [2])
    study = identities.studies()[0]
    assert identity.of(study) == B
    assert study.revision == 2
    fields = "Patient ID, Patient's Name, Patient's Birth Date, Patient's Sex, Accession Number"
    assert identities.sentences() == [f"Demographics corrected by an operator: {fields}."]
    identities.report()
    identities.image(A)
    assert (identities.states(), identities.objects()) == (["receiving"], [3])
    assert identity.of(identities.studies()[0]) == B


@pytest.mark.parametrize("first_is_held", [False, True])
def test_taken_over_identity_passes_on_holds_feedback_and_predictions(
    identities: Identities, *, first_is_held: bool
) -> None:
    identities.image(A)
    identities.image(B)
    url, (first, other) = identities.arrivals.url, identities.studies()
    with transaction(url) as session:
        if first_is_held:
            holds.hold(session, first.id, "call the ward", "key a")
        holds.hold(session, other.id, "wait for consent", "key b")
        feedback.add(session, other, ReportFeedback(version=0, kind="impression", text="normal", author="key b"))
        predictions.add(session, [Received(other.study_instance_uid, "n", "1", "effusion", 0.5)], "rest", other.id)
    identities.decide(Decision.TAKE_OVER)

    with transaction(url) as session:
        held = session.scalars(select(StudyHold).order_by(StudyHold.id)).all()
        assert {row.study_id for row in held} == {first.id}
        assert [row.reason for row in held if row.released_at is None] == (
            ["call the ward"] if first_is_held else ["wait for consent"]
        )
        assert [row.text for row in feedback.of_study(session, first.id)] == ["normal"]
        assert [one.label for one in predictions.of_study(session, first.id)] == ["effusion"]


def test_first_identity_can_be_the_right_one(identities: Identities) -> None:
    identities.image(A)
    identities.image(B)
    identities.decide(Decision.TAKE_OVER, right=1)
    identities.image(B)

    assert (identities.states(), identities.objects()) == (["receiving"], [3])
    assert identity.of(identities.studies()[0]) == A


def test_refused_objects_are_set_aside(identities: Identities) -> None:
    identities.image(A)
    identities.image(B)
    identities.decide(Decision.REFUSE)
    identities.image(B)
    identities.report()

    assert (identities.states(), identities.objects()) == (["reported", "cancelled"], [1, 2])
    assert identities.studies()[1].reason == Reason.IDENTITY_REFUSED
    # Its age is known: `prelim retain` deletes it in time.
    assert identities.studies()[1].settled_at is not None
    identities.decide(Decision.KEEP_APART, number=2)
    identities.report()
    assert identities.states() == ["reported", "reported"]


def test_refused_objects_cannot_be_retried(identities: Identities) -> None:
    identities.image(A)
    identities.image(B)
    identities.decide(Decision.REFUSE)
    refused = identities.studies()[1].id

    with pytest.raises(NotPossible, match="set aside"), transaction(identities.arrivals.url) as session:
        claims.retry(session, session.get_one(Study, refused))


def test_repeated_decision_changes_nothing(identities: Identities) -> None:
    identities.image(A)
    identities.image(B)
    identities.decide(Decision.KEEP_APART)
    identities.decide(Decision.KEEP_APART)

    with transaction(identities.arrivals.url) as session:
        rows = session.scalars(select(IdentityDecision)).all()
    assert [(row.decision, row.decided_by) for row in rows] == [("keep_apart", "user test")]
    with pytest.raises(NotPossible, match="only a held study"):
        identities.decide(Decision.REFUSE)


def test_third_identity_holds_the_study_again(identities: Identities) -> None:
    third = B._replace(patient_id="C", accession_number="ACC-C")
    identities.image(A)
    identities.image(B)
    identities.image(third)
    identities.decide(Decision.KEEP_APART, number=3)

    assert identities.states() == ["held", "held", "receiving"]
    identities.decide(Decision.REFUSE)
    assert identities.states() == ["receiving", "cancelled", "receiving"]


def test_object_that_fits_two_patients_belongs_to_its_series(identities: Identities) -> None:
    identities.image(A)
    identities.image(B, series_instance_uid="2.25.7")
    identities.decide(Decision.KEEP_APART)
    identities.image(Identity(), series_instance_uid="2.25.7")
    assert identities.objects() == [1, 2]

    identities.image(Identity(), series_instance_uid="2.25.8")
    assert identities.objects() == [1, 2, 1]
    assert identities.states() == ["held", "receiving", "held"]


def test_late_image_of_a_held_study_makes_a_new_version_after_the_decision(identities: Identities) -> None:
    identities.image(A)
    identities.report()
    identities.image(B)
    identities.image(A)
    assert identities.states() == ["held", "held"]
    identities.decide(Decision.REFUSE)
    identities.report()

    with transaction(identities.arrivals.url) as session:
        report = versions.current(session, identities.studies()[0].id)
    assert report is not None
    assert report.version == 2


def test_image_without_demographics_beside_two_patients_is_named(identities: Identities) -> None:
    identities.image(Identity())
    identities.image(A)
    assert identities.sentences() == []
    identities.image(B)
    identities.decide(Decision.KEEP_APART)

    assert identities.sentences() == [
        "1 image has no patient data and may be of another patient who was sent under the same Study Instance UID."
    ]


def test_two_indexers_make_the_same_studies(identities: Identities) -> None:
    def send(given: Identity) -> None:
        for number in range(10):
            # The same objects from both: two dispatchers read the same inbox.
            name = f"{given.patient_id}{number}"
            identities.image(
                given, sop_instance_uid=f"2.25.{ord(given.patient_id)}{number}", file_path=name, sha256=name
            )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, (A, B, B, A)))

    assert identities.states() == ["held", "held"]
    assert identities.objects() == [10, 10]
    assert {identity.of(study) for study in identities.studies()} == {A, B}


def test_objects_in_any_order_end_in_the_same_studies(identities: Identities) -> None:
    for given in (B, Identity(), A, B, A):
        identities.image(given)
    identities.decide(Decision.KEEP_APART)

    assert {identity.of(study) for study in identities.studies()} == {A, B}


def test_study_is_found_by_its_uid_while_it_is_held(identities: Identities) -> None:
    identities.image(A)
    identities.image(B._replace(accession_number="ACC-A"))

    with transaction(identities.arrivals.url) as session:
        assert lifecycle.find(session, identities.arrivals.uid).identity_number == 1
        assert lifecycle.find(session, "ACC-A").identity_number == 1


def test_study_without_demographics_kept_apart_attracts_no_other_object(identities: Identities) -> None:
    identities.image(A)
    identities.image(B)
    identities.decide(Decision.KEEP_APART)
    identities.image(Identity(), series_instance_uid="2.25.8")
    identities.decide(Decision.KEEP_APART)

    identities.image(A, series_instance_uid="2.25.9")
    identities.image(B, series_instance_uid="2.25.8")
    identities.image(Identity(), series_instance_uid="2.25.8")
    assert (identities.states(), identities.objects()) == (["receiving"] * 3, [2, 2, 2])
    assert identity.of(identities.studies()[2]) == Identity()


def test_taken_over_study_keeps_a_name_that_only_it_has(identities: Identities) -> None:
    identities.image(A)
    identities.image(B._replace(patient_name=""))
    identities.decide(Decision.TAKE_OVER)
    assert identity.of(identities.studies()[0]) == B._replace(patient_name=A.patient_name)


def test_second_decision_is_carried_out_or_rejected(identities: Identities) -> None:
    identities.image(A)
    identities.image(B)
    identities.image(B._replace(patient_id="C", accession_number="ACC-C"))
    with pytest.raises(NotPossible, match="without a number"):
        identities.decide(Decision.KEEP_APART, number=2, right=2)
    identities.decide(Decision.KEEP_APART, number=2)
    identities.decide(Decision.REFUSE, number=3)

    identities.decide(Decision.KEEP_APART, number=2)
    with pytest.raises(NotPossible, match="only a held study"):
        identities.decide(Decision.REFUSE, number=2)
    with pytest.raises(NotPossible, match="only a held study"):
        identities.decide(Decision.TAKE_OVER, number=1, right=1)


def test_decision_about_an_identity_taken_over_meanwhile_concerns_no_other(identities: Identities) -> None:
    identities.image(A)
    identities.image(B)
    identities.image(B._replace(patient_id="C", accession_number="ACC-C"))
    second = identities.studies()[1]
    identities.decide(Decision.TAKE_OVER, number=2)

    with pytest.raises(NotPossible), transaction(identities.arrivals.url) as session:
        decisions.decide(session, second, Decision.REFUSE, "user test")
    assert identities.states() == ["held", "held"]


def test_decision_about_a_deleted_study_is_not_possible(identities: Identities) -> None:
    identities.image(A)
    identities.image(B)
    second = identities.studies()[1]
    with transaction(identities.arrivals.url) as session:
        retention.delete_studies(session, identities.studies())

    with pytest.raises(NotPossible, match="deleted"), transaction(identities.arrivals.url) as session:
        decisions.decide(session, second, Decision.KEEP_APART, "user test")


def test_decision_sees_the_identity_that_an_indexer_inserts_meanwhile(identities: Identities) -> None:
    third = B._replace(patient_id="C", accession_number="ACC-C")
    identities.image(A)
    identities.image(B)
    with ThreadPoolExecutor(1) as pool, transaction(identities.arrivals.url) as session:
        lifecycle.record_instance(session, identities.arrivals.received(study=identities.attributes(third)))
        deciding = pool.submit(identities.decide, Decision.KEEP_APART)
        wait_for_lock(session)
    deciding.result(timeout=30)

    assert identities.states() == ["receiving"] * 3
