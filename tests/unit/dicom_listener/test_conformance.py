"""The conformance statement follows the configuration and the code."""

from __future__ import annotations

from pathlib import Path

import pytest
from pynetdicom import ALL_TRANSFER_SYNTAXES

from db.settings import Settings
from dicom_listener.conformance import statement
from dicom_listener.dicom import uids
from dicom_listener.dicom.statuses import Refusal


def all_refusals(base: type[Refusal] = Refusal) -> list[type[Refusal]]:
    return [found for kind in base.__subclasses__() for found in (kind, *all_refusals(kind))]


def test_statement_has_every_status() -> None:
    text = statement(Settings())
    assert all(f"| {refusal.status:04X} |" in text for refusal in all_refusals())


def test_statement_has_every_transfer_syntax() -> None:
    text = statement(Settings())
    assert all(f"({uid})" in text for uid in ALL_TRANSFER_SYNTAXES)


@pytest.mark.parametrize("mpps", [True, False])
def test_statement_has_mpps_only_if_enabled(*, mpps: bool) -> None:
    assert (uids.MODALITY_PERFORMED_PROCEDURE_STEP in statement(Settings(mpps=mpps))) is mpps


def test_statement_has_the_configuration(tmp_path: Path) -> None:
    peers = tmp_path / "peers.toml"
    peers.write_text('called = ["HERE"]\n[[peer]]\nae_title = "CT_1"\n')
    text = statement(Settings(dicom_port=4242, ae_title="HERE", peers_file=peers, tls_certificate=Path("x.pem")))
    assert "| TCP port | 4242 (TLS) |" in text
    assert "| Called AE titles | HERE |" in text
    assert "| Calling AE titles | CT_1 |" in text
    assert "TLS 1.2" in text
