"""The TLS certificate of the listener: loads with its key, is valid, has its chain."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from db.errors import ConfigurationError
from deploy.operate.doctor.finding import Check, Finding, NotChecked, fault, ok, warning
from dicom_listener.receive import tls

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.operate.doctor.finding import Installation

#: Time before the end of a certificate at which a new one should be ordered.
NOTICE = dt.timedelta(days=30)


def examine_loading(installation: Installation) -> Finding:
    """Load certificate, key and authorities as the listener does."""
    try:
        context = tls.server_context(installation.settings)
    except ConfigurationError as error:
        return fault(str(error), "correct PRELIM_TLS_CERTIFICATE, PRELIM_TLS_KEY and PRELIM_TLS_CLIENT_CA")
    if context is not None:
        return ok("certificate and key belong together")
    if installation.is_remote:
        return warning(
            "DICOM is received without encryption",
            "set PRELIM_TLS_CERTIFICATE and PRELIM_TLS_KEY, or keep the port in the modalities' own network",
        )
    return ok("no certificate; the listener is on the loopback address")


def chain(path: Path | None) -> list[x509.Certificate]:
    """Return the certificates of a PEM file, the server's own first; raises NotChecked."""
    if path is None:
        raise NotChecked("no certificate is configured")
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise NotChecked("the certificate cannot be read") from error


def examine_dates(installation: Installation) -> Finding:
    """Compare the validity of each certificate in the file with now."""
    now = dt.datetime.now(dt.UTC)
    found = chain(installation.settings.dicom.tls_certificate)
    begins = max(certificate.not_valid_before_utc for certificate in found)
    ends = min(certificate.not_valid_after_utc for certificate in found)
    if begins > now:
        return fault(f"the certificate is valid from {begins:%Y-%m-%d %H:%M} UTC on", "check the clock, or replace it")
    if ends <= now:
        return fault(f"the certificate ended on {ends:%Y-%m-%d}", _RENEW)
    shown = f"the certificate ends on {ends:%Y-%m-%d}, in {(ends - now).days} days"
    return ok(shown) if ends - now > NOTICE else warning(shown, _RENEW)


_RENEW = "replace the files, then send SIGHUP to `prelim listen`, which interrupts no association"


def examine_chain(installation: Installation) -> Finding:
    """Require that each certificate of the file is signed by the next one."""
    found = chain(installation.settings.dicom.tls_certificate)
    for signed, issuer in itertools.pairwise(found):
        try:
            signed.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError):
            return fault(
                "a certificate of the file is not signed by the one after it",
                "write the listener's own certificate first, then each authority up to the one that peers trust",
            )
    return ok(f"{len(found)} certificates, each signed by the next")


CHECKS = (
    Check("tls", "without TLS, patient data can be read on the network", examine_loading),
    Check(
        "tls_dates", "modalities refuse a certificate that has ended, and their studies stay with them", examine_dates
    ),
    Check("tls_chain", "a modality that trusts only the authority needs the certificates in between", examine_chain),
)
