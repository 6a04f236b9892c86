"""A certificate holds for exactly its checkpoint, prompt, snapshot and labeller, until it is suspended."""

from __future__ import annotations

from dataclasses import replace

import pytest

from db.reports import certificates
from db.reports.certificates import Bindings, Certificate, GroupFigures, Standing
from db.session import transaction
from db.states import Calibration

THESE = Bindings("sha256:a", "2", "20261128T1", "3")
CERTIFICATE = Certificate(
    THESE,
    0.05,
    0.1,
    {"kind": "phantoms", "studies": 400, "seed": 1, "where": "synthetic studies", "date": "2026-11-28"},
    {"common": GroupFigures(200, 190, 2, 150, 2, 0.04, 0.25), "rare": GroupFigures(10, 9, 0, 9, 0, 0.3, None, 50)},
    ["nodule"],
)


def standing(url: str, bindings: Bindings = THESE) -> Standing:
    with transaction(url) as session:
        return certificates.standing(session, bindings)


def add(url: str, certificate: Certificate = CERTIFICATE) -> None:
    with transaction(url) as session:
        certificates.add(session, certificate)


def test_nothing_is_certified_before_a_calibration(database_url: str) -> None:
    assert standing(database_url) == certificates.NOT_CALIBRATED


def test_certificate_is_read_as_it_was_stored(database_url: str) -> None:
    add(database_url)

    found = standing(database_url)

    assert found.status is Calibration.CERTIFIED
    assert found.certificate is not None
    assert replace(found.certificate, created_at=CERTIFICATE.created_at) == CERTIFICATE


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"model_digest": "sha256:b"}, "another checkpoint"),
        ({"prompt_version": "3"}, "another prompt version"),
        ({"snapshot": "20261129T1"}, "another reference index"),
        ({"labeller": "4"}, "another labeller version"),
    ],
)
def test_change_of_one_binding_ends_the_certificate_and_is_named(
    database_url: str, changed: dict[str, str], named: str
) -> None:
    add(database_url)

    found = standing(database_url, replace(THESE, **changed))

    assert (found.status, found.certificate) == (Calibration.UNCALIBRATED, None)
    assert f"holds for {named}; run" in found.reason


def test_suspended_certificate_does_not_hold_until_a_new_one_is_made(database_url: str) -> None:
    add(database_url)
    with transaction(database_url) as session:
        assert certificates.suspend(session, "the error rose") == 1
        assert certificates.suspend(session, "again") == 0
        assert session.scalar(certificates.suspension(str(CERTIFICATE.id))) == "the error rose"

    assert standing(database_url) == Standing(Calibration.SUSPENDED, "the error rose")
    add(database_url, Certificate(THESE, 0.05, 0.1, {}, {}, []))
    assert standing(database_url).status is Calibration.CERTIFIED
