"""Every violation of an invariant is found, and none in an intact database."""

from __future__ import annotations

import ast
import inspect
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from db.jobs import claims
from db.operations import invariants
from db.session import transaction
from deploy.operate import audit, report_images
from tests.chaos import breaches
from tests.integration.db.jobs.test_claims import DRAFT

if TYPE_CHECKING:
    from types import ModuleType

    from tests.integration.db.conftest import Arrivals


def violations(url: str) -> set[str]:
    with transaction(url) as session:
        return {violation.rule for violation in invariants.check(session)}


@pytest.fixture
def reported(arrivals: Arrivals) -> Arrivals:
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, DRAFT)
    return arrivals


def test_intact_database_has_no_violations(reported: Arrivals) -> None:
    other = type(reported)(reported.url)
    other.image()
    late = type(reported)(reported.url)
    late.running_job()
    late.image()

    assert violations(reported.url) == set()


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        ("UPDATE studies SET state = 'receiving'", "a receiving study has no job of its revision"),
        ("UPDATE studies SET state = 'settled'", "a settled study has one open job"),
        (
            "UPDATE studies SET state = 'failed', reason = 'x'",
            "a failed or cancelled study has a job in the same state",
        ),
        (
            "UPDATE studies SET state = 'not_reportable', reason = 'x'",
            "a not reportable study has no images or a not reportable job",
        ),
        ("UPDATE studies SET state = 'held', reason = 'x'", "a held study has another held identity"),
        ("UPDATE studies SET state = 'held', reason = 'x'", "a held study names its conflict"),
        ("UPDATE studies SET identity_number = 2", "a Study Instance UID has a first identity"),
        ("UPDATE studies SET state = 'cancelled', reason = 'identity_refused'", "a refused identity has no job"),
        ("UPDATE jobs SET state = 'queued'", "an open report job belongs to a settled study's revision"),
        ("UPDATE jobs SET state = 'queued'", "a reported study's job is finished"),
        ("UPDATE instances SET revision = 7", "an instance belongs to a revision that its study has begun"),
        ("DELETE FROM reports", "exactly the finished report jobs have a report"),
        ("UPDATE jobs SET fence = 9", "a report was written under its job's last fence"),
        (
            "ALTER TABLE reports DISABLE TRIGGER reports_immutable; UPDATE reports SET version = 2",
            "a study's report versions are 1, 2, ...",
        ),
        ("UPDATE studies SET report_version = 0", "a study has the version of its current report"),
        (
            """INSERT INTO report_checks SELECT id, 'other', 'warning', '{}' FROM reports;
            UPDATE studies SET is_marked = false""",
            "a study is marked if a check or verdict of its current report is",
        ),
    ],
)
def test_damage_violates_its_rule(reported: Arrivals, damage: str, rule: str) -> None:
    with transaction(reported.url) as session:
        session.execute(text(damage))

    assert rule in violations(reported.url)


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (
            "UPDATE jobs SET lease_until = now() - interval '1 day'",
            "a job is rescued soon after the end of its lease",
        ),
        ("UPDATE jobs SET attempt = 4", "an open job has at most PRELIM_MAX_ATTEMPTS attempts"),
        (
            """INSERT INTO commitments
            (id, transaction_uid, calling_ae_title, called_ae_title, association_id, requested, received_at, attempts)
            VALUES (gen_random_uuid(), '1', 'A', 'B', 'c', '[]', now() - interval '1 year', 9)""",
            "a storage commitment result is delivered or given up within 8 days",
        ),
        (
            """INSERT INTO procedure_steps (sop_instance_uid, study_instance_uid, state, images, updated_at)
            VALUES ('1.2', '1.3', 'IN PROGRESS', '{}', now() - interval '1 year')""",
            invariants.STEP_ENDS,
        ),
    ],
)
def test_overdue_transition_violates_its_rule(arrivals: Arrivals, damage: str, rule: str) -> None:
    arrivals.running_job()
    with transaction(arrivals.url) as session:
        session.execute(text(damage))
        found = [violation.rule for violation in invariants.check(session, max_attempts=3)]

    assert found == [rule]


def test_receiving_study_without_an_instance_violates_its_rule(arrivals: Arrivals) -> None:
    arrivals.image()
    with transaction(arrivals.url) as session:
        session.execute(text("DELETE FROM instances"))

    assert violations(arrivals.url) == {"a receiving study has an instance"}


def rules_of(module: ModuleType) -> set[str]:
    """Return the rules in a module's source: keys of a dict called `rules`, and first arguments of Violation."""
    found: list[ast.expr | None] = []
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict) and ast.unparse(node.target) == "rules":
            found += node.value.keys
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Violation":
            found.append(node.args[0])
    texts = {rule.value for rule in found if isinstance(rule, ast.Constant)}
    return texts | {vars(module)[rule.id] for rule in found if isinstance(rule, ast.Name) and rule.id in vars(module)}


def test_each_rule_has_a_planted_breach() -> None:
    assert rules_of(invariants) == set(breaches.ROWS)
    constants = vars(audit) | vars(report_images)
    names = {value for name, value in constants.items() if name.isupper() and isinstance(value, str)}
    not_planted = {audit.PART, report_images.UNLISTED}
    assert names - not_planted == set(breaches.FILES)
