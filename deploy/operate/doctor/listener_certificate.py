"""The TLS certificate of the listener: loads with its key, is valid, has its chain."""

from __future__ import annotations

import datetime as dt
import itertools
import socket
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from db.errors import ConfigurationError
from db.operations import heartbeats, listener_status
from db.operations.heartbeats import Role
from deploy.operate.doctor.finding import Check, Finding, Level, NotChecked, fault, not_checked, ok, warning
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
    authorities = _authorities(installation.settings.dicom.tls_client_ca)
    ended = [each for each in authorities if each.not_valid_after_utc <= now]
    if begins > now:
        return fault(f"the certificate is valid from {begins:%Y-%m-%d %H:%M} UTC on", "check the clock, or replace it")
    if ends <= now:
        return fault(f"the certificate ended on {ends:%Y-%m-%d}", _RENEW)
    if ended:
        level = fault if len(ended) == len(authorities) else warning
        return level(
            f"{len(ended)} of {len(authorities)} authorities in PRELIM_TLS_CLIENT_CA have ended: peers with a"
            " certificate of theirs are refused",
            "replace them in the file, then send SIGHUP to `prelim listen`",
        )
    shown = f"the certificate ends on {ends:%Y-%m-%d}, in {(ends - now).days} days"
    return ok(shown) if ends - now > NOTICE else warning(shown, _RENEW)


_RELOAD = "send SIGHUP to each `prelim listen`, which interrupts no association"
_UNENCRYPTED = "receive without encryption, and PRELIM_TLS_CERTIFICATE is set here"
_SET_THERE = "set it for each `prelim listen`, too, and start that again"
_RENEW = f"replace the files, then {_RELOAD}"


def examine_served(installation: Installation) -> Finding:
    """Compare the certificates that the listeners have loaded with now, and with the files here."""
    with installation.session() as session:
        alive = heartbeats.alive(session, Role.LISTENER)
    found = listener_status.served(listener_status.current(alive))
    files = _files(installation)
    if not alive:
        return not_checked("no listener is alive")
    if not found:
        return _unserved(reported=any("certificate" in each.info for each in alive), configured=files is not None)
    plain = sum(each.info.get("certificate", "") is None and not each.info.get("draining") for each in alive)
    if plain and files is not None:
        return fault(f"{plain} of {len(alive)} processes of listeners {_UNENCRYPTED}", _SET_THERE)
    judged = _judged(listener_status.certificate_end(listener_status.current(alive)), len(found))
    replaced = sum(files is not None and (each.fingerprint, each.authorities) != files for each in found)
    if replaced:
        level = fault if judged.level is Level.FAULT else warning
        return level(
            f"{replaced} of {len(found)} processes of listeners serve another certificate or other authorities than the"
            f" files here, which were replaced and not loaded; {judged.found}",
            _RELOAD,
        )
    return judged


def _files(installation: Installation) -> tuple[str, str] | None:
    """Return the digests of certificate and authorities here; None without them."""
    if installation.settings.dicom.tls_certificate is None:
        return None
    try:
        here = tls.description(installation.settings)
    except ConfigurationError:  # reported by `examine_loading`
        return None
    return here["fingerprint"], here["authorities"]


def _unserved(*, reported: bool, configured: bool) -> Finding:
    """Return the finding for listeners without certificates."""
    if not reported:
        return not_checked("the listeners are of an earlier release, which does not pass on its certificate")
    if configured:
        return fault(f"the listeners {_UNENCRYPTED}", _SET_THERE)
    return ok("the listeners have no certificate")


def _judged(ends: float | None, number: int) -> Finding:
    """Return the finding for the end of the first certificate that is served."""
    if ends is None:
        return warning("the end of the served certificate cannot be read", "write it as PEM, `BEGIN CERTIFICATE`")
    left = dt.datetime.fromtimestamp(ends, dt.UTC) - dt.datetime.now(dt.UTC)
    shown = f"the first of {number} served certificates ends on {dt.datetime.fromtimestamp(ends, dt.UTC):%Y-%m-%d}"
    if left <= dt.timedelta():
        return fault(f"{shown}: modalities refuse it", _RENEW)
    return ok(shown) if left > NOTICE else warning(shown, _RENEW)


def _authorities(path: Path | None) -> list[x509.Certificate]:
    return [] if path is None else chain(path)


def examine_names(installation: Installation) -> Finding:
    """Compare the names in the certificate with the one that modalities use, as far as it is known."""
    names = _names(chain(installation.settings.dicom.tls_certificate)[0])
    shown = f"the certificate is for {', '.join(names) or 'no host'}"
    used = installation.settings.operations.canary_host
    if used is None and installation.is_container:
        return not_checked(f"{shown}; PRELIM_CANARY_HOST does not name the address that modalities use")
    own = used or socket.gethostname()
    if any(_is_named(own, name, short=used is None) for name in names):
        return ok(shown)
    return warning(
        f"{shown}, and {'modalities use' if used else 'this machine is'} {own}",
        "order one with that name, or set PRELIM_CANARY_HOST to the name that modalities use",
    )


def _names(certificate: x509.Certificate) -> list[str]:
    """Return the DNS names and addresses of a certificate, or its common name if it has none (RFC 6125)."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return [*found.get_values_for_type(x509.DNSName), *addresses]


def _is_named(host: str, name: str, *, short: bool) -> bool:
    """Return whether a name of a certificate is that of *host*; with *short*, its first label suffices."""
    host, name = host.lower().rstrip("."), name.lower()
    if name.startswith("*."):
        return host.partition(".")[2] == name[2:]
    return host == name or (short and host.partition(".")[0] == name.partition(".")[0])


def examine_chain(installation: Installation) -> Finding:
    """Require that each certificate of the file is signed by the next one, and that the first is one for servers.

    Whether one is missing after the last is known only where its issuer is trusted, so that is named.
    """
    found = chain(installation.settings.dicom.tls_certificate)
    for signed, issuer in itertools.pairwise(found):
        try:
            signed.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError):
            return fault(
                "a certificate of the file is not signed by the one after it",
                "write the listener's own certificate first, then each authority up to the one that peers trust",
            )
    if not _is_for_servers(found[0]):
        return fault("the extended key usage of the certificate is not that of a server", "order one for servers")
    return ok(
        f"{'one certificate' if len(found) == 1 else f'{len(found)} certificates, each signed by the next'}; modalities"
        f" must trust its issuer: {found[-1].issuer.rfc4514_string()}"
    )


def _is_for_servers(certificate: x509.Certificate) -> bool:
    """Return whether clients accept a certificate as that of a server: without the extension, it is for all."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return bool({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usages))


CHECKS = (
    Check("tls", "without TLS, patient data can be read on the network", examine_loading),
    Check(
        "tls_dates", "modalities refuse a certificate that has ended, and their studies stay with them", examine_dates
    ),
    Check(
        "tls_served", "a replaced certificate is served only after SIGHUP, and the one before it ends", examine_served
    ),
    Check("tls_names", "a modality that verifies the name refuses a certificate for another one", examine_names),
    Check(
        "tls_chain",
        "a modality verifies the purpose of the certificate, and all between it and the authority that it trusts",
        examine_chain,
    ),
)
